"""Agreement against the published example, votes against hand-made pairs and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lite.data.pairs import agreement
from rlhf_lite.data.reliability import (
    agreement_with_rest,
    flip_probability,
    krippendorff_alpha,
    majority_error,
    rater_consistency,
    reliability_of_mean,
)
from rlhf_lite.types import Rating

scores = st.lists(st.integers(-4, 4), min_size=1, max_size=5)


def rating(*values: int) -> Rating:
    return Rating("1", "a text", values, "test")


# Krippendorff 2011, section C: four observers, twelve units, blanks. Moved by -3 into our scale, which
# changes neither differences nor the order.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_the_published_example(level: str, published: float) -> None:
    units = [rating(*(v - 3 for v in unit if v is not None)) for unit in zip(*OBSERVERS, strict=True)]
    assert krippendorff_alpha(units, level=level) == pytest.approx(published, abs=5e-4)  # type: ignore[arg-type]  # a str


def test_alpha_by_hand() -> None:
    # Two texts, two raters: (0, 2) and (2, 2). Observed: mean squared difference within texts, (4 + 0) / 2.
    # Expected: of the 6 pairs of the four scores 0 2 2 2, 3 differ by 2: 3 * 4 / 6 = 2. Alpha = 1 - 2 / 2.
    assert krippendorff_alpha([rating(0, 2), rating(2, 2)]) == pytest.approx(0.0)
    assert krippendorff_alpha([rating(-4, -4), rating(4, 4, 4)]) == 1.0


def test_alpha_refuses_what_it_cannot_say() -> None:
    with pytest.raises(ValueError, match="two raters"):
        krippendorff_alpha([rating(1), rating(2)])
    with pytest.raises(ValueError, match="nothing to agree about"):
        krippendorff_alpha([rating(1, 1), rating(1, 1), rating(3)])
    with pytest.raises(ValueError, match="two raters"):
        krippendorff_alpha([])


def test_reliability_of_mean() -> None:
    assert reliability_of_mean(0.5, 1) == 0.5
    assert reliability_of_mean(0.5, 2) == pytest.approx(2 / 3)  # 2 * 0.5 / 1.5
    assert reliability_of_mean(0.0, 9) == 0.0
    with pytest.raises(ValueError, match="at least 1"):
        reliability_of_mean(0.5, 0)


def test_rater_consistency_finds_the_odd_one_out() -> None:
    truth = np.array([-3, -1, 0, 2, 3])
    table = np.stack([truth, truth + 1, truth, -truth, np.zeros(5)], axis=1)
    found = rater_consistency(table)
    # The first rater against the mean of the others: (truth + 1 + truth - truth + 0) / 4, a rising line.
    assert found == pytest.approx([1.0, 1.0, 1.0, -1.0, 0.0])
    others = [np.delete(table, j, axis=1).mean(axis=1) for j in range(4)]
    assert found[:4] == pytest.approx([np.corrcoef(table[:, j], others[j])[0, 1] for j in range(4)])
    with pytest.raises(ValueError, match="shape"):
        rater_consistency([[1, 2, 3]])


def test_majority_error_by_hand() -> None:
    assert majority_error(0.8, 1) == pytest.approx(0.2)
    # Three votes: none right 0.008, one right 3 * 0.8 * 0.04 = 0.096.
    assert majority_error(0.8, 3) == pytest.approx(0.104)
    # Two votes: none right 0.04, and half of the tie 2 * 0.8 * 0.2 = 0.32: no better than one vote.
    assert majority_error(0.8, 2) == pytest.approx(0.2)
    assert majority_error(0.5, 7) == pytest.approx(0.5)
    assert majority_error(1.0, 4) == 0.0
    with pytest.raises(ValueError, match="votes"):
        majority_error(0.5, 0)


def test_flip_probability_by_hand() -> None:
    # (0, 2) against (1, 1): a vote is a win or a loss with one half each.
    assert flip_probability(rating(0, 2), rating(1), votes=3) == pytest.approx(0.5)
    # (1, 1, 1, 0) against (0): win 3/4, tie 1/4. Three votes: only three ties leave it to the coin, 1/128.
    assert flip_probability(rating(1, 1, 1, 0), rating(0), votes=3) == pytest.approx(0.5 / 64)
    with pytest.raises(ValueError, match="votes"):
        flip_probability(rating(1), rating(0), votes=0)


@given(scores, scores)
def test_one_vote_is_the_agreement(a: list[int], b: list[int]) -> None:
    one, other = rating(*a), rating(*b)
    assert flip_probability(one, other) == pytest.approx(1 - agreement(one, other))
    assert flip_probability(one, other, votes=4) == pytest.approx(1 - flip_probability(other, one, votes=4))


def test_flip_probability_is_what_enumeration_gives() -> None:
    a, b = (3, 0, -1), (1, -2)
    votes = [np.sign(x - y) for x in a for y in b]
    sums = [sum(three) for three in itertools.product(votes, repeat=3)]
    expected = np.mean([0.5 * (s == 0) + (s < 0) for s in sums])
    assert flip_probability(rating(*a), rating(*b), votes=3) == pytest.approx(expected)


def test_agreement_with_rest() -> None:
    # Nobody disagrees; the judges are two of (2, 3, 4) and one of (-1, 0).
    found = agreement_with_rest(rating(2, 3, 4), rating(-1, 0), [1], draws=50)
    assert found.agrees.tolist() == [[1.0]] * 50
    assert set(found.gap) <= {2.5, 3.0, 3.5, 4.0, 4.5} and len(set(found.gap)) > 2
    # (4, 0) against (1, 1), one vote: whoever votes 4 leaves 0 behind, and the other way round.
    assert agreement_with_rest(rating(4, 0), rating(1, 1), [1], draws=20).agrees.max() == 0.0
    one, other = rating(*[2, 1, 0] * 6), rating(*[1, 0, -1] * 6)
    forward = agreement_with_rest(one, other, [1, 3, 9], draws=400).agrees.mean(axis=0)
    assert forward[0] < forward[1] < forward[2]
    # One vote wins with probability 6/9 and ties with 2/9: 7/9 (the rest nearly always has the right order).
    assert forward[0] == pytest.approx(7 / 9, abs=0.06)
    turned = agreement_with_rest(other, one, [1, 3, 9], draws=400).agrees.mean(axis=0)
    assert turned == pytest.approx(forward, abs=0.06)
    with pytest.raises(ValueError, match="from 1 to 17"):
        agreement_with_rest(one, other, [18])
    with pytest.raises(ValueError, match="none"):
        agreement_with_rest(one, other, [])
