"""Preferences as tokens: prompts are cut, answers are not, and what does not fit is refused and counted."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import END, byte_tokenizer, save_base, start_tokenizer

from rlhf_lite.data import row_counts
from rlhf_lite.data.row_counts import RowCounts
from rlhf_lite.models.reward_model import new_reward_model
from rlhf_lite.training.pairs import JudgedText, encode_judged, encode_preferences, encode_texts
from rlhf_lite.training.reward import score_pairs
from rlhf_lite.training.sft import encode_chats, encode_examples
from rlhf_lite.types import Message, Preference


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
        Preference("abcdefgh", "klm", "n"),  # the first loses two of the prompt, the second nothing
        Preference("abc", "d" * 9, "e"),  # the prompt stays whole, the answer is cut
        Preference("abcdefgh", "i" * 9, "j"),  # two thirds of the limit stay of the prompt
        Preference("", "a" * 9, ""),  # without a prompt, an answer may fill everything
        Preference("", "a" * 10, "a" * 9 + "b"),  # equal after the cut: refused
        Preference("ab", "c", "c"),
    ]
    counts = RowCounts(9)
    encoded = encode_texts(tokenizer, texts, max_tokens=9, counts=counts)
    decode = tokenizer.decode
    assert [(decode(p.chosen_ids), decode(p.rejected_ids)) for p in encoded.pairs] == [
        ("abcdefgh", "abcdefi"),
        ("cdefghklm", "abcdefghn"),
        ("abcdddddd", "abce"),
        ("cdefghiii", "abcdefghj"),
        ("a" * 9, tokenizer.eos_token),
    ]
    assert encoded.refused == [5, 6]
    assert encoded.pairs[1].characters == (11, 9)
    assert counts.record() == {"read": 7, "left_out": {row_counts.EQUAL_AFTER_CUT: 1, row_counts.EQUAL: 1},
                               "prompts_cut": 2, "answers_cut": 2, "used": 5, "max_tokens": 9,
                               "longest_tokens": 17}


def test_a_long_prompt_leaves_the_answers_to_the_reward_model(tmp_path):
    """Cut on the right, both texts of every pair would be the same tokens: loss log 2 for ever."""
    pairs = [Preference(f"question {i}: " + "why " * 30, " yes", " no") for i in range(4)]
    base = save_base(tmp_path / "base")
    shape = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "top_layers": 2, "target_modules": "all-linear"}
    model = new_reward_model(str(base), precision="fp32", max_tokens=24, seed=0, **shape)
    encoded = encode_texts(model.tokenizer, pairs, max_tokens=24).pairs
    assert [model.tokenizer.decode(p.chosen_ids)[-4:] for p in encoded] == [" yes"] * 4
    # What it scores is what it was trained on.
    texts = [p.prompt + p.chosen for p in pairs]
    ids, mask = model.encode(texts, [p.prompt for p in pairs])
    assert [row[m].tolist() for row, m in zip(ids, mask, strict=True)] == [p.chosen_ids for p in encoded]
    torch.nn.init.normal_(model.model.get_base_model().score.modules_to_save["default"].weight)
    chosen, rejected = score_pairs(model, pairs)
    assert (chosen != rejected).all()


def test_an_end_that_is_there_is_not_doubled():
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token
    pair = encode_preferences(tokenizer, [Preference("a", f"b{end}", "c")], max_tokens=9).pairs[0]
    assert tokenizer.decode(pair.chosen_ids) == f"b{end}" and tokenizer.decode(pair.rejected_ids) == f"c{end}"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("Hi<turn>\n", "Hi<turn>"), ("Hi<turn>", "Hi<turn>"), (f"Hi{END} \n\n", f"Hi{END}"),
     ("Hi\n", f"Hi\n{END}"), ("<turn>Hi", f"<turn>Hi{END}"), ("Hi<start>", f"Hi<start>{END}")],
)
def test_an_answer_that_its_template_ended_gets_no_second_end(answer, expected):
    """ChatML writes its end and a line feed; nobody samples what follows the end."""
    tokenizer = start_tokenizer()
    pair = encode_preferences(tokenizer, [Preference("a", answer, "b")], max_tokens=20).pairs[0]
    judged = encode_judged(tokenizer, [JudgedText("a", answer, True)], max_tokens=20).answers[0]
    (example,) = encode_examples(tokenizer, [("a", answer)], max_tokens=20)
    for ids in (pair.chosen_ids, judged.completion_ids, example.completion):
        assert tokenizer.decode(ids) == expected
    tokenizer.eos_token = None  # nothing to append
    assert encode_judged(tokenizer, [JudgedText("a", "Hi", True)], max_tokens=20).answers[0].completion_ids


def test_every_reader_of_raw_text_begins_it_as_the_tokenizer_does():
    tokenizer = start_tokenizer()
    start, pair = tokenizer.bos_token_id, Preference("ab", "cd", "ef")
    whole = tokenizer("ab")["input_ids"]
    assert whole[0] == start
    assert encode_preferences(tokenizer, [pair], max_tokens=9).pairs[0].prompt_ids == whole
    judged = encode_judged(tokenizer, [JudgedText("ab", "c", True)], max_tokens=9)
    assert judged.answers[0].prompt_ids == whole
    assert encode_examples(tokenizer, [("ab", "cd")], max_tokens=9)[0].prompt == whole
    read = encode_texts(tokenizer, [pair], max_tokens=9).pairs[0]
    assert [read.chosen_ids, read.rejected_ids] == tokenizer(["abcd", "abef"])["input_ids"]
    # A prompt that is cut keeps it, and rendered texts have it once.
    assert encode_preferences(tokenizer, [pair], max_tokens=5).pairs[0].prompt_ids == [start, whole[-1]]
    rendered = Preference("<start>ab", "cd", "ef")
    assert encode_texts(tokenizer, [rendered], max_tokens=9).pairs[0] == replace(read, characters=(11, 11))
    turns = [Message("user", "a"), Message("assistant", "b")]
    assert encode_chats(tokenizer, [turns], max_tokens=99)[0].prompt.count(start) == 1  # a plain transcript
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}.{% endfor %}"
    assert start not in encode_chats(tokenizer, [turns], max_tokens=99)[0].prompt  # as the template says


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
