"""Preferences as tokens: prompts are cut, answers are not, and what does not fit is refused and counted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer

from rlhf_lite.training.pairs import JudgedText, encode_judged, encode_preferences, encode_texts
from rlhf_lite.types import Preference


def test_a_prompt_is_cut_and_an_answer_never():
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token
    texts = [
        Preference("abcdef", "gh", "i"),  # 6 + 3: fits
        Preference("abcdefghij", "klm", "n"),  # the prompt loses its first five
        Preference("abc", "d" * 8, "e"),  # the chosen answer and its end fill everything: refused
        Preference("abc", "d", "e" * 9),  # so does the rejected one
        Preference("", "a", "b"),  # sampling would start at the start token
        Preference("x", "y", "y"),  # no preference at all
    ]
    found = encode_preferences(tokenizer, texts, max_tokens=9)
    decode = tokenizer.decode
    assert [(decode(p.prompt_ids), decode(p.chosen_ids), decode(p.rejected_ids)) for p in found.pairs] == [
        ("abcdef", f"gh{end}", f"i{end}"),
        ("fghij", f"klm{end}", f"n{end}"),
        (end, f"a{end}", f"b{end}"),
    ]
    assert found.refused == [2, 3, 5]
    bare_ends = encode_preferences(tokenizer, texts[:1], max_tokens=9, end=False).pairs[0]
    assert decode(bare_ends.chosen_ids) == "gh"
    with pytest.raises(ValueError, match="max_tokens must be at least 2"):
        encode_preferences(tokenizer, texts, max_tokens=1)


def test_whole_texts_are_cut_by_the_same_rule():
    tokenizer = byte_tokenizer()
    texts = [
        Preference("abcdef", "gh", "i"),
        Preference("abcdefgh", "klm", "n"),  # both lose the first two of the prompt
        Preference("abc", "d" * 9, "e"),  # no room for one token of the prompt: refused
        Preference("abc", "d", "e" * 8),  # room for one
        Preference("", "a" * 9, ""),  # without a prompt, an answer may fill everything
        Preference("", "a" * 10, "b"),
    ]
    encoded = encode_texts(tokenizer, texts, max_tokens=9)
    decode = tokenizer.decode
    assert [(decode(p.chosen_ids), decode(p.rejected_ids)) for p in encoded.pairs] == [
        ("abcdefgh", "abcdefi"),
        ("cdefghklm", "cdefghn"),
        ("cd", "c" + "e" * 8),
        ("a" * 9, tokenizer.eos_token),
    ]
    assert encoded.refused == [2, 5]
    assert encoded.pairs[1].characters == (11, 9)
    cut = encode_texts(tokenizer, texts, max_tokens=9, cut_answers=True)
    assert not cut.refused and decode(cut.pairs[1].chosen_ids) == "abcdefghk"
    assert all(p.chosen_ids == q.chosen_ids for p, q in zip(cut.pairs[:1], encoded.pairs[:1], strict=True))


def test_an_end_that_is_there_is_not_doubled():
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token
    pair = encode_preferences(tokenizer, [Preference("a", f"b{end}", "c")], max_tokens=9).pairs[0]
    assert tokenizer.decode(pair.chosen_ids) == f"b{end}" and tokenizer.decode(pair.rejected_ids) == f"c{end}"


def test_judged_texts():
    tokenizer = byte_tokenizer()
    texts = [JudgedText("abcdefgh", "ij", True), JudgedText("a", "b" * 9, False), JudgedText("a", "c", False)]
    found = encode_judged(tokenizer, texts, max_tokens=6)
    decode = tokenizer.decode
    assert [(decode(a.prompt_ids), decode(a.completion_ids), a.desirable) for a in found.answers] == [
        ("fgh", f"ij{tokenizer.eos_token}", True),
        ("a", f"c{tokenizer.eos_token}", False),
    ]
    assert found.refused == [1]
