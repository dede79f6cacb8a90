"""Group and leave-one-out advantages: by hand, and the exact policy gradient by enumerating every group."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lite.functional import (
    discounted_returns,
    group_advantages,
    grpo_loss,
    reinforce_loss,
    rloo_advantages,
)


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_by_hand():
    rewards = t(1, 3, 2, 2, 0, 10)
    none = group_advantages(rewards, group_size=2, scale="none")
    assert none.tolist() == [-1, 1, 0, 0, -5, 5]
    # Two rewards a and b have the sample deviation |a - b| / √2.
    expected = [-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4), 0, 0]
    expected += [-5 / (5 * math.sqrt(2) + 1e-4), 5 / (5 * math.sqrt(2) + 1e-4)]
    assert group_advantages(rewards, group_size=2).tolist() == pytest.approx(expected, rel=1e-12)
    assert rloo_advantages(rewards, group_size=2).tolist() == [-2, 2, 0, 0, -10, 10]

    triple = t(0, 0, 3)
    assert group_advantages(triple, group_size=3, scale="none").tolist() == [-1, -1, 2]
    scaled = [x / (math.sqrt(3) + 0.5) for x in (-1, -1, 2)]
    assert group_advantages(triple, group_size=3, eps=0.5).tolist() == pytest.approx(scaled)
    assert rloo_advantages(triple, group_size=3).tolist() == [-1.5, -1.5, 3]


@pytest.mark.parametrize("reward", [0.0, 0.1, 1e6 + 0.1, -1e30])
def test_equal_rewards_give_exact_zeros(reward):
    rewards = torch.full((6,), reward)  # float32: the mean of three times 0.1 is not 0.1
    for advantages in (
        group_advantages(rewards, group_size=3),
        group_advantages(rewards, group_size=3, scale="none"),
        rloo_advantages(rewards, group_size=3),
    ):
        assert advantages.tolist() == [0.0] * 6


groups = st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=4)


@given(rows=groups, shift=st.floats(-100, 100))
@settings(max_examples=25, deadline=None)
def test_identities(rows, shift):
    rewards = torch.tensor(rows, dtype=torch.float64).flatten()
    none = group_advantages(rewards, group_size=3, scale="none")
    loo = rloo_advantages(rewards, group_size=3)
    torch.testing.assert_close(loo, 1.5 * none, atol=1e-9, rtol=1e-9)  # K/(K-1)
    torch.testing.assert_close(none.view(-1, 3).sum(1), torch.zeros(len(rows)).double(), atol=1e-9, rtol=0)
    for i, row in enumerate(rows):
        others = [(sum(row) - reward) / 2 for reward in row]
        expected = [reward - other for reward, other in zip(row, others, strict=True)]
        assert loo.view(-1, 3)[i].tolist() == pytest.approx(expected, abs=1e-9)
    for function in (group_advantages, rloo_advantages):
        torch.testing.assert_close(
            function(rewards + shift, group_size=3), function(rewards, group_size=3), atol=1e-6, rtol=1e-6
        )
    # One group does not see another.
    alone = torch.cat([group_advantages(r, group_size=3) for r in rewards.split(3)])
    torch.testing.assert_close(group_advantages(rewards, group_size=3), alone)


def test_scaled_advantages_have_unit_deviation():
    rewards = t(1, 5, -2, 0.4, 3, 3, 3, 7)
    scaled = group_advantages(rewards, group_size=4, eps=0.0).view(2, 4)
    torch.testing.assert_close(scaled.std(1, correction=1), torch.ones(2).double())


def test_wrong_input_is_an_error():
    for function in (group_advantages, rloo_advantages):
        with pytest.raises(ValueError, match="5 rewards are not whole groups of 2"):
            function(torch.zeros(5), group_size=2)
        with pytest.raises(ValueError, match=r"at least 2.*got 1"):
            function(torch.zeros(4), group_size=1)
        with pytest.raises(ValueError, match="1 dim"):
            function(torch.zeros(2, 2), group_size=2)
    with pytest.raises(ValueError, match=r"scale must be one of \['none', 'std'\], got 'batch'"):
        group_advantages(torch.zeros(4), group_size=2, scale="batch")


# --- The gradient, exactly

LOGITS = t(0.3, -0.8, 1.1)
REWARDS = t(1.0, -2.0, 0.5)


def exact_gradient(logits: torch.Tensor) -> torch.Tensor:
    """∇ Σ_y π(y) r(y), by enumeration."""
    logits = logits.clone().requires_grad_()
    value = (torch.softmax(logits, 0) * REWARDS).sum()
    return torch.autograd.grad(value, logits)[0]


def expected_descent(size: int, loss_of_group) -> torch.Tensor:
    """Minus the gradient of a group's mean loss, averaged over all 3^K groups with their probabilities."""
    logits = LOGITS.clone().requires_grad_()
    logp = torch.log_softmax(logits, 0)
    total = torch.zeros((), dtype=torch.float64)
    for group in itertools.product(range(3), repeat=size):
        answers = torch.tensor(group)
        weight = logp.detach()[answers].sum().exp()
        total = total + weight * loss_of_group(logp[answers], REWARDS[answers]).mean()
    return -torch.autograd.grad(total, logits)[0]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_rloo_is_the_exact_policy_gradient(size):
    estimate = expected_descent(
        size, lambda logp, rewards: reinforce_loss(logp, rloo_advantages(rewards, group_size=size))
    )
    torch.testing.assert_close(estimate, exact_gradient(LOGITS), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_group_mean_shrinks_the_gradient_by_its_own_share(size):
    def loss(logp, rewards):
        advantages = group_advantages(rewards, group_size=size, scale="none").unsqueeze(1)
        return grpo_loss(logp.unsqueeze(1), logp.detach().unsqueeze(1), advantages, clip=0.2)

    expected = (size - 1) / size * exact_gradient(LOGITS)
    torch.testing.assert_close(expected_descent(size, loss), expected, atol=1e-12, rtol=0)


def test_dividing_by_the_deviation_changes_the_direction():
    estimate = expected_descent(
        3, lambda logp, rewards: reinforce_loss(logp, group_advantages(rewards, group_size=3))
    )
    exact = exact_gradient(LOGITS)
    assert torch.cosine_similarity(estimate, exact, dim=0).item() < 0.999
    assert (estimate * exact).sum() > 0


def test_the_ratio_corrects_for_the_old_policy():
    # Samples from the old policy, gradient at the new one: E_old[ρ A ∇log π] = E_π[A ∇log π]
    old = torch.log_softmax(t(-0.5, 0.4, 0.2), 0)
    logits = LOGITS.clone().requires_grad_()
    logp = torch.log_softmax(logits, 0)
    losses = grpo_loss(logp.unsqueeze(1), old.unsqueeze(1), REWARDS.unsqueeze(1), clip=0.99, clip_high=100.0)
    (gradient,) = torch.autograd.grad((old.exp() * losses.squeeze(1)).sum(), logits)
    torch.testing.assert_close(-gradient, exact_gradient(LOGITS), atol=1e-12, rtol=0)


# --- Discounted returns


def test_discounted_returns_by_hand():
    rewards = t(1, -2, 4, math.nan).unsqueeze(0)
    mask = torch.tensor([[True, True, True, False]])
    assert discounted_returns(rewards, mask, gamma=0.5).tolist() == [[1.0, 0.0, 4.0, 0.0]]
    assert discounted_returns(rewards, mask, gamma=1.0).tolist() == [[3.0, 2.0, 4.0, 0.0]]
    assert discounted_returns(rewards, mask, gamma=0.0).tolist() == [[1.0, -2.0, 4.0, 0.0]]
    with pytest.raises(ValueError, match="gamma"):
        discounted_returns(rewards, mask, gamma=1.1)
