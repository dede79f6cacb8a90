"""Losses on ratings and ordered grades: by hand, and probabilities that sum to one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from rlhf_lite.functional import centring_penalty, ordinal_loss, rating_regression_loss

LN3 = math.log(3)


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_regression_by_hand():
    assert rating_regression_loss(t(1, -2, 0.5), t(3, -2, 0)).tolist() == [2.0, 0.0, 0.125]
    # 20 raters with deviation 2: weight 20 / 4
    assert rating_regression_loss(t(1), t(3), weights=t(5)).tolist() == [10.0]
    scores = t(1, -2).requires_grad_()
    rating_regression_loss(scores, t(3, -2.5), weights=t(1, 4)).sum().backward()
    assert scores.grad.tolist() == [-2.0, 2.0]


def test_the_regression_is_minimal_at_the_weighted_mean():
    ratings, weights = t(1, 4, -2), t(1, 2, 5)
    best = (ratings * weights).sum() / weights.sum()

    def total(score):
        return rating_regression_loss(score.expand(3), ratings, weights=weights).sum()

    assert total(best) < min(total(best + 0.01), total(best - 0.01))


def test_ordinal_by_hand():
    # P(grade <= 0) = σ(-log 3) = 1/4, P(grade <= 1) = σ(log 3) = 3/4 at score 0
    grades, thresholds = torch.tensor([0, 1, 2]), t(-LN3, LN3)
    at_zero = ordinal_loss(torch.zeros(3).double(), grades, thresholds)
    assert (-at_zero).exp().tolist() == pytest.approx([1 / 4, 1 / 2, 1 / 4])
    # at score log 3: σ(-2 log 3) = 1/10 and σ(0) = 1/2; a higher score means higher grades
    higher = ordinal_loss(torch.full((3,), LN3).double(), grades, thresholds)
    assert (-higher).exp().tolist() == pytest.approx([0.1, 0.4, 0.5])


@given(
    score=st.floats(-30, 30),
    steps=st.lists(st.floats(0.01, 5), min_size=0, max_size=5),
    first=st.floats(-5, 5),
)
@settings(max_examples=30, deadline=None)
def test_probabilities_of_all_grades_sum_to_one(score, steps, first):
    thresholds = (torch.tensor([first, *steps], dtype=torch.float64)).cumsum(0)
    count = len(steps) + 2
    losses = ordinal_loss(torch.full((count,), score).double(), torch.arange(count), thresholds)
    assert (-losses).exp().sum().item() == pytest.approx(1.0, abs=1e-9)


def test_one_threshold_is_logistic_regression():
    scores, grades = t(0.3, -2, 5), torch.tensor([1, 0, 0])
    expected = binary_cross_entropy_with_logits(scores - 0.7, grades.double(), reduction="none")
    torch.testing.assert_close(ordinal_loss(scores, grades, t(0.7)), expected)


def test_gradients_of_scores_and_thresholds():
    inputs = (t(0.3, -2, 1, 0.1).requires_grad_(), t(-1, 0.2, 0.9).requires_grad_())
    grades = torch.tensor([0, 1, 3, 2])
    assert torch.autograd.gradcheck(lambda scores, cuts: ordinal_loss(scores, grades, cuts), inputs)


def test_extreme_scores_and_close_thresholds_stay_finite():
    scores = torch.tensor([1e4, -1e4, 1e4, -1e4, 0.0, 1e4]).requires_grad_()
    cuts = torch.tensor([0.0, 1e-6]).requires_grad_()
    loss = ordinal_loss(scores, torch.tensor([0, 0, 2, 2, 1, 1]), cuts)
    loss.sum().backward()
    for x in (loss, scores.grad, cuts.grad):
        assert bool(torch.isfinite(x).all())
    # P(1) = σ'(0) · 1e-6
    assert loss[4].item() == pytest.approx(-math.log(0.25e-6), rel=1e-4)


def test_wrong_input_is_an_error():
    two = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="one shape"):
        rating_regression_loss(t(1, 2), t(1))
    with pytest.raises(ValueError, match="one shape"):
        rating_regression_loss(t(1, 2), t(1, 2), weights=t(1))
    with pytest.raises(ValueError, match=r"weights must not be negative, got -1\.0"):
        rating_regression_loss(t(1, 2), t(1, 2), weights=t(1, -1))
    with pytest.raises(ValueError, match="one shape"):
        ordinal_loss(t(1), two, t(0))
    for bad in (t(1, 1), t(2, 1), t()):
        with pytest.raises(ValueError, match="increasing"):
            ordinal_loss(t(1, 2), two, bad)
    for grades in (torch.tensor([0, 2]), torch.tensor([-1, 0]), t(0, 1)):
        with pytest.raises(ValueError, match="whole numbers from 0 to 1"):
            ordinal_loss(t(1, 2), grades, t(0))
    with pytest.raises(ValueError, match="one shape"):
        centring_penalty(t(1, 2), t(1))
