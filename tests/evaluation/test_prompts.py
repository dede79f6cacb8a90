"""Prompt files: text, JSON lines, and what is said about a broken row."""

from __future__ import annotations

import pytest

from rlhf_lite.errors import DataError
from rlhf_lite.evaluation.prompts import read_prompts


@pytest.fixture
def write(tmp_path):
    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return make


def test_text_and_json_lines(write):
    assert read_prompts(write("p.txt", "The film\r\n  A plot\nlast")).texts == [
        "The film",
        "  A plot",
        "last",
    ]
    rows = '{"prompt": "The film", "chosen": "x"}\n{"prompt": "A plot"}\n'
    found = read_prompts(write("p.jsonl", rows))
    assert (found.texts, found.source, found.repeated) == (["The film", "A plot"], "p.jsonl", 0)
    assert read_prompts(write("q.txt", "a\nb\na\n")).repeated == 1


def test_the_limit_is_spread_over_the_file(write):
    name = write("p.txt", "\n".join(f"prompt {i}" for i in range(10)))
    assert read_prompts(name, limit=3).texts == ["prompt 0", "prompt 3", "prompt 6"]
    assert len(read_prompts(name, limit=99).texts) == 10


@pytest.mark.parametrize(
    ("name", "content", "row", "field", "words"),
    [
        ("p.txt", "a\n\nb\n", 2, None, "is empty"),
        ("p.txt", "a\n   \n", 2, None, "is empty"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": ""}\n', 2, "prompt", "is empty"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": 3}\n', 2, "prompt", "of type int"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', 2, "prompt", "is missing; the fields are 'text'"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b"\n', 2, None, "not valid JSON"),
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"}\n', 2, None, "is empty"),
        ("p.jsonl", '["a"]\n', 1, None, "of type list"),
        ("p.txt", b"a\nna\xefve\n", 2, None, "is not UTF-8"),
    ],
)
def test_a_broken_row_names_file_row_field_and_fix(write, name, content, row, field, words):
    with pytest.raises(DataError, match="Fix: ") as caught:
        read_prompts(write(name, content))
    error = caught.value
    assert (error.file, error.row) == (name, row)
    assert field is None or error.field == field
    assert words in str(error)


def test_broken_rows_can_be_skipped_and_are_listed(write):
    found = read_prompts(write("p.jsonl", '{"prompt": "a"}\n{"prompt": ""}\nnonsense\n'), on_error="skip")
    assert found.texts == ["a"]
    assert [error.row for error in found.skipped] == [2, 3]
    with pytest.raises(DataError, match=r"holds no prompt \(1 broken rows"):
        read_prompts(write("q.txt", "\n"), on_error="skip")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        read_prompts(str(tmp_path / "none.txt"))
    with pytest.raises(DataError, match="holds no prompt"):
        (tmp_path / "e.txt").touch()
        read_prompts(str(tmp_path / "e.txt"))
    with pytest.raises(ValueError, match="at least one prompt"):
        read_prompts("reviews", limit=0)
