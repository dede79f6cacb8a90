"""Splits of a preference file: no text and no prompt on both sides, whatever the rows look like."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lite.data import leaked_pairs, preferences_from_rows, refuse_leaks, split_of, split_preferences
from rlhf_lite.data.pairs import normalised
from rlhf_lite.errors import DataError
from rlhf_lite.types import Preference

# Enough unrelated pairs that no split is empty.
FILLER = [Preference(f"What is number {i} good for?", f" For {i}.", f" For {i + 1}.") for i in range(60)]


def sides(pairs: list[Preference], **options) -> dict[Preference, str]:
    divided = split_preferences(pairs, source="file", **options)
    return {pair: name for name, rows in divided.pairs.items() for pair in rows}


def together(pairs: Iterable[Preference]) -> bool:
    """Whether these pairs are all in one split, beside many others."""
    side = sides([*pairs, *FILLER])
    return len({side[pair] for pair in pairs}) == 1


def read(*rows: dict[str, object]) -> list[Preference]:
    return preferences_from_rows(rows).records


def dialogue(*turns: str) -> str:
    return "".join(f"\n\n{'Assistant' if i % 2 else 'Human'}: {turn}" for i, turn in enumerate(turns))


WORDS = st.sampled_from(["a", "b", "c", "d"])
LINES = st.lists(WORDS, min_size=1, max_size=2).map(" ".join)


@st.composite
def preferences(draw: st.DrawFn) -> Preference:
    """Short texts of few words, so that many are equal: plain, without a prompt, or conversations."""
    kind, good = draw(st.sampled_from(("plain", "bare", "dialogue"))), draw(LINES)
    bad = draw(LINES.filter(lambda text: text != good))
    if kind == "dialogue":
        turns = draw(st.lists(LINES, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2))
        return read({"chosen": dialogue(*turns, good), "rejected": dialogue(*turns, bad)})[0]
    prompt = draw(st.sampled_from("ijklmnop")) + " " + draw(LINES) + "?" if kind == "plain" else ""
    return Preference(prompt, good, bad)


def asked(pair: Preference) -> set[str]:
    """Prompts of a pair: its own, and in a conversation all that were answered before."""
    if pair.dialogue is None:
        return {normalised(pair.prompt)} - {""}
    turns = [turn.content for turn in pair.dialogue.prompt]
    return {normalised(dialogue(*turns[:n]) + " Assistant") for n in range(1, len(turns) + 1, 2)}


@settings(max_examples=60, deadline=None)
@given(st.lists(preferences(), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_no_text_and_no_prompt_is_in_two_splits(pairs, chooser: random.Random) -> None:
    pairs += FILLER + [replace(pair, prompt=pair.prompt + "!") for pair in FILLER]
    divided = split_preferences(pairs, source="file")
    report = divided.report
    assert sum(report.pairs.values()) + report.crossing == len(pairs)
    for one in divided.pairs:
        for other in set(divided.pairs) - {one}:
            assert leaked_pairs(divided.pairs[one], divided.pairs[other]) == []
            questions = [{q for pair in divided.pairs[name] for q in asked(pair)} for name in (one, other)]
            assert report.shared_prompts or not questions[0] & questions[1]
    before = sides(pairs)
    chooser.shuffle(pairs)
    assert sides(pairs) == before  # the order of the rows means nothing


def test_a_pair_that_shares_nothing_is_where_its_prompt_is() -> None:
    assert all(side == split_of(pair.prompt) for pair, side in sides(FILLER).items())
    parts = sides(FILLER, held_out=("test",))
    assert all((side == "test") == (split_of(pair.prompt) == "test") for pair, side in parts.items())


@pytest.mark.parametrize("seed", range(4))
def test_a_chain_of_texts_stays_together(seed: int) -> None:
    texts = [f"{seed} text {i}" for i in range(6)]
    assert together([Preference("", a, b) for a, b in pairwise(texts)])
    assert together([Preference("", texts[0], texts[1]), Preference("", texts[2], texts[1].upper() + "!")])


@pytest.mark.parametrize("i", range(4))
def test_a_conversation_at_several_lengths_stays_together(i: int) -> None:
    start = (f"Who wrote number {i}?", "Somebody.")
    rows = [{"chosen": dialogue(*turns, "Yes."), "rejected": dialogue(*turns, "No.")}
            for turns in (start[:1], (*start, "When?"), (*start, "Where?"), (*start, "When?", "So.", "Why?"))]
    pairs = read(*rows)
    assert together(pairs)
    assert together(pairs[1:3])  # none of them is the beginning of the other


@pytest.mark.parametrize("i", range(4))
def test_an_implicit_prompt_is_known_where_answers_begin_alike(i: int) -> None:
    question = f"Question {i}: what do you say?"
    answers = [("The film is good", "The film is bad"), ("A film", "A play"), ("Good", "Bad")]
    pairs = read(*({"chosen": f"{question} {a}", "rejected": f"{question} {b}"} for a, b in answers))
    assert [pair.prompt[len(question) :] for pair in pairs] == [" The film is", " A", ""]
    assert together(pairs)
    assert together(pairs[:2])  # the question alone is no pair's prompt
    short = read({"chosen": f"Why {i}? The b", "rejected": f"Why {i}? The c"},
                 {"chosen": f"Why {i}? Yes", "rejected": f"Why {i}? No"})
    assert together(short)
    bare = [replace(pair, prompt=pair.prompt.replace("?", "")) for pair in pairs]
    assert together([bare[0], bare[2]])


def test_small_beginnings_do_not_join() -> None:
    """Every second text of a file may begin with "The": that is no question."""
    rows = [{"chosen": f"The film {i} is good", "rejected": f"The play {i} is bad"} for i in range(200)]
    rows += [{"chosen": f"The film of {i} is good", "rejected": f"The film of {i} is bad"} for i in range(99)]
    divided = split_preferences(read(*rows), source="file")
    assert divided.report.groups > 290 and divided.report.crossing == 0
    assert divided.report.commonest == "the" and divided.report.shared_prompts == 1
    assert 100 < divided.report.pairs["train"] < 200


def test_a_prompt_that_the_file_has_in_common_joins_nothing() -> None:
    pairs = [Preference("Write a review:", f" good {i}", f" bad {i}") for i in range(200)]
    report = split_preferences(pairs, source="file").report
    assert (report.groups, report.crossing, report.shared_prompts) == (200, 0, 1)
    assert "'write a review'" in report.summary()
    few = [Preference(f"Question {i % 11}?", f" good {i}", f" bad {i}") for i in range(220)]
    divided = split_preferences([pair for pair in few if split_of(pair.prompt) != "test"], source="file")
    assert all(divided.pairs.values())  # given up rather than to leave a split empty


def test_a_ranking_of_few_texts_is_split_text_by_text() -> None:
    chooser = random.Random(0)
    texts = [f"text number {i}" for i in range(120)]
    drawn = [sorted(chooser.sample(range(120), 2)) for _ in range(3000)]
    pairs = [Preference("", texts[a], texts[b]) for a, b in drawn]
    divided = split_preferences(pairs, source="file", held_out=("test",))
    train, test, report = divided.pairs["train"], divided.pairs["test"], divided.report
    assert min(len(train), len(test)) > 20 and leaked_pairs(train, test) == []
    assert report.crossing == 3000 - len(train) - len(test) > 0
    assert f"{report.crossing} pairs left out" in report.summary()
    # Whoever learns by heart how often a text won knows all about texts of the training split, and no other.
    won = Counter(pair.chosen for pair in train)
    won.subtract(pair.rejected for pair in train)
    assert sum(won[pair.chosen] > won[pair.rejected] for pair in train) > 0.9 * len(train)
    assert all(won[pair.chosen] == won[pair.rejected] == 0 for pair in test)
    with pytest.raises(DataError, match=r"too few.*left out.*leaves validation") as found:
        split_preferences([Preference("", texts[i % 5], texts[i % 4 + 5]) for i in range(300)], source="f")
    assert "Fix: add pairs" in str(found.value)


def test_a_leak_is_an_error() -> None:
    with pytest.raises(DataError, match=r"f: has 1 texts .* for training and for testing.*'a b'"):
        refuse_leaks({"training": ["A b!", "c"], "validation": ["d"], "testing": ["a b", "e"]}, source="f")
    refuse_leaks({"training": ["a", "a"], "testing": ["b"]}, source="f")
