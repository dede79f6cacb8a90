"""New pairs say what the old ones imply, and nothing else."""

from __future__ import annotations

import random

import pytest

from rlhf_lite.data.augmentation import ShownPair, both_orders, drop_words, implied_wins


def test_both_orders_by_hand() -> None:
    assert both_orders([ShownPair("a", "b", True)]) == [("a", "b", True), ("b", "a", False)]
    assert both_orders([]) == []


def test_implied_wins_by_hand() -> None:
    assert implied_wins([("a", "b"), ("b", "c"), ("c", "d")]) == [("a", "c"), ("b", "d")]
    # Known already, in either direction.
    assert implied_wins([("a", "b"), ("b", "c"), ("a", "c")]) == []
    assert implied_wins([("a", "b"), ("b", "c"), ("c", "a")]) == []
    # a > b > c and c > d > a: a over c and c over a both follow (and so do b over d, d over b).
    assert implied_wins([("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")]) == []
    # Two ways to the same pair give it once; a win against itself is nothing.
    assert implied_wins([(1, 2), (2, 9), (1, 3), (3, 9)]) == [(1, 9)]
    assert implied_wins([("a", "b"), ("b", "a")]) == []


def test_drop_words() -> None:
    text = "one two  three four five"
    assert drop_words(text, 0.0, random.Random(0)) == "one two three four five"
    assert drop_words(text, 1.0, random.Random(0)) in text.split()
    kept = [len(drop_words(text, 0.4, random.Random(seed)).split()) for seed in range(400)]
    assert min(kept) >= 1 and sum(kept) / 400 == pytest.approx(3.0, abs=0.2)  # 5 * 0.6
    words = drop_words(text, 0.4, random.Random(1)).split()
    assert words == [word for word in text.split() if word in words]  # the order stays
    assert drop_words("", 0.5, random.Random(0)) == ""
    with pytest.raises(ValueError, match="share"):
        drop_words(text, 1.5, random.Random(0))
