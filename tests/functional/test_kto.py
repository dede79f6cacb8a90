"""KTO's loss: numbers by hand, the clamped baseline, and what must not receive a gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lite.functional import kto_baseline, kto_loss

LN2 = math.log(2)


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def yes(*flags: int) -> torch.Tensor:
    return torch.tensor(flags, dtype=torch.bool)


def test_by_hand():
    # Δ = 3 and -1, z = 1, β = log 2: σ(2 log 2) = 4/5 and σ(-2 log 2) = 1/5
    policy, ref = t(-1, -6, -1, -6), t(-4, -5, -4, -5)
    loss = kto_loss(policy, ref, yes(1, 1, 0, 0), beta=LN2, kl=1.0)
    assert loss.tolist() == pytest.approx([1 / 5, 4 / 5, 4 / 5, 1 / 5])
    weighted = kto_loss(
        policy, ref, yes(1, 0, 0, 1), beta=LN2, kl=t(1.0)[0], desirable_weight=2.0, undesirable_weight=3.0
    )
    assert weighted.tolist() == pytest.approx([2 / 5, 3 / 5, 12 / 5, 8 / 5])


def test_at_the_reference_without_kl_every_answer_costs_one_half():
    loss = kto_loss(t(-3, -4), t(-3, -4), yes(1, 0), beta=0.1, kl=0.0)
    assert loss.tolist() == [0.5, 0.5]


def test_the_baseline_is_clamped_at_zero():
    arguments = (t(-1, -6), t(-4, -5), yes(1, 0))
    below = kto_loss(*arguments, beta=0.3, kl=-5.0)
    assert torch.equal(below, kto_loss(*arguments, beta=0.3, kl=0.0))
    assert kto_baseline(t(-3, -8), t(-1, -1)).item() == 0.0
    assert kto_baseline(t(-1, -1), t(-3, -8)).item() == 4.5  # the mean of 2 and 7
    assert kto_baseline(t(-1, -8), t(-3, -7)).item() == 0.5  # clamped after the mean, not before: 2 and -1


def test_no_gradient_through_the_baseline_or_the_reference():
    mismatched, ref = t(-1, -1).requires_grad_(), t(-3, -2).requires_grad_()
    baseline = kto_baseline(mismatched, t(-3, -8))
    assert not baseline.requires_grad
    live = mismatched.mean() + 2.0
    policy = t(-1, -6).requires_grad_()
    kto_loss(policy, ref, yes(1, 0), beta=0.3, kl=live).sum().backward()
    assert mismatched.grad is None and ref.grad is None
    assert policy.grad[0] < 0 < policy.grad[1]  # descent raises the liked answer and lowers the other


def test_gradient():
    policy = t(-1, -6, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: kto_loss(
            x, t(-2, -5, 1), yes(1, 0, 0), beta=0.7, kl=0.4, desirable_weight=1.3, undesirable_weight=0.6
        ),
        policy,
    )


@given(gain=st.floats(-20, 20), kl=st.floats(0, 10), beta=st.floats(0.01, 2), weight=st.floats(0.1, 4))
@settings(max_examples=25, deadline=None)
def test_the_two_kinds_mirror_each_other(gain, kl, beta, weight):
    # Saying "liked" or "disliked" of one answer: the two losses sum to the weight.
    arguments = {"beta": beta, "kl": kl, "desirable_weight": weight, "undesirable_weight": weight}
    liked, disliked = (kto_loss(t(gain), t(0.0), yes(flag), **arguments).item() for flag in (1, 0))
    assert liked + disliked == pytest.approx(weight)
    assert liked <= disliked if gain >= kl else liked >= disliked


def test_extreme_inputs_stay_finite_and_keep_their_digits():
    policy = torch.tensor([0.0, -1e4, 0.0, -1e4], requires_grad=True)
    loss = kto_loss(policy, torch.tensor([-1e4, 0.0, -1e4, 0.0]), yes(1, 1, 0, 0), beta=1.0, kl=0.0)
    loss.sum().backward()
    assert loss.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert bool(torch.isfinite(policy.grad).all())
    # 1 - σ(50) is 0 in floating point; σ(-50) is e^-50.
    tiny = kto_loss(t(50), t(0), yes(1), beta=1.0, kl=0.0)
    assert tiny.item() == pytest.approx(math.exp(-50), rel=1e-9, abs=0)


def test_wrong_input_is_an_error():
    with pytest.raises(TypeError, match=r"desirable must be a bool tensor, got torch\.int64"):
        kto_loss(t(-1), t(-1), torch.tensor([1]), beta=0.1, kl=0.0)
    with pytest.raises(ValueError, match="one shape"):
        kto_loss(t(-1, -2), t(-1, -2), yes(1), beta=0.1, kl=0.0)
    with pytest.raises(ValueError, match="1 dim"):
        kto_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3).bool(), beta=0.1, kl=0.0)
    with pytest.raises(ValueError, match=r"one number for the whole batch, got shape \(2,\)"):
        kto_loss(t(-1, -2), t(-1, -2), yes(1, 0), beta=0.1, kl=t(0.1, 0.2))
    with pytest.raises(ValueError, match="beta must be positive"):
        kto_loss(t(-1), t(-1), yes(1), beta=0.0, kl=0.0)
    with pytest.raises(ValueError, match="one shape"):
        kto_baseline(t(-1, -2), t(-1))
