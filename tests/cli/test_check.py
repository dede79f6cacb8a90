"""``rlhf-lite check``: every defect that was planted in a file is told, and a sound file has none."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import save_base

Check = Callable[..., tuple[int, str, str]]
GOOD, BAD = ("good", "fine", "nice", "cool"), ("dull", "poor", "drab", "lame")


def rows(n: int = 240) -> list[dict[str, Any]]:
    """A sound file: neither length nor alphabet tells who is better, and nothing repeats."""
    chooser = random.Random(0)
    content = []
    for i in range(n):
        film, tail = f"film {i}", " indeed" * chooser.randrange(3)
        words = [f" {chooser.choice('abcdefgh')} {kind} one{end}" for kind, end in
                 ((chooser.choice(GOOD), tail), (chooser.choice(BAD), " indeed" * chooser.randrange(3)))]
        content.append({"prompt": f"How was {film}?", "chosen": words[0], "rejected": words[1]})
    return content


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, command_line: Check) -> Check:
    """``check(rows, *options)`` writes the rows and checks them: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "300")

    def call(content: list[dict[str, Any]], *options: str) -> tuple[int, str, str]:
        Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return command_line("check", "pairs.jsonl", *options)

    return call


@pytest.fixture
def found(check: Check) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    def call(content: list[dict[str, Any]]) -> dict[str, Any]:
        code, out, _ = check(content, "--json")
        assert code == 0
        return json.loads(out)

    return call


def test_a_sound_file_has_no_warnings(check, found) -> None:
    content = rows()
    report = found(content)
    assert report["warnings"] == []
    assert report["file"]["format"] == "JSON lines" and report["file"]["forms"] == {"explicit": 240}
    assert report["rows"] | {"reasons": None} == {
        "read": 240, "kept": 240, "skipped": 0, "reasons": None, "other_reasons": 0}
    assert report["example"] == content[0]
    prompts = sorted(len(row["prompt"]) for row in content)
    assert report["characters"]["prompt"] == {
        "median": prompts[119], "p90": prompts[215], "p99": prompts[237], "longest": prompts[-1]}
    assert sum(report["splits"]["run"]["pairs"].values()) == 240
    assert set(report["splits"]["reward"]["pairs"]) == {"train", "test"}
    for cue in report["cues"].values():
        assert cue["ci95"][0] < 0.5 < cue["ci95"][1]
    code, out, _ = check(content)
    assert code == 0
    for part in ("pairs.jsonl", "240 of prompt and answers", content[0]["chosen"], "99 %", "No warnings",
                 "test"):
        assert part in out


def planted(index: int, **change: Any) -> list[dict[str, Any]]:
    content = rows()
    content[index] |= change
    return content


def more(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    content = rows()
    return content + [content[i] | change for i, change in enumerate(changes)]


SWAPPED = {"chosen": rows()[0]["rejected"], "rejected": rows()[0]["chosen"]}


@pytest.mark.parametrize(
    ("content", "warning", "place", "value"),
    [
        (planted(7, rejected=""), "1 of 240 rows cannot be used", ("rows", "skipped"), 1),
        (planted(7, chosen=None), "1 of 240 rows cannot be used", ("rows", "skipped"), 1),
        (planted(7, rejected=rows()[7]["chosen"]), "1 of 240 rows cannot", ("rows", "skipped"), 1),
        (planted(7, rejected=rows()[7]["chosen"].upper() + "!"), "1 rows have two", ("repeats", "equal"), 1),
        (more({}, {}), "2 rows repeat an earlier row", ("repeats", "repeated"), 2),
        (more(SWAPPED), "2 rows contradict each other", ("repeats", "both_ways"), 1),
        ([row | {"chosen": row["chosen"] + " and so on"} for row in rows()], "the longer answer is the",
         ("openings",), []),
        ([row | {"rejected": row["rejected"] + " and so on"} for row in rows()], "the shorter answer is the",
         ("rows", "kept"), 240),
        ([row | {"chosen": " !" + row["chosen"]} for row in rows()], "the alphabetically first answer",
         ("openings",), []),
        ([row | {"chosen": " Sure, " + row["chosen"]} for row in rows()], "begin with 'sure ",
         ("rows", "kept"), 240),
        (planted(7, prompt="", chosen="b", rejected=" c"), "", ("repeats", "run_together"), 0),
        (planted(7, margin=0), "1 rows have equal ratings", ("repeats", "tied"), 1),
        (planted(7, chosen_rating=4, rejected_rating=4), "1 rows have equal", ("repeats", "tied"), 1),
        (planted(7, rejected=" NaN"), "1 rows have an answer such as 'nan'", ("repeats", "no_value"), 1),
        (planted(7, chosen="#NAME?"), "such as", ("repeats", "no_value"), 1),
        (planted(7, chosen=" None of them"), "", ("repeats", "no_value"), 0),
        (planted(7, chosen="good"), "1 rows have no space", ("repeats", "run_together"), 1),
        (rows(5), "leaves", ("rows", "kept"), 5),
    ],
)  # fmt: skip
def test_what_was_planted_is_told(found, content, warning: str, place: tuple[str, ...], value: Any) -> None:
    report = found(content)
    assert not warning or any(warning in line for line in report["warnings"]), report["warnings"]
    at = report
    for key in place:
        at = at[key]
    assert at == value


def test_the_first_reasons_and_unused_columns_are_shown(check) -> None:
    content = [row | {"id": i} for i, row in enumerate(rows())]
    for i in (3, 4):
        content[i]["chosen"] = ""
    code, out, _ = check(content)
    assert code == 0
    for part in ("2 x pairs.jsonl, row 4: field 'chosen' is empty", "Not used", "id", "238 can be used"):
        assert part in out


def test_the_split_says_what_it_leaves_out(found) -> None:
    chooser = random.Random(0)
    texts = [f"text number {i}" for i in range(60)]
    drawn = [sorted(chooser.sample(range(60), 2)) for _ in range(900)]
    report = found([{"prompt": "", "chosen": texts[a], "rejected": texts[b]} for a, b in drawn])
    split = report["splits"]["run"]
    assert (split["groups"], split["largest"]) == (1, 900)
    assert f"{split['crossing']} pairs left out" in split["summary"]


def test_nothing_usable_ends_with_2(check) -> None:
    code, out, err = check([{"prompt": "a", "chosen": "", "rejected": "b"}])
    assert (code, out) == (2, "") and "no usable row" in err
    code, _, err = check([])
    assert code == 2 and "Error" in err


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny model that has a chat template; a byte is a token."""
    folder = save_base(tmp_path_factory.mktemp("model") / "base")
    place = folder / "tokenizer_config.json"
    template = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
                "{% if add_generation_prompt %}<assistant>{% endif %}")
    place.write_text(json.dumps(json.loads(place.read_text()) | {"chat_template": template}))
    return folder


def test_a_model_shows_its_tokens_template_and_limit(check, base) -> None:
    content = rows()
    content[0]["chosen"] += " at length" * 12
    code, out, _ = check(content, "--json", "--model", str(base))
    report = json.loads(out)
    assert code == 0 and report["template"] == "plain"
    assert report["rendered"] == content[0]["prompt"] + content[0]["chosen"]
    assert report["tokens"] == report["characters"]
    assert report["max_tokens"] < 100 and "data.max_tokens" in report["limit"]
    assert report["fit"]["read"] == 240 and report["fit"]["answers_cut"] == 1
    questions = [{"question": row.pop("prompt"), **row} for row in content]
    report = json.loads(check(questions, "--json", "--model", str(base))[1])
    assert report["template"] == "chat"
    asked, answer = questions[0]["question"], questions[0]["chosen"].strip()
    assert report["rendered"] == f"<user>{asked}<assistant>{answer}"
    code, out, _ = check(questions, "--model", str(base), "data.max_tokens=30")
    assert code == 0 and "As chat template" in out and "data.max_tokens=30" in out
    assert "an answer that does not fit into 30 tokens" in out
