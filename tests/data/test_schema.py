"""Every form of preference file, read into one schema."""

from __future__ import annotations

import csv
import gzip
import json
import string
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_lite.data.files.columns import ANSWERS
from rlhf_lite.data.files.formats import common_opening
from rlhf_lite.data.files.schema import load_preferences, preferences_from_rows, save_preferences
from rlhf_lite.data.formatting import plain_text
from rlhf_lite.errors import DataError
from rlhf_lite.types import Dialogue, Message, Preference

ROWS: list[dict[str, Any]] = [
    {
        "prompt": "The film",
        "chosen": " is \u00e9patant.",
        "rejected": ' is "dull",\nand long.',
        "margin": 1.5,
    },
    {"prompt": "A work", "chosen": " of art", "rejected": " of spite", "margin": 0.25},
]
EXPECTED = [Preference(r["prompt"], r["chosen"], r["rejected"], r["margin"]) for r in ROWS]


def json_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the form that the name asks for."""
    if path.name.endswith(".gz"):
        plain = path.with_suffix("")
        write(plain, rows)
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif path.suffix == ".csv":
        write_csv(path, rows)
    elif path.suffix == ".tsv":
        write_csv(path, rows, "\t")
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == "":
        import datasets

        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    elif path.name.endswith("list.json"):
        path.write_bytes(json.dumps(rows, indent=1).encode())
    else:
        path.write_bytes(json_lines(rows))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "p.jsonl", "p.JSONL", "p.ndjson", "p.json", "list.json", "p.csv", "p.tsv", "p.parquet", "folder",
        "p.jsonl.gz", "list.json.gz", "p.csv.gz",
    ],
)  # fmt: skip
def test_every_container(tmp_path: Path, name: str) -> None:
    data = load_preferences(write(tmp_path / name, ROWS))
    assert data.records == EXPECTED
    assert (data.report.read, data.report.kept, data.report.skipped) == (2, 2, ())
    assert data.report.source == name


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "list.json"])
def test_byte_order_mark_and_windows_line_ends(tmp_path: Path, name: str) -> None:
    rows = ROWS[1:]
    path = write(tmp_path / name, rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert load_preferences(path).records == EXPECTED[1:]


# --- forms ----------------------------------------------------------------------------------------

USER = {"role": "user", "content": "Hi there"}
GOOD = {"role": "assistant", "content": "Hello"}
BAD = {"role": "assistant", "content": "What"}
TALK = Preference(
    "\n\nHuman: Hi there\n\nAssistant:",
    " Hello",
    " What",
    dialogue=Dialogue(
        (Message("user", "Hi there"),), Message("assistant", "Hello"), Message("assistant", "What")
    ),
)


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Hi there", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Hi there", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": "Hello", "rejected": "What"},
        {"chosen": {"messages": [USER, GOOD]}, "rejected": {"messages": [USER, BAD]}},
        {
            "chosen": [{"from": "human", "value": "Hi there"}, {"from": "gpt", "value": "Hello"}],
            "rejected": [{"from": "human", "value": "Hi there"}, {"from": "gpt", "value": "What"}],
        },
        {
            "chosen": "\n\nHuman: Hi there\n\nAssistant: Hello",
            "rejected": "\n\nHuman: Hi there\n\nAssistant: What",
        },
        {"prompt": "\n\nHuman: Hi there\n\nAssistant:", "chosen": " Hello", "rejected": " What"},
        {
            "prompt": "\n\nHuman: Hi there\n\nAssistant:",
            "chosen": "\n\nHuman: Hi there\n\nAssistant: Hello",
            "rejected": "\n\nHuman: Hi there\n\nAssistant: What",
        },
    ],
)
def test_every_way_to_write_a_conversation_gives_the_same_record(row: dict[str, Any]) -> None:
    assert preferences_from_rows([row]).records == [TALK]


def test_system_turn_and_several_exchanges() -> None:
    start = [{"role": "system", "content": "Be kind"}, USER, GOOD, {"role": "user", "content": "More"}]
    row = {"prompt": "More", "chosen": [*start, GOOD], "rejected": [*start, BAD]}
    record = preferences_from_rows([row])[0]
    assert record.dialogue is not None and len(record.dialogue.prompt) == 4
    assert record.prompt + record.chosen == plain_text([*record.dialogue.prompt, record.dialogue.chosen])


def test_conversations_from_parquet_and_datasets(tmp_path: Path) -> None:
    rows = [{"chosen": [USER, GOOD], "rejected": [USER, BAD]}]
    for name in ("talk.parquet", "talk"):
        assert load_preferences(write(tmp_path / name, rows)).records == [TALK]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The film is good", "The film is great", "The film is"),
        ("It is good", "It is good fun", "It is"),
        ("Good film", "Great film", ""),
        ("same words", "same  words", "same"),
        ("Bright", "Dull", ""),
    ],
)
def test_implicit_prompt_ends_at_a_word(chosen: str, rejected: str, prompt: str) -> None:
    record = preferences_from_rows([{"chosen": chosen, "rejected": rejected}])[0]
    assert record.prompt == prompt
    assert (record.prompt + record.chosen, record.prompt + record.rejected) == (chosen, rejected)


@given(st.text("ab \n", max_size=12), st.text("ab \n", max_size=12))
def test_implicit_prompts_add_up(chosen: str, rejected: str) -> None:
    row = {"chosen": chosen, "rejected": rejected}
    if not chosen.strip() or not rejected.strip() or chosen.strip() == rejected.strip():
        with pytest.raises(DataError):
            preferences_from_rows([row])
        return
    record = preferences_from_rows([row])[0]
    assert (record.prompt + record.chosen, record.prompt + record.rejected) == (chosen, rejected)
    assert record.chosen.strip() and record.rejected.strip()
    if record.prompt:
        assert record.chosen[0].isspace() and record.rejected[0].isspace()


@given(st.text("ab \n\u3000", max_size=9), st.text("ab \n\u3000", max_size=9))
def test_the_common_opening_is_the_longest_of_all(chosen: str, rejected: str) -> None:
    def fits(end: int) -> bool:
        rests = (chosen[end:], rejected[end:])
        return (chosen[:end] == rejected[:end] and not chosen[end - 1].isspace()
                and all(rest.strip() and rest[0].isspace() for rest in rests))

    if chosen.strip() and rejected.strip():
        longest = max((end for end in range(1, len(chosen) + 1) if fits(end)), default=0)
        assert common_opening(chosen, rejected) == chosen[:longest]


def test_a_long_common_beginning_without_a_blank_is_quick() -> None:
    """Quadratic time took 7 s of processor time for a tenth of these texts."""
    same, start = "x" * 4_000_000, time.process_time()
    assert common_opening(f"a {same}a y", f"a {same}b y") == "a"
    assert time.process_time() - start < 5


def test_transcripts_keep_their_exact_text() -> None:
    start = "\n\nHuman: Two  spaces?\n\nAssistant: Yes.\n\nHuman: And\n\na paragraph\n\nAssistant:"
    row = {"chosen": start + "  Fine\n", "rejected": start + " No"}
    record = preferences_from_rows([row])[0]
    assert (record.prompt, record.chosen, record.rejected) == (start, "  Fine\n", " No")
    assert record.dialogue is not None
    assert [m.role for m in record.dialogue.prompt] == ["user", "assistant", "user"]
    assert record.dialogue.prompt[2].content == "And\n\na paragraph"
    assert record.dialogue.chosen == Message("assistant", "Fine")


def test_ratings_become_the_margin_and_other_fields_stay() -> None:
    base = {"chosen": "a", "rejected": "b"}
    rows = [
        {**base, "chosen_rating": 4, "rejected_rating": 1.5, "id": 7},
        {**base, "chosen_rating": 2, "rejected_rating": 2},
        {**base, "margin": 2.5, "chosen_rating": 4, "rejected_rating": 1.5, "meta": {"k": 1}},
    ]
    records = preferences_from_rows(rows).records
    assert [r.margin for r in records] == [2.5, 0.0, 2.5]
    assert [dict(r.meta) for r in records] == [{"id": 7}, {}, {"k": 1}]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"question": "Good?"}, "\n\nHuman: Good?\n\nAssistant:"),
        ({"QUERY": "Good?"}, "\n\nHuman: Good?\n\nAssistant:"),
        ({"Prompt": "Good?"}, "Good?"),
        ({"prompt": "", "question": "Good?"}, "\n\nHuman: Good?\n\nAssistant:"),
        ({"instruction": "Sum up", "input": "A film"}, "\n\nHuman: Sum up\n\nA film\n\nAssistant:"),
        ({"instruction": "Sum up", "input": ""}, "\n\nHuman: Sum up\n\nAssistant:"),
        ({"system": "Be brief.", "question": "Good?"},
         "\n\nSystem: Be brief.\n\nHuman: Good?\n\nAssistant:"),
        ({"system": "", "prompt": "Good?"}, "\n\nHuman: Good?\n\nAssistant:"),
        ({"conversations": [USER]}, "\n\nHuman: Hi there\n\nAssistant:"),
        ({"input": {"messages": [USER]}}, "\n\nHuman: Hi there\n\nAssistant:"),
        ({"instruction": "More", "history": []}, "\n\nHuman: More\n\nAssistant:"),
    ],
)
def test_other_names_for_the_prompt(row: dict[str, Any], prompt: str) -> None:
    for answers in ANSWERS:
        given = {**row, **dict(zip(answers, ("Yes", "No"), strict=True))}
        data = preferences_from_rows([given])
        assert data[0].prompt == prompt and data[0].meta == {}
        assert [data[0].chosen.strip(), data[0].rejected.strip()] == ["Yes", "No"]
        assert data.report.unused == () and data.report.used.keys() == given.keys()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "A", "question": "B"}, "'prompt' could both be the prompt, and differ"),
        ({"prompt": "A", "Prompt": "B"}, "'Prompt' and 'prompt' are one column but for capitals"),
        ({"task": "What do you make of it?"}, "'task' may be the prompt, but no column says so"),
        ({"context": [USER]}, "'context' may be the prompt"),
        ({"system": "Be brief."}, "'system' has no prompt beside it"),
        ({"conversations": [USER, GOOD]}, "ends with an answer"),
        ({"question": ""}, "'question' is empty"),
        ({"system": "A", "prompt": [{"role": "system", "content": "B"}, USER]}, "another system turn"),
        ({"prompt": "A", "history": "B"}, "'history' holds turns in a form"),
    ],
)
def test_a_prompt_is_never_guessed(row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        preferences_from_rows([{**row, "chosen": "I like it", "rejected": "I left"}])


def test_a_question_that_the_prompt_holds_is_no_second_prompt() -> None:
    row = {"prompt": "Q: Good? A:", "question": "Good?", "chosen": " Yes", "rejected": " No"}
    data = preferences_from_rows([row])
    assert data[0].prompt == "Q: Good? A:" and data[0].meta == {"question": "Good?"}
    assert data.report.unused == ("question",) and "not used: question" in data.report.understood()


def test_a_scored_file_keeps_its_labels() -> None:
    """A judge's scores are no evidence against people: no row is broken by them, none gets a margin."""
    rows = [{**ROWS[0], "score_chosen": 1, "score_rejected": 3}, {**ROWS[1], "score_chosen": 3}]
    data = preferences_from_rows(rows)
    assert [record.margin for record in data] == [record.margin for record in EXPECTED]
    assert data[0].meta["score_rejected"] == 3
    assert data.report.unused == ("score_chosen", "score_rejected")
    assert "not people's ratings" in data.report.notes[0] and data.report.notes[0] in data.report.summary()


def test_ultrafeedback_and_text_cells(tmp_path: Path) -> None:
    good, bad = [USER, GOOD], [USER, BAD]
    row = {"prompt": "Hi there", "messages": good, "chosen": good, "rejected": bad}
    assert preferences_from_rows([row]).records[0].dialogue == TALK.dialogue
    for write_cell in (json.dumps, repr):
        cells = {"chosen": write_cell(good), "rejected": write_cell(bad)}
        assert preferences_from_rows([cells]).records == [TALK]
        assert load_preferences(write(tmp_path / "p.csv", [cells])).records == [TALK]
        wrapped = {name: f'{{"messages": {cell}}}' for name, cell in cells.items()}
        assert write_cell is repr or preferences_from_rows([wrapped]).records == [TALK]
    array = "[{'content': 'Hi', 'role': 'user'}\n {'content': 'a', 'role': 'assistant'}]"
    with pytest.raises(DataError, match="looks like a conversation as text, but is neither JSON nor Python"):
        preferences_from_rows([{"chosen": array, "rejected": array}])
    answer = {"prompt": "As JSON:", "chosen": '{"from": "Rome", "to": "Oslo"}', "rejected": "[1]"}
    assert preferences_from_rows([answer])[0].chosen == answer["chosen"]


def test_a_turn_may_hold_its_text_as_one_part() -> None:
    part = {"type": "text", "text": "Hi", "image": None}
    row = {"prompt": [{"role": "user", "content": [part]}], "chosen": [{"role": "assistant", "content": "a"}],
           "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "b"}]}]}
    assert preferences_from_rows([row])[0].dialogue == Dialogue(
        (Message("user", "Hi"),), Message("assistant", "a"), Message("assistant", "b"))
    for parts, problem in (([part, {"type": "image", "image": "a.png"}], "holds parts that are no text"),
                           ([part, part], "holds 2 texts"), ([], "holds 0 texts")):
        with pytest.raises(DataError, match=problem):
            preferences_from_rows([row | {"prompt": [{"role": "user", "content": parts}]}])


def test_answers_that_repeat_the_prompt_are_refused() -> None:
    row = {"prompt": "The film was", "chosen": "The film was good", "rejected": "The film was bad"}
    with pytest.raises(DataError, match="begins with the whole prompt"):
        preferences_from_rows([row])
    question = {"question": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}
    bare = {"chosen": row["chosen"], "rejected": row["rejected"]}
    assert preferences_from_rows([question])[0].chosen == " The film was good"
    assert preferences_from_rows([bare])[0].prompt == row["prompt"]
    assert len(preferences_from_rows([{"prompt": "I", "chosen": "I do", "rejected": "I do not"}])) == 1


def test_a_prompt_that_no_blank_ends_is_asked_for() -> None:
    asked = "\u554f\uff1a\u4f60\u89c9\u5f97\u8fd9\u90e8\u7535\u5f71\u600e\u4e48\u6837\uff1f"
    row = {"chosen": f"{asked}\u5f88\u597d", "rejected": f"{asked}\u65e0\u804a"}
    with pytest.raises(DataError, match=r"without a blank.*add a column 'prompt'"):
        preferences_from_rows([row])
    assert preferences_from_rows([row | {"prompt": ""}])[0].prompt == ""
    assert preferences_from_rows([{"chosen": "\u8fd9\u597d", "rejected": "\u8fd9\u574f"}])[0].prompt == ""


# --- reports --------------------------------------------------------------------------------------


def test_skip_counts_and_lists(tmp_path: Path) -> None:
    rows: list[Any] = [ROWS[0], {"chosen": "x"}, ROWS[1], 5, ROWS[1]]
    path = tmp_path / "p.jsonl"
    path.write_bytes(json_lines(rows))
    data = load_preferences(path, on_error="skip")
    assert data.records == [*EXPECTED, EXPECTED[1]] and len(data) == 3 and data[2] == EXPECTED[1]
    report = data.report
    assert (report.read, report.kept, report.repeated) == (5, 3, 1)
    assert [e.row for e in report.skipped] == [2, 4]
    summary = report.summary()
    assert "3 of 5 rows kept, 2 skipped, 1 of the kept ones repeat" in summary
    assert "row 2" in summary and "row 4" in summary
    assert report.summary(lines=1).endswith("and 1 more")


def test_nothing_usable_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(json_lines([{"chosen": "x"}, {"rejected": "x"}]))
    with pytest.raises(DataError, match=r"has no usable row among 2.*missing 'rejected'"):
        load_preferences(path, on_error="skip")


def test_limit_stops_reading(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(json_lines(ROWS) + b"not json")
    assert load_preferences(path, limit=2).records == EXPECTED
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        load_preferences(path, limit=0)
    with pytest.raises(ValueError, match="'ignore'"):
        load_preferences(path, on_error="ignore")  # type: ignore[arg-type]  # wrong on purpose


# --- data sets ------------------------------------------------------------------------------------


def test_splits_of_a_dataset_folder(tmp_path: Path) -> None:
    import datasets

    both = {"train": datasets.Dataset.from_list(ROWS[:1]), "test": datasets.Dataset.from_list(ROWS[1:])}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "d"))
    assert load_preferences(tmp_path / "d").records == EXPECTED[:1]
    assert load_preferences(tmp_path / "d", split="test").records == EXPECTED[1:]
    with pytest.raises(DataError, match=r"'gold'.*use one of"):
        load_preferences(tmp_path / "d", split="gold")


def test_a_split_is_named_behind_a_colon(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"prompt": "a b c", "chosen": " d", "rejected": " e"}] * 2)
    datasets.DatasetDict({"train_prefs": rows, "test_prefs": rows.select([0])}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="behind a colon, as in d:train_prefs"):
        load_preferences(tmp_path / "d")
    assert len(load_preferences(f"{tmp_path}/d:train_prefs")) == 2
    assert load_preferences(f"{tmp_path}/d:test_prefs").report.format == "data set, split 'test_prefs'"
    with pytest.raises(DataError, match="no such split"):
        load_preferences(f"{tmp_path}/d:train")


def test_a_hub_id_goes_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str) -> Any:
        asked.append(name)
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_preferences("Anthropic/hh-rlhf").records == EXPECTED
    assert asked == ["Anthropic/hh-rlhf"]


def test_an_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"no route.*fetch a file of the data set yourself") as caught:
        load_preferences("Anthropic/hh-rlhf")
    assert caught.value.file == "Anthropic/hh-rlhf"


# --- writing --------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
plain_words = st.text(string.ascii_letters + " .,\u00e9\n", min_size=1, max_size=12).filter(str.strip)
margins = st.none() | st.floats(0, 8)
metas = st.dictionaries(st.text("abc", min_size=1), st.integers() | st.text(max_size=3), max_size=2)


def _different(record: Preference) -> bool:
    return record.chosen.strip() != record.rejected.strip()


texts_only = st.builds(Preference, st.just("") | words, words, words, margins, metas).filter(_different)


@st.composite
def conversations(draw: st.DrawFn) -> Preference:
    turn = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), words)
    dialogue = Dialogue(
        tuple(draw(st.lists(turn, min_size=1, max_size=3))),
        Message("assistant", draw(words)),
        Message("assistant", draw(words)),
    )
    row = {
        "prompt": [vars(t) for t in dialogue.prompt],
        "chosen": [vars(dialogue.chosen)],
        "rejected": [vars(dialogue.rejected)],
    }
    if dialogue.chosen.content.strip() == dialogue.rejected.content.strip():
        return draw(conversations())
    return preferences_from_rows([row])[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.lists(texts_only | conversations(), min_size=1, max_size=4), st.sampled_from(["a.jsonl", "b.jsonl.gz"])
)
def test_written_records_read_back_equal(tmp_path: Path, records: list[Preference], name: str) -> None:
    path = save_preferences(tmp_path / name, records)
    assert load_preferences(path).records == records
    before = path.read_bytes()
    save_preferences(path, records)
    assert path.read_bytes() == before
    if path.suffix == ".gz":
        assert before[4:8] == bytes(4)  # the header's time field: unset, so that runs a day apart agree too
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"prompt": plain_words, "chosen": plain_words, "rejected": plain_words, "margin": st.floats(0, 4)}
        ).filter(lambda r: r["chosen"].strip() != r["rejected"].strip()),
        min_size=1,
        max_size=4,
    )
)
def test_every_container_gives_the_same_records(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    wanted = [Preference(r["prompt"], r["chosen"], r["rejected"], r["margin"]) for r in rows]
    for name in ("p.jsonl", "list.json", "p.csv", "p.tsv", "p.parquet", "p.jsonl.gz"):
        assert load_preferences(write(tmp_path / name, rows)).records == wanted, name


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = save_preferences(tmp_path / "p.jsonl", EXPECTED)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="record 2 cannot be written as JSON"):
        save_preferences(path, [EXPECTED[0], Preference("a", "b", "c", meta={"x": object()})])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]
    with pytest.raises(ValueError, match=r"'p\.csv': change the extension"):
        save_preferences(tmp_path / "p.csv", EXPECTED)
