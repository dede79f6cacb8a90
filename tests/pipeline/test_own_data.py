"""Somebody's own file: nothing is cut or lost without a word, limits come from the data, chats stay chats."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from conftest import SMALL, rows, write_rows
from tiny_models import byte_tokenizer, save_base

from rlhf_lite.config import load_config
from rlhf_lite.data.chat import pick_template, read_template, render_chats
from rlhf_lite.errors import ConfigError, DataError, PhaseError
from rlhf_lite.evaluation import eval_policy
from rlhf_lite.models.reward_model import load_reward_model
from rlhf_lite.pipeline import generate_text, run_pipeline, score_file, train_reward_file
from rlhf_lite.pipeline.dpo import run_dpo
from rlhf_lite.types import Dialogue, Message, Preference

TEMPLATE = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")


def small(base: Path, data: Path, **changes):
    values = SMALL | {"model.name": str(base), "data.source": str(data), "reward.learning_rate": 0.01}
    values |= changes
    return load_config(None, [f"{key}={value}" for key, value in values.items() if value is not None])


def open_limits(base: Path, data: Path, **changes):
    """Nothing set that the data can tell."""
    return small(base, data, **{"data.max_tokens": None, "reward.pairs": None} | changes)


def long_rows(n: int = 300) -> list[dict[str, str]]:
    return [row | {"prompt": f"At some length, please tell me about it: {row['prompt']}"} for row in rows(n)]


def recorded(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())["rows"]


def test_a_reward_model_learns_from_answers_behind_long_prompts(base, tmp_path, capsys):
    data = write_rows(tmp_path / "long.jsonl", long_rows())
    found = train_reward_file(str(data), str(base), tmp_path / "run", open_limits(base, data))
    assert found["accuracy"] > 0.9  # 0.5 where the limit cuts the answers away
    longest = max(len(r["prompt"]) + max(len(r["chosen"]), len(r["rejected"])) + 1 for r in long_rows())
    assert found["max_tokens"] in (longest, longest - 1)
    kept = recorded(tmp_path / "run")
    # All of the file, not the reviews' 960.
    assert kept["reward"]["used"] == found["n_train_pairs"] > 200
    assert kept["data"]["read"] == 300 and kept["data"]["template"] == "plain"
    told = capsys.readouterr().err
    assert f"data.max_tokens={found['max_tokens']}" in told and "reward: " in told
    # An explicit limit is obeyed: the prompt loses its beginning, and the answers stay.
    config = open_limits(base, data, **{"data.max_tokens": 24})
    again = train_reward_file(str(data), str(base), tmp_path / "short", config)
    assert again["accuracy"] > 0.9 and again["max_tokens"] == 24
    assert recorded(tmp_path / "short")["reward"]["prompts_cut"] == again["n_train_pairs"]
    scored = score_file(tmp_path / "short", str(data))
    assert scored["accuracy"] > 0.9 and scored["rows"]["prompts_cut"] == 300


def test_most_answers_too_long_is_refused_and_many_are_a_warning(base, tmp_path, capsys):
    content = [row | {"chosen": "well " * 12 + row["chosen"], "rejected": "well " * 12 + row["rejected"]}
               for row in rows()]
    most = write_rows(tmp_path / "most.jsonl", content)
    for command in (lambda out, c: train_reward_file(str(most), str(base), out, c),
                    lambda out, c: run_pipeline(c, output=out, only=["sft"], visible=False),
                    lambda out, c: run_pipeline(c, output=out, only=["dpo"], visible=False)):
        with pytest.raises(PhaseError, match=r"does not fit into 24 tokens.*set data\.max_tokens=\d+"):
            command(tmp_path / "refused", small(base, most))
    capsys.readouterr()
    many = write_rows(tmp_path / "many.jsonl", [*rows(240), *content[240:]])
    train_reward_file(str(many), str(base), tmp_path / "run", small(base, many))
    assert "warning" in capsys.readouterr().err and "warning" in recorded(tmp_path / "run")["reward"]


def test_every_phase_says_what_it_read_left_out_and_used(base, tmp_path, capsys):
    content: list[dict] = rows(400)
    for i in range(0, 400, 5):
        content[i] = {"prompt": "x", "chosen": "", "rejected": "y"}
    broken = write_rows(tmp_path / "broken.jsonl", content)
    config = small(base, broken, **{"method": "dpo", "data.on_error": "skip", "dpo.batch_size": 4})
    metrics = run_pipeline(config, output=tmp_path / "run", skip=["evaluation"])
    told = capsys.readouterr().err
    assert "320 of 400 rows kept, 80 skipped" in told and "broken.jsonl, row 1:" in told
    kept = metrics["rows"]
    assert kept["data"]["left_out"] == {"a broken row": 80} and kept["data"]["used"] == 320
    for phase in ("sft", "dpo"):
        assert kept[phase]["read"] == kept[phase]["used"] == json.loads(
            (tmp_path / "run" / phase / "phase.json").read_text())["rows"]["used"]
        assert f"{phase}: {kept[phase]['read']} read" in told
    with pytest.raises(DataError, match=r"row 1: .*data\.on_error=skip leaves such rows out"):
        run_pipeline(small(base, broken), output=tmp_path / "stops", only=["sft"], visible=False)
    with pytest.raises(DataError, match="--on-error skip leaves such rows out"):
        score_file(tmp_path, str(broken))


def test_limits_hold_by_themselves_and_take_a_spread(base, tmp_path, monkeypatch):
    data = write_rows(tmp_path / "pairs.jsonl", rows(600))
    asked: dict[str, list] = {}

    def seen(run, policy, adapters, pairs, **_):
        asked[run.output.name] = pairs

    monkeypatch.setattr("rlhf_lite.pipeline.dpo.train_on_pairs", seen)
    for name, limit in (("all", None), ("some", 100)):
        config = small(base, data, **{"dpo.pairs": limit, "reward.pairs": 16})
        (tmp_path / name).mkdir()
        from rlhf_lite.pipeline.context import Run

        run_dpo(Run(config, tmp_path / name, visible=False))
    assert len(asked["all"]) > 250 and len(asked["some"]) == 100
    end = asked["all"][-1].prompt_ids
    place = [pair.prompt_ids for pair in asked["all"]].index(asked["some"][-1].prompt_ids)
    assert end and place > 0.9 * len(asked["all"])


def test_an_epoch_of_kto_sees_both_answers_of_every_pair(base, data, tmp_path):
    changes = {"method": "dpo", "dpo.loss": "kto", "dpo.pairs": 8, "dpo.batch_size": 4}
    metrics = run_pipeline(small(base, data, **changes), output=tmp_path, only=["dpo"], visible=False)
    assert metrics["rows"]["dpo"]["used"] == 8 and metrics["steps"]["dpo"] == 2 * 8 // 4


def test_the_reviews_keep_their_sizes_and_a_file_has_none():
    config = load_config(None, [])
    assert (config.data.max_tokens, config.reward.pairs, config.dpo.pairs) == (40, 960, 960)
    other = config.on_file("pairs.jsonl", model="m")
    assert (other.data.max_tokens, other.reward.pairs, other.dpo.pairs) == (None, None, None)
    assert (other.data.source, other.model.name) == ("pairs.jsonl", "m")
    given = load_config(None, ["data.max_tokens=32", "reward.pairs=7"]).on_file("pairs.jsonl")
    assert (given.data.max_tokens, given.reward.pairs) == (32, 7)


def test_a_limit_above_the_window_is_refused(base, data, tmp_path):
    with pytest.raises(PhaseError, match=r"got 4000, but the model reads 128 .*max_tokens=128"):
        train_reward_file(str(data), str(base), tmp_path, small(base, data, **{"data.max_tokens": 4000}))


def test_a_file_without_prompts_gives_sft_its_rows(base, tmp_path):
    words = "abcdefghijklmnopqrstuvwxyz"
    content = [{"prompt": "", "chosen": f"{words[i % 26]}{i} good", "rejected": f"{words[i % 26]}{i * 7} bad"}
               for i in range(300)]
    data = write_rows(tmp_path / "bare.jsonl", content)
    metrics = run_pipeline(small(base, data), output=tmp_path / "run", only=["sft"], visible=False)
    assert metrics["rows"]["sft"]["used"] > 100


# --- Chats


def chat_base(folder: Path) -> Path:
    save_base(folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


TALK = Preference("", "", "", dialogue=Dialogue((Message("user", "Hi"),), Message("assistant", "good"),
                                               Message("assistant", "bad")))


def test_the_template_is_picked_by_model_and_rows():
    plain, chat = byte_tokenizer(), byte_tokenizer()
    chat.chat_template = TEMPLATE
    text = Preference("p", " a", " b")
    assert pick_template("auto", chat, [TALK, TALK]) == "chat"
    assert pick_template("auto", chat, [TALK, text]) == "plain"
    assert pick_template("auto", plain, [TALK]) == "plain" == pick_template("plain", chat, [TALK])
    with pytest.raises(ConfigError, match="no chat template"):
        pick_template("chat", plain, [TALK])
    talk, asked = render_chats([TALK, text], chat, "chat")
    # The end of turn is the end token, which training appends, and no reward model reads.
    assert (talk.prompt, talk.chosen, talk.rejected) == ("<user>Hi<end>\n<assistant>", "good", "bad")
    assert (asked.prompt, asked.chosen) == ("<user>p<end>\n<assistant>", "a")


def test_a_chat_is_trained_scored_and_continued_by_the_models_template(tmp_path, capsys, monkeypatch):
    base = chat_base(tmp_path / "base")
    content = [{"chosen": f"\n\nHuman: {r['prompt']}\n\nAssistant:{r['chosen']}",
                "rejected": f"\n\nHuman: {r['prompt']}\n\nAssistant:{r['rejected']}"} for r in rows(240)]
    data = write_rows(tmp_path / "chats.jsonl", content)
    config = open_limits(base, data)
    metrics = run_pipeline(config, output=tmp_path / "run")
    shown = "<user>film 0 was<end>\n<assistant>good"
    assert metrics["rows"]["data"]["first"] == shown and shown in capsys.readouterr().err
    report = (tmp_path / "run" / "report.md").read_text()
    assert "in the model's chat template" in report and shown in report
    assert f"reward model: {metrics['rows']['reward']['read']} read" in report
    model = load_reward_model(tmp_path / "run" / "reward" / "adapter")
    assert model.template == "chat"
    assert [read_template(tmp_path / "run" / phase / "adapter") for phase in ("sft", "ppo")] == ["chat"] * 2
    sampled = json.loads((tmp_path / "run" / "samples.jsonl").read_text().splitlines()[0])["prompt"]
    assert sampled.startswith("<user>film") and sampled.endswith("<end>\n<assistant>")
    seen: list[str] = []
    whole = type(model).score_texts
    monkeypatch.setattr(type(model), "score_texts", lambda self, texts, *a, **k: (
        seen.extend(texts), whole(self, texts, *a, **k))[1])
    score_file(tmp_path / "run", str(data))
    assert seen[0] == shown
    asked: list[str] = []
    encode = eval_policy.encode_prompts
    monkeypatch.setattr(eval_policy, "encode_prompts", lambda t, p, **k: (
        asked.extend(p), encode(t, p, **k))[1])
    options = {"max_new_tokens": 4, "temperature": 1.0, "samples": 1, "seed": 0}
    generate_text(str(tmp_path / "run"), "film 3 was", **options)
    generate_text(str(base), "film 3 was", **options)
    assert asked == ["<user>film 3 was<end>\n<assistant>", "film 3 was"]


@pytest.mark.slow
def test_dialogues_of_hh_form_are_learned_with_nothing_set(tmp_path):
    """The real model, 96 pairs: cut at the reviews' 40 tokens, no answer would be left, and accuracy 0.5."""
    from benchmarks.own_data import dialogue, write
    from rlhf_lite.data import load_ratings, make_pairs, split_ratings

    splits, draw = split_ratings(load_ratings("movie")), random.Random(0)
    files = {}
    for name, ratings, n in (("train", [*splits["train"], *splits["test"]], 112),
                             ("test", splits["validation"], 64)):
        pairs = make_pairs(ratings, n=n, min_gap=2.0, prompt_words=0)
        talks = [dialogue(pair, splits["gold"], draw, median=130, spread=0.3) for pair in pairs]
        files[name] = write(tmp_path / f"{name}.jsonl", talks)
    config = load_config(None, ["reward.batch_size=8", "reward.warmup_steps=2"])
    found = train_reward_file(files["train"], None, tmp_path / "run", config)
    assert found["max_tokens"] > 80 and recorded(tmp_path / "run")["reward"]["answers_cut"] <= 2
    assert score_file(tmp_path / "run", files["test"])["accuracy"] > 0.65
