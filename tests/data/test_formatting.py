"""Conversations as text: exact boundaries, whatever the template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import END, byte_tokenizer, start_tokenizer

from rlhf_lite.data.formatting import (
    chat_template,
    common_length,
    encode_pair,
    encode_prompts,
    keep_end,
    looks_like_transcript,
    parse_transcript,
    plain_text,
    render_dialogue,
    render_preference,
    split_transcript,
    start_tokens,
    token_ids,
)
from rlhf_lite.types import Dialogue, Message, Preference

contents = st.text("ab .:\n\u00e9", min_size=1).map(str.strip).filter(bool).filter(lambda t: "\n\n" not in t)
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), contents)
TALK = Dialogue((Message("user", "Hi"),), Message("assistant", "Hello"), Message("assistant", "What"))


class WordTokenizer:
    """One token per character, and the chat template of the model that comes with the book."""

    chat_template: str | None = "yes"

    def __call__(self, text: str | list[str], add_special_tokens: bool) -> dict[str, list]:
        rows = [[ord(c) for c in one] for one in ([text] if isinstance(text, str) else text)]
        return {"input_ids": rows[0] if isinstance(text, str) else rows}

    def apply_chat_template(
        self, turns: Sequence[dict[str, str]], tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert tokenize is False
        start = "" if turns[0]["role"] == "system" else "<|im_start|>system\nBe helpful<|im_end|>\n"
        text = "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns)
        return start + text + ("<|im_start|>assistant\n" if add_generation_prompt else "")


tokenizer: Any = WordTokenizer()


@given(st.lists(messages, min_size=1, max_size=5))
def test_plain_text_and_back(turns: list[Message]) -> None:
    text = plain_text(turns)
    assert parse_transcript(text) == tuple(turns)
    assert parse_transcript(text.lstrip("\n")) == tuple(turns)


@given(st.lists(messages, min_size=1, max_size=4), contents)
def test_split_adds_up(turns: list[Message], answer: str) -> None:
    text = plain_text([*turns, Message("assistant", answer)])
    prompt, rest = split_transcript(text)
    assert prompt + rest == text
    assert prompt == plain_text(turns, answer_next=True) and rest == " " + answer


def test_plain_text_by_hand() -> None:
    turns = [Message("system", "Be kind"), Message("user", "Hi"), Message("tool", "42")]
    assert plain_text(turns, True) == "\n\nSystem: Be kind\n\nHuman: Hi\n\nTool: 42\n\nAssistant:"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Human: Hi\n\nAssistant: ", "empty turn: number 2, of Assistant"),
        ("\n\nHuman:\n\nAssistant: a", "empty turn: number 1, of Human"),
        ("Once upon a time", "does not start with a turn"),
        ("Note\n\nHuman: Hi", "does not start with a turn"),
        ("", "does not start with a turn"),
    ],
)
def test_what_is_no_transcript(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_transcript(text)


def test_a_speaker_within_a_line_starts_no_turn() -> None:
    turns = parse_transcript("\n\nHuman: She said Human: hello\nAssistant: is a word\n\nAssistant: Yes")
    assert [t.content for t in turns] == ["She said Human: hello\nAssistant: is a word", "Yes"]
    assert not looks_like_transcript("A Human: hello") and looks_like_transcript("\n Human: hello")


def test_split_refuses_an_open_end() -> None:
    with pytest.raises(ValueError, match="no turn of the assistant"):
        split_transcript("\n\nHuman: Hi")
    with pytest.raises(ValueError, match="does not end with a turn of the assistant"):
        split_transcript("\n\nHuman: Hi\n\nAssistant: a\n\nHuman: b")


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_common_length(a: str, b: str) -> None:
    n = common_length(a, b)
    assert a[:n] == b[:n] and (n == min(len(a), len(b)) or a[n] != b[n])


@given(st.lists(messages, min_size=1, max_size=4), contents, contents)
def test_prompt_and_response_are_the_whole(turns: list[Message], good: str, bad: str) -> None:
    dialogue = Dialogue(tuple(turns), Message("assistant", good), Message("assistant", bad))
    for template in (plain_text, chat_template(tokenizer)):
        prompt, chosen, rejected = render_dialogue(dialogue, template)
        assert prompt + chosen == template([*turns, dialogue.chosen], False)
        assert prompt + rejected == template([*turns, dialogue.rejected], False)


def test_rendering_with_a_chat_template() -> None:
    preference = Preference(*render_dialogue(TALK), 1.0, {"id": 1}, TALK)
    rendered = render_preference(preference, chat_template(tokenizer))
    assert rendered.prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert (rendered.chosen, rendered.rejected) == ("Hello<|im_end|>\n", "What<|im_end|>\n")
    assert (rendered.margin, rendered.meta, rendered.dialogue) == (1.0, {"id": 1}, None)
    text = Preference("a", " b", " c")
    assert render_preference(text, chat_template(tokenizer)) is text


def test_a_tokenizer_without_template_gets_the_plain_one() -> None:
    bare: Any = WordTokenizer()
    bare.chat_template = None
    assert chat_template(bare) is plain_text


def test_a_template_without_boundary_is_refused() -> None:
    def changes_its_mind(turns: Sequence[Message], answer_next: bool) -> str:
        return "A <think>" if answer_next else "A answer"

    with pytest.raises(ValueError, match="from character 2 the text goes on 'answer'"):
        render_dialogue(TALK, changes_its_mind)


# --- tokens ---------------------------------------------------------------------------------------

sizes = st.integers(0, 9)


@given(sizes, sizes, sizes, st.integers(2, 12))
def test_encoding_keeps_the_boundary_and_the_limit(p: int, c: int, r: int, limit: int) -> None:
    pair = Preference("p" * p, "c" * c, "r" * r, 0.5)
    free = encode_pair(tokenizer, pair)
    assert (len(free.prompt_ids), len(free.chosen_ids), len(free.rejected_ids)) == (p, c, r)
    cut = encode_pair(tokenizer, pair, max_tokens=limit)
    assert cut.margin == 0.5
    assert len(cut.prompt_ids) + max(len(cut.chosen_ids), len(cut.rejected_ids)) <= limit
    if p + max(c, r) <= limit:
        assert cut == free
    assert len(cut.prompt_ids) >= min(p, limit // 4)


@pytest.mark.parametrize("ending", ["", END])
def test_raw_text_begins_as_the_tokenizer_begins_it_and_a_rendered_chat_as_it_says(ending: str) -> None:
    tokenizer = start_tokenizer(ending=ending)
    start, turn = tokenizer.convert_tokens_to_ids(["<start>", "<turn>"])
    whole = tokenizer("hi")["input_ids"]
    assert whole[0] == start and (whole[-1] == tokenizer.eos_token_id) == bool(ending)  # the tokenizer's word
    assert start_tokens(tokenizer) == [start]
    assert token_ids(tokenizer, ["hi"]) == [whole[:3]]
    assert token_ids(tokenizer, ["hi"], start=False) == [whole[1:3]]
    # Never twice, and a template that writes no start token gets none.
    assert token_ids(tokenizer, ["<start>hi", "<turn>hi"]) == [whole[:3], [turn, *whole[1:3]]]
    assert encode_prompts(tokenizer, ["hi", ""]) == [whole[:3], [start]]
    assert encode_prompts(tokenizer, ["hi"], rendered=True) == [whole[1:3]]
    pair = encode_pair(tokenizer, Preference("abcdef", "12", "3"), max_tokens=5)
    assert pair.prompt_ids == [start, *tokenizer("ef", add_special_tokens=False)["input_ids"]]
    assert pair.chosen_ids == tokenizer("12", add_special_tokens=False)["input_ids"]


def test_a_tokenizer_that_adds_nothing_is_left_alone() -> None:
    plain = byte_tokenizer()
    assert start_tokens(plain) == [] and token_ids(plain, ["hi", ""]) == [plain("hi")["input_ids"], []]


@given(st.lists(st.integers(), max_size=8), st.integers(0, 9), st.integers(0, 2))
def test_a_row_keeps_its_end_and_its_start_tokens(ids: list[int], room: int, heads: int) -> None:
    head = ids[:heads]
    kept = keep_end(ids, room, head)
    assert len(kept) == min(len(ids), room)
    if len(ids) > room > len(head):
        assert kept == head + ids[len(ids) - room + len(head) :]


def test_a_long_prompt_loses_its_beginning_and_a_long_response_its_end() -> None:
    pair = encode_pair(tokenizer, Preference("abcdef", "123", "45"), max_tokens=6)
    assert "".join(map(chr, pair.prompt_ids)) == "cdef" and "".join(map(chr, pair.chosen_ids)) == "12"
    pair = encode_pair(tokenizer, Preference("abcdef", "12345678", "45"), max_tokens=4)
    assert "".join(map(chr, pair.prompt_ids)) == "ef" and "".join(map(chr, pair.chosen_ids)) == "12"
    with pytest.raises(ValueError, match=r"at least 2 .*, got 1"):
        encode_pair(tokenizer, Preference("a", "b", "c"), max_tokens=1)
