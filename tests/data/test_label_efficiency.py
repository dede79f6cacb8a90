"""Choices against hand-made pools, variances against the plain inverse, new pairs against the old ones."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from rlhf_lite.data.label_efficiency import (
    ShownPair,
    both_orders,
    drop_words,
    implied_wins,
    most_diverse,
    most_uncertain,
    score_variance,
)


def test_most_uncertain_by_hand() -> None:
    assert most_uncertain([3.0, -0.1, 0.5, -2.0], 2).tolist() == [1, 2]
    assert most_uncertain([1.0], 0).tolist() == []
    with pytest.raises(ValueError, match="from 0 to 1"):
        most_uncertain([1.0], 2)


def test_most_diverse_visits_every_cluster_first() -> None:
    centres = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [50.0, 50.0]])
    rows = np.repeat(centres, 25, axis=0) + np.random.default_rng(0).normal(size=(100, 2)) * 0.01
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert sorted(most_diverse(rows, 4, rng=rng) // 25) == [0, 1, 2, 3]
        assert set(most_diverse(rows, 2, have=[3, 60], rng=rng) // 25) == {1, 3}


def test_most_diverse_never_repeats() -> None:
    rng = np.random.default_rng(0)
    same = np.ones((6, 2))  # distances are all zero
    assert sorted([*most_diverse(same, 4, have=[0, 5], rng=rng)]) == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="from 0 to 4"):
        most_diverse(same, 5, have=[0, 5], rng=rng)


def test_score_variance_is_the_plain_inverse() -> None:
    rng = np.random.default_rng(0)
    features, bought, weights = rng.normal(size=(7, 3)), rng.normal(size=(20, 3)), rng.normal(size=3)
    p = 1 / (1 + np.exp(-bought @ weights))
    inverse = np.linalg.inv(bought.T @ np.diag(p * (1 - p)) @ bought + 0.5 * np.eye(3))
    expected = [x @ inverse @ x for x in features]
    assert score_variance(features, bought, weights, precision=0.5) == pytest.approx(expected)
    sparse = score_variance(csr_matrix(features), csr_matrix(bought), weights, precision=0.5)
    assert sparse == pytest.approx(expected)
    # Nothing bought: |x|^2 / precision.
    nothing = score_variance([[3.0, 4.0]], np.zeros((0, 2)), np.zeros(2), precision=2.0)
    assert nothing == pytest.approx([12.5])
    with pytest.raises(ValueError, match="precision"):
        score_variance(features, bought, weights, precision=0.0)


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
