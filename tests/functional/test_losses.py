"""Reward-model and PPO losses: numbers by hand and from rlax, identities, and exact zeros of the gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lite.functional import bradley_terry_loss, centring_penalty, ppo_policy_loss, ppo_value_loss

floats = st.floats(-20, 20)


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# --- Bradley-Terry


def test_bradley_terry_by_hand():
    # P(chosen) = e^2 / (e^2 + e^1) for scores 2 and 1
    expected = -math.log(math.exp(2) / (math.exp(2) + math.exp(1)))
    loss = bradley_terry_loss(t(2, 5, 1), t(1, 5, 2))
    torch.testing.assert_close(loss, t(expected, math.log(2), expected + 1))
    assert bradley_terry_loss(t(3), t(1), margin=t(2)).item() == pytest.approx(math.log(2))
    assert bradley_terry_loss(t(3), t(1), margin=t(1)).item() == pytest.approx(expected)


def test_bradley_terry_stays_finite():
    chosen = torch.tensor([30.0, -30.0, 1e4, -1e4], requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.zeros(4))
    loss.sum().backward()
    expected = torch.tensor([math.exp(-30), 30.0, 0.0, 1e4])
    torch.testing.assert_close(loss.detach(), expected, atol=0, rtol=1e-6)
    # dL/dr = -(1 - σ(r))
    slopes = torch.tensor([-math.exp(-30), -1.0, 0.0, -1.0])
    torch.testing.assert_close(chosen.grad, slopes, atol=0, rtol=1e-6)


@given(a=floats, b=floats, shift=floats)
@settings(max_examples=60, deadline=None)
def test_bradley_terry_identities(a, b, shift):
    loss = bradley_terry_loss(t(a), t(b))
    torch.testing.assert_close(bradley_terry_loss(t(a + shift), t(b + shift)), loss)
    # Either one or the other is preferred: the two probabilities sum to one.
    assert (-loss).exp().item() + (-bradley_terry_loss(t(b), t(a))).exp().item() == pytest.approx(1.0)


def test_bradley_terry_gradient_pushes_the_two_scores_apart():
    chosen, rejected = t(0.4).requires_grad_(), t(0.4).requires_grad_()
    bradley_terry_loss(chosen, rejected).sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.5)
    assert rejected.grad.item() == pytest.approx(0.5)


def test_centring_penalty_by_hand():
    assert centring_penalty(t(1, -2, 3), t(2, 2, -1)).tolist() == [9.0, 0.0, 4.0]


# --- PPO's policy loss


def test_rlax_golden():
    # google-deepmind/rlax rlax/_src/policy_gradients_test.py, ClippedSurrogatePGLossTest
    logits = t(1, 1, 1, 2, 0, 0, -1, -2, -3).view(3, 3)
    old_logits = t(1, 1, 1, 2, 0, 0, -3, -2, -1).view(3, 3)
    actions = torch.arange(3)
    logp, old_logp = (torch.log_softmax(x, -1)[actions, actions] for x in (logits, old_logits))
    advantages = t(0.3, 0.2, 0.1)
    positive = ppo_policy_loss(logp, old_logp, advantages, clip=0.2)
    negative = ppo_policy_loss(logp, old_logp, -advantages, clip=0.2)
    assert positive.mean().item() == pytest.approx(-0.17117467, abs=1e-5)
    assert negative.mean().item() == pytest.approx(0.19333333, abs=1e-5)


# ρ, A -> loss, dloss/dlogp, with ε = 0.2
CASES = [
    (1.0, 2.0, -2.0, -2.0),
    (1.1, 2.0, -2.2, -2.2),
    (1.5, 2.0, -2.4, 0.0),  # good, and already much likelier: enough
    (1.5, -2.0, 3.0, 3.0),  # bad, and likelier: undo it
    (0.5, 2.0, -1.0, -1.0),  # good, and less likely: undo it
    (0.5, -2.0, 1.6, 0.0),  # bad, and already much less likely: enough
    (0.9, -2.0, 1.8, 1.8),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "slope"), CASES)
def test_policy_loss_and_gradient_by_hand(ratio, advantage, loss, slope):
    logp = t(math.log(ratio) - 3).requires_grad_()
    got = ppo_policy_loss(logp, t(-3), t(advantage), clip=0.2)
    got.sum().backward()
    assert got.item() == pytest.approx(loss)
    if slope == 0.0:
        assert logp.grad.item() == 0.0  # exactly
    else:
        assert logp.grad.item() == pytest.approx(slope)


def test_at_the_old_policy_the_gradient_is_the_policy_gradient():
    logp = t(-1, -2, -3).requires_grad_()
    advantages = t(0.5, -4, 0)
    ppo_policy_loss(logp, logp.detach(), advantages, clip=0.2).sum().backward()
    torch.testing.assert_close(logp.grad, -advantages)


@given(logp=st.floats(-10, 10), old=st.floats(-10, 10), advantage=floats, clip=st.floats(0.01, 0.9))
@settings(max_examples=60, deadline=None)
def test_the_clipped_objective_is_a_lower_bound(logp, old, advantage, clip):
    loss = ppo_policy_loss(t(logp), t(old), t(advantage), clip=clip).item()
    plain = -math.exp(logp - old) * advantage
    assert loss >= plain - 1e-9 * abs(plain)


# --- PPO's value loss


# V, V_old, R -> loss, dloss/dV, with ε = 0.2
VALUE_CASES = [
    (1.1, 1.0, 2.0, 0.5 * 0.81, -0.9),
    (1.5, 1.0, 2.0, 0.5 * 0.64, 0.0),  # moved far enough towards the target
    (0.5, 1.0, 2.0, 0.5 * 2.25, -1.5),  # moved away: the plain error is larger
    (1.5, 1.0, 0.0, 0.5 * 2.25, 1.5),
    (0.5, 1.0, 0.0, 0.5 * 0.64, 0.0),
]


@pytest.mark.parametrize(("value", "old", "target", "loss", "slope"), VALUE_CASES)
def test_value_loss_and_gradient_by_hand(value, old, target, loss, slope):
    values = t(value).requires_grad_()
    got = ppo_value_loss(values, t(old), t(target), clip=0.2)
    got.sum().backward()
    assert got.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(slope, abs=0.0 if slope == 0.0 else 1e-9)


def test_value_loss_without_clip_is_half_the_squared_error():
    values = t(5).requires_grad_()
    loss = ppo_value_loss(values, t(1), t(2), clip=None)
    loss.sum().backward()
    assert (loss.item(), values.grad.item()) == (4.5, 3.0)


# --- Doors


@pytest.mark.parametrize(
    "call",
    [
        lambda b, bt: bradley_terry_loss(b, bt),
        lambda b, bt: bradley_terry_loss(b, b, margin=bt),
        lambda b, bt: centring_penalty(b, bt),
        lambda b, bt: ppo_policy_loss(bt, bt, b, clip=0.2),
        lambda b, bt: ppo_policy_loss(bt, b, bt, clip=0.2),
        lambda b, bt: ppo_value_loss(bt, b, bt, clip=0.2),
        lambda b, bt: ppo_value_loss(bt, bt, b, clip=None),
    ],
)
def test_no_broadcasting(call):
    with pytest.raises(ValueError, match="one shape"):
        call(torch.zeros(3), torch.zeros(2, 3))


def test_clip_must_be_positive():
    with pytest.raises(ValueError, match=r"clip must be positive, got 0\.0"):
        ppo_policy_loss(t(1), t(1), t(1), clip=0.0)
