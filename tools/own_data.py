"""The parts of the page "Your own data" that code makes: forms, refusals, outputs, settings and results.

The readers themselves say what they understand of each example, and what they refuse; the outputs are those
of the command; the numbers are those of recorded runs. None of it can go stale.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.example_files import FLAWED, FORMS, review_pairs, write_files
from rlhf_lite.cli.app import app
from rlhf_lite.config import load_config
from rlhf_lite.data import load_preferences, preferences_from_rows
from rlhf_lite.data.files.columns import ANSWERS, PROMPTS, RATINGS, SYSTEMS
from rlhf_lite.data.files.kinds import EXTENSIONS
from rlhf_lite.data.row_counts import rows_line
from rlhf_lite.errors import DataError
from rlhf_lite.files import write_json_lines
from rlhf_lite.types import Preference
from tools.measured import TO, machines, table

PAGE = "book/your-own-data.md"
ESCAPED = "\\|"  # in a cell of a table
WIDTH = 84  # of an output, so that it fits beside the navigation

# What a form is, by its name in the code, with two rows.
_TWO = (Preference("The film", " is a quiet joy.", " is far too long."),
        Preference("The cast", " is splendid.", " sleeps through it all."))
_TALK = (("How is the film?", "A quiet joy.", "Too long."), ("And the cast?", "Splendid.", "Half asleep."))


def _as_turns(question: str, *answers: str) -> dict[str, Any]:
    good, bad = ([{"role": "assistant", "content": text}] for text in answers)
    return {"prompt": [{"role": "user", "content": question}], "chosen": good, "rejected": bad}


def _as_text(question: str, *answers: str) -> dict[str, Any]:
    good, bad = (f"\n\nHuman: {question}\n\nAssistant: {text}" for text in answers)
    return {"chosen": good, "rejected": bad}


EXAMPLES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "explicit": ("Three texts, joined as they are: mind the space at the beginning of an answer.",
                 [FORMS["explicit"](pair) for pair in _TWO]),
    "implicit": ("Two whole texts. The prompt is what both begin with, whole words only, so it may come out "
                 "longer than the one you had in mind.", [FORMS["implicit"](pair) for pair in _TWO]),
    "question": ("A question and two answers to it. They become a conversation.",
                 [dict(zip(("question", "chosen", "rejected"), row, strict=True)) for row in _TALK]),
    "conversation": ("Lists of turns, each with its role. Only the last turn may differ. The prompt may also "
                     "stand at the beginning of both lists.", [_as_turns(*row) for row in _TALK]),
    "transcript": ("Two whole conversations as text, as in Anthropic's HH-RLHF.",
                   [_as_text(*row) for row in _TALK])}

# What is refused: why, and a row that shows it.
_GOOD = {"prompt": "The film", "chosen": " is a quiet joy.", "rejected": " is too long."}
_TURN = {"role": "user", "content": "How was it?"}
REFUSED: dict[str, dict[str, Any]] = {
    "The answers are not found": {"prompt": "The film", "good": " is a quiet joy.", "bad": " is too long."},
    "A column may be the prompt, but its name does not say so": {
        "asked_by_user": "How was the film?", "chosen": "A quiet joy.", "rejected": "Too long."},
    "An answer is empty": _GOOD | {"rejected": " "},
    "Both answers are the same: such a row teaches nothing": _GOOD | {"rejected": _GOOD["chosen"]},
    "The ratings say the opposite": _GOOD | {"chosen_rating": 1, "rejected_rating": 3},
    "A conversation does not end with an answer": {"chosen": [_TURN], "rejected": [_TURN]},
    "Two conversations differ before the last turn": {
        name: [_TURN | {"content": f"{start}?"}, {"role": "assistant", "content": text}]
        for name, start, text in (("chosen", "How was it", "Good."), ("rejected", "What was it", "A film."))},
}


def forms_part(root: Path) -> str:
    """The forms with two rows each, what was understood of the first one, and the names of columns."""
    text = ""
    for form, (sentence, rows) in EXAMPLES.items():
        read = preferences_from_rows(rows)
        if set(read.report.forms) != {form}:
            raise SystemExit(f"{PAGE}: the rows for {form!r} are read as {dict(read.report.forms)}")
        first = read.records[0]
        lines = "\n".join(json.dumps(row) for row in rows)
        text += (f"**{form.capitalize()}.** {sentence}\n\n```json\n{lines}\n```\n\n"
                 f"Understood of the first line: prompt `{first.prompt!r}`, chosen `{first.chosen!r}`, "
                 f"rejected `{first.rejected!r}`.\n\n")
    names = [("The prompt", _names(PROMPTS)), ("A system text before it", _names(SYSTEMS)),
             ("The preferred answer, and the other one", "; ".join(_names(pair) for pair in ANSWERS)),
             ("People's ratings of both, or their difference", f"{_names(RATINGS)}; `margin`")]
    endings = ", ".join(f"`{ending}`" for ending in EXTENSIONS)
    return (f"{text}Columns are found by these names, whatever their capitals:\n\n"
            f"{table(('column', 'names'), names, left=2)}\n"
            f"A file's name ends in {endings}; all of them but Parquet may be packed, with `.gz` at the end. "
            "A folder that `Dataset.save_to_disk` made can be named too, and so can a data set on the Hub.\n")


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def refused_part(root: Path) -> str:
    """What is refused, each with the message that a row of that kind gets."""
    lines = []
    for why, row in REFUSED.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pairs.jsonl"
            write_json_lines(file, [row])
            try:
                load_preferences(str(file), skip_with=None)
            except DataError as error:
                lines.append((why, f"`{str(error).replace('|', ESCAPED)}`"))
            else:
                raise SystemExit(f"{PAGE}: the row for {why!r} is not refused any more")
    return table(("what is wrong", "what you are told"), lines, left=2)


def code_part(root: Path) -> str:
    """The functions that write the four forms."""
    text = (root / "benchmarks" / "example_files.py").read_text(encoding="utf-8")
    return f"```python\n{text.split('# [forms]')[1].split('# [end]')[0].strip()}\n```\n"


def check_part(root: Path) -> str:
    """What ``rlhf-lite check`` prints of one of the example files."""
    return _printed("check", "my-data/messages.jsonl", "--model", "smollm2")


def flawed_part(root: Path) -> str:
    """The warnings of ``rlhf-lite check`` about a file with planted faults."""
    text = _printed("check", f"my-data/{FLAWED}.jsonl")
    head, _, warnings = text.partition("Warning:")
    return f"{head.splitlines()[0]}\nWarning:{warnings}"


@cache  # a build stages twice
def _printed(*arguments: str) -> str:
    out, terminal = io.StringIO(), {"COLUMNS": str(WIDTH), "FORCE_COLOR": ""}
    with (tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), redirect_stdout(out),
          patch.dict(os.environ, terminal)):
        write_files(Path("my-data"), review_pairs())
        app(args=list(arguments), standalone_mode=False)
    return "```text\n" + "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip() + "\n```\n"


def defaults_part(root: Path) -> str:
    """The settings that decide most, as a run on a file has them."""
    config = load_config(None, []).on_file("my-data/messages.jsonl")
    lines = []
    for key in ("data.max_tokens", "data.template", "data.on_error", "reward.pairs", "reward.batch_size",
                "reward.epochs", "dpo.pairs", "dpo.beta", "sft.steps", "ppo.steps", "lora.rank",
                "lora.top_layers", "model.precision", "evaluation.prompts", "evaluation.gold_texts"):
        section, name = key.split(".")
        values = getattr(config, section)
        lines.append((f"`{key}`", f"`{json.dumps(getattr(values, name))}`",
                      str(type(values).model_fields[name].description)))
    return table(("setting", "default", "what it is"), lines, left=3)


# --- Recorded runs

_NOTHING = "Nothing is recorded yet.\n"
_ORDER = [*FORMS, "bare", "dialogues"]


def results_part(root: Path) -> str:
    """The reward models of ``benchmarks/own_data.py``, a row for each file and seed."""
    records = [record for record in _records(root, "*-seed*.json") if "accuracy" in record]
    if not records:
        return _NOTHING
    lines = []
    for record in sorted(records, key=lambda one: (_ORDER.index(one["file"]), one["seed"])):
        low, high = record["ci95"]
        chat = record["rows"]["data"]["template"] == "chat"
        lines.append((record["file"], "chat template" if chat else "plain text",
                      rows_line(record["rows"]["reward"]), f"{record['seed']}",
                      f"{record['accuracy']:.3f} ({low:.3f}{TO}{high:.3f})", f"{record['n_pairs']}",
                      f"{record['max_tokens']}", f"{record['seconds'] / 60:.1f}"))
    head = ("file", "written as", "training rows", "seed", "accuracy (95 % interval)", "fresh pairs",
            "limit, tokens", "minutes")
    return table(head, lines, left=3) + machines(records)


def policy_part(root: Path) -> str:
    """The policy that DPO made of one example file, and what judged it."""
    records = _records(root, "policy-seed*.json")
    if not records:
        return _NOTHING
    text = ""
    for record in records:
        rows = [(name, f"{policy['gold_reward']:+.2f}", f"{policy['kl_nats_per_seq']:.1f}",
                 f"{policy['length_tokens']:.1f}", f"{policy['distinct_2']:.2f}")
                for name, policy in record["policies"].items()]
        judge, gain = record["gold_judge"], record["comparisons"]["dpo_minus_sft"]
        (low, high), (least, most) = gain["gold_ci95"], judge["pair_accuracy_ci95"]
        text += table(("policy", "own judge", "KL, nats", "tokens", "distinct-2"), rows)
        text += (f"\nOn {gain['n_prompts']} unseen prompts, DPO's score minus SFT's is "
                 f"{gain['gold_reward']:+.2f} by the run's own judge (95 % interval {low:+.2f}{TO}"
                 f"{high:+.2f}). That judge was fitted to {judge['n_fitted']} pairs kept aside, and ranks "
                 f"{judge['pair_accuracy']:.3f} of the test pairs as people did (95 % interval {least:.3f}"
                 f"{TO}{most:.3f}). Seed {record['seed']}, {record['seconds']['total'] / 60:.1f} minutes.\n")
    return text + machines(records)


def _records(root: Path, pattern: str) -> list[dict[str, Any]]:
    files = sorted((root / "results" / "own_data").glob(pattern))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


PARTS: Mapping[str, Callable[[Path], str]] = {
    "forms": forms_part, "refused": refused_part, "code": code_part, "check": check_part,
    "flawed": flawed_part, "defaults": defaults_part, "results": results_part, "policy": policy_part}


def own_data_parts(root: Path) -> dict[str, str]:
    """The parts by the path at which the page includes them; none where there is no such page."""
    if not (root / PAGE).is_file():
        return {}
    return {f"book/_parts/own-data/{name}.md": part(root) for name, part in PARTS.items()}
