"""The page holds the pairs safely; the file that it saves is read back, and a wrong one is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlhf_lite.data.labelling import LabellingPage, labelling_page, pair_id, read_judgements
from rlhf_lite.errors import DataError
from rlhf_lite.types import Preference
from tools.website.browser import NOT_FOUND, Browser, find_browser

PAIRS = [
    Preference("The", " film is a joy", " film is a mess", 3.0, {"agreement": 0.9}),
    Preference("", "Costs $5 & <b>more</b></script><script>alert(1)</script>", "caf\u00e9 <!-- x"),
    Preference("A", " quiet, moving work", " loud bore"),
]


def embedded(page: LabellingPage) -> dict[str, Any]:
    match = re.search(r"var DATA = (\{.*\});\n", page.html)
    assert match
    return json.loads(match.group(1))


def row(of: Preference, *, agrees: bool = True, **meta: Any) -> dict[str, Any]:
    """A line as the page's script writes it."""
    texts = (of.chosen, of.rejected) if agrees else (of.rejected, of.chosen)
    about = {"pair": pair_id(of), "judge": "", "chose_first": True, "seconds": 1.5, "question": "?", **meta}
    return {"prompt": of.prompt, "chosen": texts[0], "rejected": texts[1], "meta": about}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_the_page_holds_the_pairs_and_nothing_that_a_text_could_break() -> None:
    page = labelling_page(PAIRS, question="Which is kinder?", title="Judge & tell")
    data = embedded(page)
    assert [(p["prompt"], p["chosen"], p["rejected"]) for p in data["pairs"]] == [
        (p.prompt, p.chosen, p.rejected) for p in PAIRS
    ]
    assert [p["agreement"] for p in data["pairs"]] == [0.9, None, None]
    assert data["question"] == "Which is kinder?"
    assert page.html.count("<script>") == page.html.count("</script>") == 1
    assert "Judge &amp; tell" in page.html and "__" not in page.html.replace("__proto__", "")
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:", page.html)  # nothing is loaded
    assert page._repr_html_() == page.html


def test_places_are_drawn_and_repeat() -> None:
    many = [Preference("x", f" good {i}", f" bad {i}") for i in range(200)]
    first = [p["chosen_first"] for p in embedded(labelling_page(many, seed=1))["pairs"]]
    assert first == [p["chosen_first"] for p in embedded(labelling_page(many, seed=1))["pairs"]]
    assert first != [p["chosen_first"] for p in embedded(labelling_page(many, seed=2))["pairs"]]
    assert 70 < sum(first) < 130


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "at least one pair"),
        ([Preference("a", " b", " b ")], "same text twice"),
        ([PAIRS[0], Preference("The", " film is a mess", " film is a joy")], "0 and 1 are the same"),
    ],
)
def test_pairs_that_cannot_be_judged(pairs: list[Preference], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labelling_page(pairs)


def test_a_saved_page_is_a_whole_document(tmp_path: Path) -> None:
    path = labelling_page(PAIRS).save(tmp_path / "new" / "judge.html")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "viewport" in text and "color-scheme: light dark" in text


def test_judgements_are_read_back(tmp_path: Path) -> None:
    rows = [row(PAIRS[0]), row(PAIRS[1], agrees=False, chose_first=False), row(PAIRS[0], judge="B")]
    found = read_judgements(write(tmp_path / "j.jsonl", *rows), PAIRS)
    assert found.agrees == (True, False, True)
    assert found.agreement == found.first_share == pytest.approx(2 / 3)
    assert found.records[1].chosen == PAIRS[1].rejected
    assert found.records[0].meta["seconds"] == 1.5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(PAIRS[0]), row(PAIRS[0], agrees=False)], "row 2.*judged before"),
        ([row(PAIRS[0], pair="0123456789ab")], "row 1.*not one of the pairs"),
        ([row(PAIRS[0]), row(PAIRS[1], pair=pair_id(PAIRS[2]))], "row 2.*is not what pair"),
        ([row(PAIRS[0], chose_first="yes")], "not true or false"),
        ([{"prompt": "a", "chosen": "b"}], "missing 'rejected'"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_judgements(write(tmp_path / "j.jsonl", *rows), PAIRS)


# What a reader does, in a real browser: keys and clicks, then the text that would be saved.
ASK = """
const root = document.querySelector(".rl-judge");
const key = k => root.dispatchEvent(new KeyboardEvent("keydown", {key: k, bubbles: true}));
const cards = () => root.querySelectorAll(".rl-texts button");
const shown = [...cards()].map(card => card.lastChild.textContent);
key("1"); key("Backspace"); key("2");
cards()[0].click();
key("0");
const input = root.querySelector("input");
input.value = "ab"; input.dispatchEvent(new Event("input"));
return {shown, text: root.querySelector("textarea").value, page: root.textContent,
        href: decodeURIComponent(root.querySelector("a.rl-save").href.split(",").slice(1).join(",")),
        wide: document.documentElement.scrollWidth, inner: window.innerWidth,
        scripts: document.scripts.length};
"""


def test_a_reader_judges_in_a_browser(tmp_path: Path) -> None:
    programs = find_browser()
    if programs is None:
        pytest.skip(NOT_FOUND)
    page = labelling_page(PAIRS, seed=3)
    path = page.save(tmp_path / "judge.html")
    with Browser(programs) as browser:
        browser.view(390, 844, dark=True)
        browser.open(path.as_uri())
        found = browser.run(ASK)
        assert [entry for entry in browser.log("browser") if entry["level"] == "SEVERE"] == []
    rows = [json.loads(line) for line in found["text"].splitlines()]
    first = [p["chosen_first"] for p in embedded(page)["pairs"]]
    # Pair 1: the second text. Pair 2: the first text. Pair 3: undecided, so not in the file.
    assert [r["chosen"] for r in rows] == [
        PAIRS[0].rejected if first[0] else PAIRS[0].chosen,
        PAIRS[1].chosen if first[1] else PAIRS[1].rejected,
    ]
    assert [r["meta"]["chose_first"] for r in rows] == [False, True]
    assert {r["meta"]["judge"] for r in rows} == {"ab"}
    whole = [(PAIRS[0].prompt + text) for text in (PAIRS[0].chosen, PAIRS[0].rejected)]
    assert found["shown"] == (whole if first[0] else whole[::-1])
    agreed = (not first[0]) + first[1]
    assert f"agreed with the raters on {agreed} of 2 pairs, and could not decide on 1" in found["page"]
    assert found["href"] == found["text"]
    assert found["wide"] <= found["inner"]  # nothing sticks out on a phone
    assert found["scripts"] == 1  # the script inside a text did not become one
    (tmp_path / "saved.jsonl").write_text(found["text"], encoding="utf-8")
    assert sum(read_judgements(tmp_path / "saved.jsonl", PAIRS).agrees) == agreed
