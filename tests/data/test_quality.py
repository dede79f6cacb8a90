"""Near copies against brute force, leaks against hand-made splits, each rule on a text that breaks it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lite.data.quality import (
    character_ngrams,
    jaccard,
    leaked_pairs,
    length_count,
    near_duplicates,
    text_problems,
)
from rlhf_lite.types import Preference


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("A gripping film with a heart.", []),
        ("Dull film", ["short"]),
        ("?! ... --", ["no letters"]),
        ("Tom &amp; Jerry is fun", ["HTML entity"]),
        ("R&D; the film, and B&B again", []),
        ("read https://example.org for more", ["web address"]),
        ("It\u00c3\u00a9 was good", ["wrong encoding"]),
        ("a film about caf\u00e9s and \u00c2ge", []),
        ("a film  about nothing", ["lost character"]),
        ("very very very very good", ["one word again and again"]),
        ("very, very, very good indeed", []),
        ("THIS FILM IS THE BEST FILM EVER", ["capitals"]),
        ("", ["short", "no letters"]),
    ],
)
def test_text_problems(text: str, problems: list[str]) -> None:
    assert text_problems(text) == problems


def test_ngrams_and_jaccard_by_hand() -> None:
    assert character_ngrams("Abc, d!", 3) == {"abc", "bc ", "c d"}
    assert character_ngrams("Ab", 5) == {"ab"}
    assert character_ngrams("", 5) == frozenset()
    assert jaccard({"a", "b", "c"}, {"b", "c", "d", "e"}) == pytest.approx(2 / 5)
    assert jaccard(set(), set()) == 1.0
    with pytest.raises(ValueError, match="n must"):
        character_ngrams("abc", 0)


@given(
    st.lists(st.text("ab c", max_size=12), max_size=12),
    st.sampled_from([0.2, 0.5, 2 / 3, 0.7, 0.9, 1.0]),
    st.integers(1, 4),
)
def test_near_duplicates_are_those_of_brute_force(texts: list[str], threshold: float, n: int) -> None:
    grams = [character_ngrams(text, n) for text in texts]
    expected = {
        (i, j)
        for j in range(len(texts))
        for i in range(j)
        if grams[i] and grams[j] and jaccard(grams[i], grams[j]) >= threshold
    }
    found = near_duplicates(texts, threshold=threshold, n=n)
    assert {(d.first, d.second) for d in found} == expected
    assert [d.similarity for d in found] == sorted((d.similarity for d in found), reverse=True)


def test_near_duplicates_of_prose() -> None:
    draw = random.Random(0)
    words = [f"word{i}" for i in range(300)]
    texts = [" ".join(draw.choices(words, k=20)) for _ in range(200)]
    texts[150] = texts[20].upper() + "!"
    texts[151] = texts[30] + " and more"
    found = near_duplicates(texts, threshold=0.7)
    assert [(d.first, d.second) for d in found] == [(20, 150), (30, 151)]
    assert found[0].similarity == 1.0 > found[1].similarity
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates(texts, threshold=0)


def pair(prompt: str, chosen: str, rejected: str) -> Preference:
    return Preference(prompt, chosen, rejected)


def test_leaked_pairs() -> None:
    train = [pair("The", " film is good", " plot is thin"), pair("", "A joy.", "A mess.")]
    test = [
        pair("The", " music is fine", " plot is thin."),  # rejected before
        pair("The", " story drags", " cast is great"),
        pair("The film", " is good", " is long"),  # the same whole text with a longer prompt
        pair("", "a MESS", "What a day"),  # other case
        pair("A", " joy", " film"),
    ]
    assert leaked_pairs(train, test) == [0, 2, 3, 4]
    assert leaked_pairs([], test) == leaked_pairs(train, []) == []


def test_length_count_by_hand() -> None:
    pairs = [
        pair("x", " a b c", " a"),
        pair("x", " a", " b"),
        pair("x", " aaaaaaaaaa", " b c"),
        pair("", "a b", "c"),
    ]
    assert length_count(pairs) == (2, 1, 1)
