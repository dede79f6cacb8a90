"""Bad preference files: each names file, row, field, the value received and the fix, and can be skipped."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rlhf_lite.data.files import readers
from rlhf_lite.data.files.schema import load_preferences, preferences_from_rows
from rlhf_lite.errors import DataError, shortened

OK = {"prompt": "A", "chosen": " b", "rejected": " c"}
USER = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}
WHAT = {"role": "assistant", "content": "What"}
H, A = "\n\nHuman: ", "\n\nAssistant:"


def line(row: Any) -> bytes:
    return json.dumps(row).encode() + b"\n"


def fails(path: Path, **kwargs: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        load_preferences(path, **kwargs)
    assert caught.value.fix and str(caught.value).startswith(caught.value.file)
    return caught.value


BAD_ROWS: list[tuple[str, dict[str, Any], str, str, str]] = [
    # name, row, field, part of the problem, part of the value
    ("empty answer", {**OK, "chosen": ""}, "chosen", "is empty", "''"),
    ("blank answer", {**OK, "rejected": " \n"}, "rejected", "is empty", "' \\n'"),
    ("blank prompt", {**OK, "prompt": "  "}, "prompt", "only white space", "'  '"),
    ("no answer", {**OK, "chosen": None}, "chosen", "has no value", ""),
    ("no prompt", {**OK, "prompt": None}, "prompt", "has no value", ""),
    ("number for text", {**OK, "chosen": 5}, "chosen", "of type int, expected text", "5"),
    ("number for prompt", {**OK, "prompt": 1.5}, "prompt", "of type float, expected text", "1.5"),
    ("object for text", {**OK, "rejected": {"text": "x"}}, "rejected", "of type dict", "{'text': 'x'}"),
    ("bool for text", {**OK, "rejected": True}, "rejected", "of type bool", "True"),
    ("half a surrogate pair", {**OK, "chosen": "a\ud83d"}, "chosen", "surrogate", "a\\ud83d"),
    ("identical answers", {**OK, "rejected": " b"}, "rejected", "identical", "' b'"),
    ("identical but for space", {**OK, "rejected": "b \n"}, "rejected", "identical", "'b \\n'"),
    ("NaN margin", {**OK, "margin": math.nan}, "margin", "not finite", "nan"),
    ("infinite margin", {**OK, "margin": math.inf}, "margin", "not finite", "inf"),
    ("margin beyond floats", {**OK, "margin": 10**400}, "margin", "not finite", "1000"),
    (
        "ratings beyond floats",
        {**OK, "chosen_rating": 1e308, "rejected_rating": -1e308},
        "chosen_rating",
        "too far",
        "1e+308",
    ),
    ("null margin", {**OK, "margin": None}, "margin", "has no value", ""),
    ("text margin", {**OK, "margin": "1.5"}, "margin", "of type str", "'1.5'"),
    ("bool margin", {**OK, "margin": True}, "margin", "of type bool", "True"),
    ("negative margin", {**OK, "margin": -1}, "margin", "negative", "-1"),
    ("one rating", {**OK, "chosen_rating": 3}, "rejected_rating", "is missing", ""),
    ("null rating", {**OK, "chosen_rating": 3, "rejected_rating": None}, "rejected_rating", "no value", ""),
    (
        "NaN rating",
        {**OK, "chosen_rating": math.nan, "rejected_rating": 1},
        "chosen_rating",
        "not finite",
        "nan",
    ),
    (
        "ratings the wrong way",
        {**OK, "chosen_rating": 1, "rejected_rating": 3},
        "chosen_rating",
        "below",
        "1",
    ),
    (
        "margin against ratings",
        {**OK, "margin": 1, "chosen_rating": 3, "rejected_rating": 1},
        "chosen_rating",
        "differs from margin=1",
        "2.0",
    ),
    ("empty list", {"chosen": [], "rejected": [USER, WHAT]}, "chosen", "empty list", "[]"),
    (
        "empty turn",
        {"chosen": [{**USER, "content": " "}, HELLO], "rejected": [USER, WHAT]},
        "chosen[0].content",
        "empty turn",
        "' '",
    ),
    (
        "turn without content",
        {"chosen": [USER, HELLO], "rejected": [USER, {"role": "assistant"}]},
        "rejected[1].content",
        "has no value",
        "",
    ),
    (
        "turn that is text",
        {"chosen": ["Hi", HELLO], "rejected": [USER, WHAT]},
        "chosen[0]",
        "of type str, expected a turn",
        "'Hi'",
    ),
    (
        "turn without speaker",
        {"chosen": [{**USER, "role": ""}, HELLO], "rejected": [USER, WHAT]},
        "chosen[0].role",
        "is empty",
        "''",
    ),
    (
        "content of another type",
        {"chosen": [USER, {**HELLO, "content": 3}], "rejected": [USER, WHAT]},
        "chosen[1].content",
        "of type int",
        "3",
    ),
    (
        "user has the last word",
        {"chosen": [HELLO, USER], "rejected": [USER, WHAT]},
        "chosen",
        "not end with",
        "user",
    ),
    ("list and text", {"chosen": [USER, HELLO], "rejected": "What"}, "rejected", "expected a list", "'What'"),
    ("nothing asked", {"chosen": [HELLO], "rejected": [WHAT]}, "chosen", "no turn before", "Hello"),
    (
        "messages with other prompts",
        {"chosen": [USER, HELLO], "rejected": [{**USER, "content": "Ho"}, WHAT]},
        "rejected",
        "another prompt than chosen: turn 1 differs",
        "'Ho'",
    ),
    (
        "messages that part early",
        {"chosen": [USER, HELLO], "rejected": [USER, WHAT, USER, WHAT]},
        "rejected",
        "turn 2 differs",
        "'What'",
    ),
    (
        "prompt that is not the conversation's",
        {"prompt": "Bye", "chosen": [USER, HELLO], "rejected": [USER, WHAT]},
        "prompt",
        "another prompt than the conversation",
        "'Hi'",
    ),
    (
        "messages with identical answers",
        {"chosen": [USER, HELLO], "rejected": [USER, HELLO]},
        "rejected",
        "identical",
        "'Hello'",
    ),
    (
        "transcripts with other prompts",
        {"chosen": f"{H}Hi{A} a", "rejected": f"{H}Ho{A} b"},
        "rejected",
        "turn 1 differs",
        "'Ho'",
    ),
    (
        "transcript of another length",
        {"chosen": f"{H}Hi{A} a", "rejected": f"{H}Hi{A} a{H}Ho{A} b"},
        "rejected",
        "turn 2 differs",
        "'a'",
    ),
    (
        "transcript with an empty human turn",
        {"chosen": f"{H}{A} a", "rejected": f"{H}{A} b"},
        "chosen",
        "empty turn: number 1, of Human",
        "Human",
    ),
    (
        "transcript with an empty answer",
        {"chosen": f"{H}Hi{A} a", "rejected": f"{H}Hi{A}"},
        "rejected",
        "empty turn: number 2, of Assistant",
        "Human",
    ),
    (
        "transcript that ends with a question",
        {"chosen": f"{H}Hi{A} a{H}Ho", "rejected": f"{H}Hi{A} b"},
        "chosen",
        "does not end with",
        "Human",
    ),
    (
        "transcript without an answer",
        {"chosen": f"{H}Hi", "rejected": f"{H}Ho"},
        "chosen",
        "no turn of the assistant",
        "Human",
    ),
    (
        "transcript with identical answers",
        {"chosen": f"{H}Hi{A} a", "rejected": f"{H}Hi{A} a"},
        "rejected",
        "identical",
        "' a'",
    ),
    (
        "prompt with an empty turn",
        {**OK, "prompt": f"{H}Hi{A}{H}Ho{A}"},
        "prompt",
        "empty turn: number 2",
        "Human",
    ),
    (
        "prompt that is not the transcript's",
        {"prompt": f"{H}Ho{A}", "chosen": f"{H}Hi{A} a", "rejected": f"{H}Hi{A} b"},
        "prompt",
        "not what chosen and rejected begin with",
        "Ho",
    ),
]


@pytest.mark.parametrize(
    ("row", "field", "problem", "value"), [c[1:] for c in BAD_ROWS], ids=[c[0] for c in BAD_ROWS]
)
def test_bad_row(tmp_path: Path, row: dict[str, Any], field: str, problem: str, value: str) -> None:
    path = tmp_path / "prefs.jsonl"
    path.write_bytes(line(OK) + line(row) + line({**OK, "prompt": "Z"}))
    error = fails(path)
    assert (error.file, error.row, error.field) == ("prefs.jsonl", 2, field)
    assert problem in error.problem
    assert (error.value is None) == (value == "") and value in (error.value or "")
    for part in (
        "prefs.jsonl, row 2",
        f"field {field!r}",
        error.problem,
        error.value or "",
        f'Fix: {error.fix}; on_error="skip" leaves such rows out',
    ):
        assert part in str(error)

    data = load_preferences(path, on_error="skip")
    assert [r.prompt for r in data] == ["A", "Z"]
    assert [str(e) for e in data.report.skipped] == [str(error).split("; on_error=")[0] + "."]


# --- lines ----------------------------------------------------------------------------------------

BAD_LINES: list[tuple[str, bytes, str | None, str, str]] = [
    ("cut off", line(OK)[:-8] + b"\n", None, "not valid JSON", "put"),
    ("trailing comma", line(OK)[:-1] + b",\n", None, "ends with a comma", "no commas between"),
    ("a list", b'["a", "b"]\n', None, "of type list, expected an object", "one object"),
    ("two objects", line(OK)[:-1] + line(OK), None, "not valid JSON: Extra data", "jq -c ."),
    (
        "duplicate key",
        b'{"chosen": "a", "chosen": "b", "rejected": "c"}\n',
        "chosen",
        "occurs twice",
        "keep one",
    ),
    (
        "duplicate key in a turn",
        b'{"chosen": [{"role": "user", "role": "x"}], "rejected": []}\n',
        "role",
        "occurs twice",
        "keep one",
    ),
    (
        "latin-1",
        '{"chosen": "\u00e9t\u00e9", "rejected": "b"}\n'.encode("latin-1"),
        None,
        "byte 0xe9 at position 13",
        "iconv -f WINDOWS-1252",
    ),
    (
        "deep nesting",
        b'{"chosen": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        None,
        "usable JSON",
        "text fields",
    ),
    (
        "missing field",
        b'{"chosen": "a", "reject": "b"}\n',
        None,
        "missing 'rejected'; the fields are 'chosen', 'reject'",
        "rename",
    ),
]


@pytest.mark.parametrize(
    ("raw", "field", "problem", "fix"), [c[1:] for c in BAD_LINES], ids=[c[0] for c in BAD_LINES]
)
def test_bad_line(tmp_path: Path, raw: bytes, field: str | None, problem: str, fix: str) -> None:
    path = tmp_path / "prefs.jsonl"
    path.write_bytes(line(OK) + b"\n  \n" + raw + line(OK))
    error = fails(path)
    assert (error.row, error.field) == (4, field)  # blank lines count, as in an editor
    assert problem in error.problem
    if "cut off" not in problem and fix != "put":
        assert fix in error.fix
    data = load_preferences(path, on_error="skip")
    assert len(data) == 2 and [e.row for e in data.report.skipped] == [4]


def test_huge_line_is_not_read_into_memory_and_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "prefs.jsonl"
    path.write_bytes(line(OK) + line({**OK, "chosen": "x" * 5000}) + line(OK))
    error = fails(path)
    assert error.row == 2 and "longer than" in error.problem and len(str(error)) < 400
    assert len(load_preferences(path, on_error="skip")) == 2


def test_long_values_are_shortened() -> None:
    with pytest.raises(DataError) as caught:
        preferences_from_rows([{"prompt": 1, "chosen": "a", "rejected": "b" * 9000, "margin": 0.5}, OK])
    assert caught.value.field == "prompt"
    assert len(shortened("b" * 9000)) <= 80 and len(shortened([{"role": "b" * 9000}] * 90)) < 500


# --- files ----------------------------------------------------------------------------------------


def test_truncated_gzip(tmp_path: Path) -> None:
    import random

    draw = random.Random(0)
    rows = [{**OK, "prompt": "".join(draw.choices("abcdefgh", k=200))} for _ in range(400)]
    path = tmp_path / "p.jsonl.gz"
    packed = gzip.compress(b"".join(map(line, rows)))
    path.write_bytes(packed[: len(packed) // 2])
    error = fails(path)
    assert "ends too early" in error.problem and error.row is not None and 100 < error.row < 400
    data = load_preferences(path, on_error="skip")
    assert [r.prompt for r in data] == [r["prompt"] for r in rows[: len(data)]]
    assert len(data) == error.row - 1
    assert [e.row for e in data.report.skipped] == [error.row]


@pytest.mark.parametrize("name", ["p.jsonl.gz", "p.json.gz", "p.csv.gz"])
def test_damaged_and_false_gzip(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(line(OK))
    assert "is not gzip" in fails(path).problem
    good = (
        b"[%s]" % line(OK) if ".json." in name else b"chosen,rejected\na,b\n" if ".csv" in name else line(OK)
    )
    packed = bytearray(gzip.compress(good))
    packed[-6] ^= 0xFF  # the checksum of the content
    path.write_bytes(packed)
    assert "gzip stream is damaged" in fails(path).problem


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv"])
def test_utf16(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    text = (
        json.dumps([OK])
        if name == "p.json"
        else "chosen,rejected\na,b\n"
        if name == "p.csv"
        else json.dumps(OK)
    )
    path.write_bytes(text.encode(encoding))
    for on_error in ("raise", "skip"):
        error = fails(path, on_error=on_error)
        assert "looks like UTF-16" in str(error) and "iconv" in str(error)


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv", "p.parquet", "p.jsonl.gz"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    assert "is empty (0 bytes)" in fails(path).problem


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", b"\n \n"),
        ("p.json", b"[]"),
        ("p.csv", b"chosen,rejected\n"),
        ("q.jsonl.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_file_without_rows(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert "holds no rows" in fails(path).problem


@pytest.mark.parametrize("name", ["p.txt", "p.xlsx", "prefs", "p.parquet.gz", "p.gz"])
def test_unknown_extension(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x")
    error = fails(path)
    assert "unknown extension" in error.problem and ".jsonl" in error.fix and ".parquet" in error.fix


def test_missing_file_and_wrong_folder(tmp_path: Path) -> None:
    assert "does not exist" in fails(tmp_path / "none.jsonl").problem
    # Looks like a Hub id, but the extension says that a file was meant.
    with pytest.raises(DataError, match="does not exist"):
        load_preferences("data/prefs.jsonl")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "p.jsonl").write_bytes(line(OK))
    error = fails(tmp_path / "d")
    assert "not a datasets folder" in error.problem and error.fix == "give the file itself"
    (tmp_path / "d" / "state.json").write_text("{}")
    assert "cannot be read as a datasets folder" in fails(tmp_path / "d").problem


def test_split_of_a_single_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(line(OK))
    assert fails(path, split="train").field == "split"


def test_json_list(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(b"[\n" + line(OK)[:-1] + b",\n]\n")
    error = fails(path)
    assert error.row is not None and "comma before the closing bracket" in error.fix
    path.write_bytes(b"[\n" + line(OK) + b'{"chosen"')
    error = fails(path, on_error="skip")
    assert error.row == 3 and "correct the file" in error.fix
    path.write_bytes(b"[" + line(OK) + b', 7, {"chosen": "a", "chosen": "b", "rejected": "c"}]')
    data = load_preferences(path, on_error="skip")
    assert len(data) == 1
    assert [(e.row, e.problem) for e in data.report.skipped] == [
        (2, "is of type int, expected an object"),
        (3, "occurs twice"),
    ]
    path.write_bytes("[\n{\u201cchosen\u201d: 1}]".encode("cp1252"))
    error = fails(path)
    assert error.row == 2 and "byte 0x93 at position 2 of the line" in error.problem


CSV_FILES: list[tuple[str, bytes, int, str, str]] = [
    ("too many columns", b"chosen,rejected\na,b\na,b,c\n", 3, "has 3 columns, the header has 2", "quote"),
    ("too few columns", b"chosen,rejected\n\na\n", 3, "has 1 columns", "quote"),
    ("empty answer", b"chosen,rejected\na,b\n,b\n", 3, "is empty", "write the answer"),
    (
        "missing column",
        b"chosen,reject\na,b\n",
        1,
        "missing 'rejected'; the fields are 'chosen', 'reject'",
        "rename",
    ),
    ("column twice", b"chosen,rejected,chosen\na,b,c\n", 1, "occurs twice in the header", "rename"),
    ("two files", b"chosen,rejected\na,b\nchosen,rejected\nc,d\n", 3, "repeats the header", "line out"),
    ("open quote", b'chosen,rejected\na,b\n"a,b\n', 3, "not valid CSV", "quote"),
    ("text after quote", b'chosen,rejected\n"a"x,b\n', 2, "not valid CSV", "quote"),
    ("latin-1", b"chosen,rejected\na,b\n\xe9,b\n", 3, "byte 0xe9 at position 1", "iconv"),
    ("bad number", b"chosen,rejected,margin\na,b,1\na,b,much\n", 3, "not a number", "finite"),
    ("NaN", b"chosen,rejected,margin\na,b,nan\n", 2, "not finite", "finite"),
    ("missing number", b"chosen,rejected,margin\na,b,\n", 2, "no value", "finite"),
    (
        "after a field of three lines",
        b'chosen,rejected\n"a\n\nb",c\nd,d\n',
        5,
        "identical",
        "take the row out",
    ),
]


@pytest.mark.parametrize(
    ("raw", "row", "problem", "fix"), [c[1:] for c in CSV_FILES], ids=[c[0] for c in CSV_FILES]
)
def test_csv(tmp_path: Path, raw: bytes, row: int, problem: str, fix: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(raw)
    error = fails(path)
    assert (error.row, problem in error.problem, fix in error.fix) == (row, True, True), str(error)


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "p.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([OK, {**OK, "chosen": None}]), path)
    error = fails(path)
    assert (error.row, error.field) == (2, "chosen")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as Parquet" in fails(path).problem
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"question": "a", "chosen": "b"}]), path)
    error = fails(path, on_error="skip")
    assert error.row is None and "missing 'rejected'; the fields are 'question', 'chosen'" in error.problem


# --- files under a wrong name, and other separators -----------------------------------------------

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
TWO_LISTS = b'{"train": [{"a": 1}], "test": [{"a": 2}]}'
COLUMNS = b'{"prompt": {"0": "A"}, "chosen": {"0": "b"}, "rejected": {"0": "c"}}'
STRANGERS: list[tuple[str, bytes, str, str]] = [
    # name, content, part of the problem, part of the fix
    ("p.jsonl", gzip.compress(line(OK), mtime=0), "is packed with gzip", "end in .gz"),
    ("p.jsonl.gz", gzip.compress(gzip.compress(line(OK), mtime=0), mtime=0), "packed twice",
     "gunzip < p.jsonl.gz > once-p"),
    ("p.csv.gz", LFS, "pointer of Git LFS", "git lfs pull"),
    ("p.parquet", LFS, "pointer of Git LFS", "git lfs pull"),
    ("p.json", LFS, "pointer of Git LFS", "git lfs pull"),
    ("p.csv", b"PK\x03\x04\x14\x00", "is a ZIP archive", "as CSV"),
    ("p.json", b"PAR1\x15\x04", "is Parquet", ".parquet"),
    ("p.jsonl", b"BZh91AY&SYx", "bzip2", "gzip"),
    ("p.json", b"\n<!DOCTYPE html><html>", "web page", "the file itself"),
    ("p.csv", b"chosen,rejected\ra,b\r", "new-line character", "tr '\\r' '\\n' < p.csv > new-p.csv"),
    ("p.jsonl", line(OK).replace(b"\n", b"\r") * 2, "Extra data", "tr '\\r' '\\n' < p.jsonl > new-p.jsonl"),
    ("p.jsonl", line(OK).strip() * 2, "Extra data", "jq -c . p.jsonl > lines.jsonl"),
    ("p.json", json.dumps(OK, indent=1).encode() * 2, "Extra data", "jq -c . p.json > lines.jsonl"),
    ("p.csv", line(OK), "holds JSON and no table", "end in .json"),
    ("p.tsv", b"[\n " + line(OK) + b"]", "holds JSON and no table", "end in .json"),
    ("p.jsonl", b"[" + line(OK).strip() + b"]", "is of type list", "one list, let its name end in .json"),
    ("p.jsonl", b"chosen,rejected\na,b\n", "not valid JSON", "a table, let its name end in .csv"),
    ("p.json", TWO_LISTS, "it holds 'train', 'test'", "into a file of its own"),
    ("p.json", COLUMNS, "by columns", "orient='records'"),
    ("p.json", b'{"chosen":\n ["a"], "rejected": ["b"]}', "by columns", "orient='records'"),
    ("p.json", b'{"rows": ["a"]}', "no list of records; it holds 'rows'", "write a list of objects"),
]


@pytest.mark.parametrize(("name", "content", "problem", "fix"), STRANGERS)
def test_a_file_of_another_kind_is_named(
    tmp_path: Path, name: str, content: bytes, problem: str, fix: str
) -> None:
    (tmp_path / name).write_bytes(content)
    for on_error in ("raise", "skip"):
        error = fails(tmp_path / name, on_error=on_error)
        assert problem in error.problem and fix in error.fix


SHAPES: list[tuple[str, str]] = [
    # columns, what the fix says beside "write a row per pair"
    ("prompt response_0 response_1 better_response_id safer_response_id",
     "which of 'response_0' and 'response_1' is better differs from row to row (by 'better_response_id', "),
    ("history human_ref_A human_ref_B labels score_A score_B", "'human_ref_A' and 'human_ref_B'"),
    ("conversation_a conversation_b winner", "(by 'winner')"),
    ("question answer_0 score_0 answer_1 score_1", "(by 'score_0', 'score_1')"),
    ("instruction input output_1 output_2 preference", "'output_1' and 'output_2'"),
    ("prompt response_1 response_2 preference_strength", "(by 'preference_strength')"),
    ("prompt answers", "'answers' holds the answers of a row"),
    ("info summaries choice", "(by 'choice')"),
    ("prompt response helpfulness", "one answer, 'response', so take two rows with the same prompt"),
    ("prompt completion label", "(by 'label')"),
]


@pytest.mark.parametrize(("columns", "fix"), SHAPES)
def test_no_advice_to_rename_what_is_better_only_sometimes(tmp_path: Path, columns: str, fix: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(line(dict.fromkeys(columns.split(), "a b")) * 3)
    error = fails(path, on_error="skip")
    assert error.problem.startswith("missing 'chosen' and 'rejected'") and error.row == 1
    assert error.fix.startswith("write a row per pair") and fix in error.fix
    assert str(error).count("Fix:") == 1 and str(error).endswith("no usable row among 3.")


def test_a_list_over_several_lines_is_no_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps([OK], indent=1))
    assert fails(path).fix.endswith("if the file is JSON over several lines, let its name end in .json")
    assert len(load_preferences(path.rename(tmp_path / "p.json"))) == 1


def test_two_names_for_better_and_worse_are_to_be_renamed(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(line({"prompt": "a", "accept": "b", "reject": "c"}))
    assert fails(path).fix.startswith("rename the fields")


def test_the_advice_works_when_typed(tmp_path: Path) -> None:
    twice = tmp_path / "p.jsonl.gz"
    twice.write_bytes(gzip.compress(gzip.compress(line(OK))))
    mac = tmp_path / "p.csv"
    mac.write_bytes(b"chosen,rejected\ra,b\r")
    for path in (twice, mac):
        command = str(fails(path).fix).split(": ", 1)[1]
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        assert len(load_preferences(tmp_path / command.rsplit(maxsplit=1)[1])) == 1


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("p.csv", "prompt;chosen;rejected\nA; b; c\n", "CSV with ';' between columns"),
        ("p.csv", "sep=,\r\nprompt,chosen,rejected\r\nA, b, c\r\n", "CSV with commas between columns"),
        ("p.csv", "sep=;\nprompt;chosen;rejected\nA; b; c\n", "CSV with ';' between columns"),
        ("p.csv", "prompt\tchosen\trejected\nA\t b\t c\n", "CSV with tabs between columns"),
        ("p.tsv", "prompt,chosen,rejected\nA, b, c\n", "CSV with commas between columns"),
        ("p.json", json.dumps({"data": [OK], "version": "1"}, indent=1), "JSON list under 'data'"),
        ("p.json", json.dumps({"data": [OK]}), "JSON list under 'data'"),
        ("p.json", json.dumps(OK, indent=1), "a JSON object"),
        ("p.json", json.dumps(OK), "a JSON object"),
        ("p.json", json.dumps(OK) + "\n" + json.dumps({"chosen": 1}), "JSON lines"),
    ],
)
def test_other_layouts_are_read_and_said(tmp_path: Path, name: str, content: str, form: str) -> None:
    (tmp_path / name).write_text(content, newline="")
    data = load_preferences(tmp_path / name, on_error="skip")
    assert [(r.prompt, r.chosen, r.rejected) for r in data] == [("A", " b", " c")]
    assert data.report.format == form and form in data.report.summary()


def test_a_row_after_a_line_that_names_the_separator_keeps_its_number(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("sep=;\nprompt;chosen;rejected\nA;b;c\nA;;c\n")
    assert fails(tmp_path / "p.csv").row == 4


def test_a_broken_first_line_costs_that_line_only(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(b'{"prompt": "A", "chos\n' + line(OK))
    assert fails(tmp_path / "p.json").row == 1
    assert len(load_preferences(tmp_path / "p.json", on_error="skip")) == 1


def test_what_can_be_no_path_is_not_there() -> None:
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(DataError, match="does not exist"):
            load_preferences(name)
