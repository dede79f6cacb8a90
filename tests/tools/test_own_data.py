"""The page "Your own data": its parts come from the code, its commands work, its messages exist."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer, save_base

from benchmarks import example_files
from rlhf_lite import cli
from tools.own_data import EXAMPLES, PAGE, PARTS, REFUSED, forms_part, policy_part, refused_part, results_part
from tools.stage import stage
from tools.state import REPOSITORY

TEXT = (REPOSITORY / PAGE).read_text(encoding="utf-8")
TEMPLATE = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")
# What makes a command quick. The last value of an option and of a setting counts.
SMALL = ["model.precision=fp32", "lora.rank=2", "lora.top_layers=2", "data.max_tokens=420", "sft.steps=2",
         "sft.batch_size=4", "reward.pairs=16"]
RUN = [*SMALL, "dpo.pairs=16", "evaluation.prompts=4", "evaluation.gold_texts=20", "ppo.steps=1",
       "ppo.prompts_per_step=4", "evaluation.max_new_tokens=4", "ppo.max_new_tokens=4"]
QUICK = {"reward": SMALL, "dpo": RUN, "pipeline": RUN, "generate": ["--max-new-tokens", "4"],
         "eval": ["--max-new-tokens", "4", "--limit", "4"]}


def commands() -> list[list[str]]:
    """Every line of the page's shell blocks, as words."""
    blocks = re.findall(r"^```bash\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.slow
def test_the_commands_work_in_the_order_of_the_page(tmp_path, monkeypatch, capsys) -> None:
    """As typed, but for a tiny model, a small file and few steps."""
    monkeypatch.chdir(tmp_path)
    for name in ("bundled", "my-model"):
        save_base(Path(name), max_position_embeddings=512)
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(name)
    monkeypatch.setattr("rlhf_lite.models.names.ensure_model", lambda: tmp_path / "bundled")
    monkeypatch.setattr(example_files, "PAIRS", {"": 160, "fresh-": 24})
    (settings,) = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    Path(settings[0]).write_text(settings[1], encoding="utf-8")
    seen = []
    for words in commands():
        if words[:2] == ["python", "-m"]:
            monkeypatch.setattr(sys, "argv", words[2:])
            assert words[2] == "benchmarks.example_files"
            example_files.main()
            continue
        assert words[0] == "rlhf-lite", words
        if "mine=my-adapter" in words or "my-adapter" in words:
            shutil.copytree("runs/my-model-dpo/dpo/adapter", "my-adapter", dirs_exist_ok=True)
        monkeypatch.setattr(sys, "argv", [*words, *QUICK.get(words[1], [])])
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code, f"{shlex.join(words)}\n{capsys.readouterr().err}"
        seen.append(words[1])
    assert {"check", "reward", "score", "dpo", "generate", "pipeline", "eval"} == set(seen)
    assert all((tmp_path / "runs" / name / "report.html").is_file()
               for name in ("my-dpo", "mine", "my-comparison", "my-adapter-report"))


def test_every_command_of_the_page_is_one() -> None:
    """Also those within sentences and tables."""
    known = {command.name or command.callback.__name__ for command in cli.app.app.registered_commands}
    named = set(re.findall(r"rlhf-lite ([a-z]+)\b", TEXT))
    assert named and named <= known


# --- Messages


def written_in_the_package() -> list[str]:
    """Every text in the package's code, with one blank for what is filled in."""
    texts = []
    for path in (REPOSITORY / "rlhf_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else " "
                                     for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_the_messages_of_the_table_are_those_of_the_code() -> None:
    rows = TEXT.split("| the message holds |")[1].split("\n\n")[0].splitlines()[2:]
    texts = written_in_the_package()
    assert len(rows) >= 12
    for row in rows:
        message = re.match(r"\| `([^`]+)` \|", row)
        assert message and any(message[1] in text for text in texts), row


# --- Parts


def test_the_page_includes_every_part_once() -> None:
    included = re.findall(r"^```\{include\} _parts/own-data/(\w+)\.md\n```$", TEXT, flags=re.MULTILINE)
    assert sorted(included) == sorted(PARTS)


def test_the_forms_are_those_of_the_reader() -> None:
    from typing import get_args

    from rlhf_lite.data.files.formats import Form

    assert set(EXAMPLES) == set(get_args(Form))
    text = forms_part(REPOSITORY)
    assert text.count("```json") == len(EXAMPLES) and "`rejected_response`" in text


def test_the_two_forms_of_a_conversation_are_one(tmp_path: Path) -> None:
    from rlhf_lite.data import load_preferences, load_ratings, make_pairs

    pairs = make_pairs(load_ratings("movie"), n=50)
    example_files.write_files(tmp_path, {"": pairs})
    one, other = (load_preferences(tmp_path / f"{form}.jsonl").records for form in ("messages", "transcript"))
    assert [row.dialogue for row in one] == [row.dialogue for row in other]
    assert [(row.prompt, row.chosen) for row in one] == [(row.prompt, row.chosen) for row in other]


def test_what_is_refused_is_shown_with_its_message() -> None:
    text = refused_part(REPOSITORY)
    assert text.count("\n") == len(REFUSED) + 2
    assert "| An answer is empty | `pairs.jsonl, row 1: field 'rejected' is empty (received ' ')." in text


def record(**more: Any) -> dict[str, Any]:
    machine = {"cpu": "A processor", "physical_cores": 2, "memory_gb": 16.0}
    place = {"commit": "0123456789abcdef", "versions": {"torch": "2.13.0"}, "hardware": machine}
    return {"seed": 0} | place | more


def write(root: Path, name: str, content: dict[str, Any]) -> None:
    folder = root / "results" / "own_data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_results_are_those_of_the_files(tmp_path: Path) -> None:
    assert "Nothing is recorded" in results_part(tmp_path) and "Nothing is recorded" in policy_part(tmp_path)
    rows = {"read": 1100, "left_out": {"a broken row": 3}, "prompts_cut": 7, "answers_cut": 0, "used": 1097,
            "max_tokens": 61}
    found = {"accuracy": 0.876, "ci95": [0.84, 0.91], "n_pairs": 200, "max_tokens": 61, "seconds": 150.0,
             "rows": {"data": {"template": "chat"}, "reward": rows}}
    for name, seed in (("dialogues", 1), ("dialogues", 0), ("messages", 0)):
        write(tmp_path, f"{name}-seed{seed}.json", record(file=name, **found) | {"seed": seed})
    text = results_part(tmp_path).replace("\u00a0", " ")
    line = ("| chat template | 1,100 read, 3 left out (a broken row), 7 prompts lost their beginning at 61 "
            "tokens, 1,097 used | 0 | 0.876 (0.840 to 0.910) | 200 | 61 | 2.5 |")
    assert [row.split()[1] for row in text.splitlines()[2:5]] == ["messages", "dialogues", "dialogues"]
    assert f"| messages {line}" in text and f"| dialogues {line}" in text and "A processor" in text
    policy = {"gold_reward": 0.25, "kl_nats_per_seq": 3.21, "length_tokens": 12.3, "distinct_2": 0.9}
    write(tmp_path, "policy-seed0.json", record(
        policies={"sft": policy, "dpo": policy}, seconds={"total": 240},
        gold_judge={"n_fitted": 325, "pair_accuracy": 0.71, "pair_accuracy_ci95": [0.6, 0.8]},
        comparisons={"dpo_minus_sft": {"n_prompts": 77, "gold_reward": 0.5, "gold_ci95": [0.3, 0.7]}}))
    text = policy_part(tmp_path).replace("\u00a0", " ")
    assert "| dpo | +0.25 | 3.2 | 12.3 | 0.90 |" in text
    assert "DPO's score minus SFT's is +0.50" in text and "+0.30 to +0.70" in text and "325 pairs" in text


def test_no_part_without_the_page(tiny_repo: Path) -> None:
    assert not (stage(tiny_repo) / "book" / "_parts").exists()


@pytest.mark.slow
def test_the_parts_are_staged_with_the_page(tiny_repo: Path) -> None:
    for name in (PAGE, "benchmarks/example_files.py"):
        (tiny_repo / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tiny_repo / name)
    parts = stage(tiny_repo) / "book" / "_parts" / "own-data"
    assert {path.stem for path in parts.iterdir()} == set(PARTS)
    flawed = (parts / "flawed.md").read_text(encoding="utf-8")
    for warning in ("cannot be used", "contradict each other", "repeat an earlier row", "the longer answer"):
        assert warning in flawed, flawed
    assert "<|im_start|>user" in (parts / "check.md").read_text(encoding="utf-8")
