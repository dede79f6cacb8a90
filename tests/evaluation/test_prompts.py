"""Prompt files: text, JSON lines, and what is said about a broken row."""

from __future__ import annotations

import gzip
import json

import pytest

from rlhf_lite.data.formatting import prompt_turns
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
    with pytest.raises(DataError, match="has no usable row among 1"):
        read_prompts(write("q.txt", "\n"), on_error="skip")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_prompts(str(tmp_path / "none.txt"))
    with pytest.raises(DataError, match="is empty"):
        (tmp_path / "e.txt").touch()
        read_prompts(str(tmp_path / "e.txt"))
    with pytest.raises(ValueError, match="at least one prompt"):
        read_prompts("reviews", limit=0)


USER, GO = {"role": "user", "content": "Hi"}, {"role": "user", "content": "Go"}
CHAT = [USER, {"role": "assistant", "content": "Yes?"}, GO]
A, B = ({"role": "assistant", "content": letter} for letter in "ab")
TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Go\n\nAssistant:"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", '[{"prompt": "The film"}, {"prompt": "A plot"}]'),
        ("p.json", '{"data": [{"question": "The film"}, {"question": "A plot"}]}'),
        ("p.csv", "id;prompt;chosen\n1;The film;x\n2;A plot;y\n"),
        ("p.tsv", "Prompt\nThe film\nA plot\n"),
        ("p.jsonl.gz", gzip.compress(b'{"prompt": "The film"}\n\n{"prompt": "A plot"}\n', mtime=0)),
        ("p.gz", gzip.compress(b"The film\nA plot\n", mtime=0)),
        ("p.md", "The film\nA plot\n"),
        ("prompts", "\ufeffThe film\r\nA plot"),
        ("h.jsonl", '{"chosen": "The film is", "rejected": "The film was"}\n{"prompt": "A plot"}\n'),
    ],
)
def test_prompts_are_read_as_preference_files_are(write, name, content):
    assert read_prompts(write(name, content)).texts == ["The film", "A plot"]


def test_prompts_from_parquet_and_a_saved_dataset(tmp_path):
    import datasets

    data = datasets.Dataset.from_list([{"prompt": "The film"}, {"prompt": "A plot"}])
    data.to_parquet(str(tmp_path / "p.parquet"))
    data.save_to_disk(str(tmp_path / "folder"))
    for name in ("p.parquet", "folder"):
        assert read_prompts(str(tmp_path / name)).texts == ["The film", "A plot"]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT},
        {"prompt": json.dumps(CHAT)},
        {"Conversations": CHAT},
        {"chosen": [*CHAT, A], "rejected": [*CHAT, B]},
    ],
)
def test_a_conversation_is_a_prompt_in_a_chat_only(write, row):
    path = write("p.json", json.dumps([row]))
    assert read_prompts(path, chat=True).texts == [TRANSCRIPT]
    assert [(m.role, m.content) for m in prompt_turns(TRANSCRIPT)] == [tuple(turn.values()) for turn in CHAT]
    with pytest.raises(DataError, match=r"is a conversation.*add --chat.*--on-error skip leaves such rows"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.docx", b"x", "unknown ending"),
        ("p.parquet", b"PAR1\x00\x80zzz", "cannot be read as Parquet"),
        ("p.txt", gzip.compress(b"a", mtime=0), "is packed with gzip"),
        ("p.jsonl", json.dumps({"messages": [USER, A]}), "ends with an answer"),
        ("p.jsonl", b'{"messages": [{"role": "tool", "content": "a"}]}', "no transcript can hold"),
        ("p.jsonl", b'{"prompt": "\\n\\nHuman:\\n\\nAssistant:"}', "empty turn"),
    ],
)
def test_prompts_that_cannot_be_read(write, name, content, words):
    with pytest.raises(DataError, match=words):
        read_prompts(write(name, content), chat=True)
