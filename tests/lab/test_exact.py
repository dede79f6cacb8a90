"""The closed form: by hand, by identity, and against searching for something better."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lite.lab import (
    exact_kl,
    expected_reward,
    fraction_of_optimum,
    objective,
    optimal_policy,
    optimal_value,
    policy_objective,
    win_rates,
)

REF = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REWARDS = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)


def distributions(n: int, *, seed: int, rows: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, n, generator=generator, dtype=torch.float64).mul(2).softmax(-1)


# Z = .4 + .3e + .2e² + .1e³ = 4.701849 and J* = log Z; with β = ½ the exponents double. Computed by hand.
@pytest.mark.parametrize(("beta", "value", "kl"), [(1.0, 1.547956, 0.535643), (0.5, 1.993372, 1.398804)])
def test_golden_numbers(beta: float, value: float, kl: float) -> None:
    best = optimal_policy(REF, REWARDS, beta=beta)
    assert optimal_value(REF, REWARDS, beta=beta).item() == pytest.approx(value, abs=1e-6)
    assert exact_kl(best, REF).item() == pytest.approx(kl, abs=1e-6)
    z = sum(q * math.exp(r / beta) for q, r in zip(REF.tolist(), REWARDS.tolist(), strict=True))
    expected = [q * math.exp(r / beta) / z for q, r in zip(REF.tolist(), REWARDS.tolist(), strict=True)]
    assert best.tolist() == pytest.approx(expected, abs=1e-12)
    # J of π* is J*: the second number is the first minus β times the third.
    assert expected_reward(best, REWARDS).item() - beta * kl == pytest.approx(value, abs=1e-6)


def test_kl_and_objective_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.25, 0.5])
    assert exact_kl(p, q).item() == pytest.approx(math.log(2))  # half the support, twice the weight
    assert exact_kl(q, p).item() == math.inf
    assert expected_reward(q, torch.tensor([4.0, 0.0, 2.0])).item() == pytest.approx(2.0)
    value = objective(p, q, torch.tensor([4.0, 0.0, 2.0]), beta=0.5)
    assert value.item() == pytest.approx(2.0 - 0.5 * math.log(2))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), beta=st.floats(0.05, 5.0), n=st.integers(2, 40))
def test_what_is_missing_is_beta_times_the_kl_to_the_optimum(seed: int, beta: float, n: int) -> None:
    """J(π) = J* - β KL(π || π*), for any policy; so J* is never exceeded."""
    ref, policy = distributions(n, seed=seed), distributions(n, seed=seed + 1)
    rewards = torch.randn(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    best = optimal_policy(ref, rewards, beta=beta)
    assert best.sum(-1).tolist() == pytest.approx([1.0] * 3)
    value = objective(policy, ref, rewards, beta=beta)
    missing = beta * exact_kl(policy, best)
    torch.testing.assert_close(value, optimal_value(ref, rewards, beta=beta) - missing, atol=1e-9, rtol=1e-9)
    assert bool((missing >= 0).all())


def test_limits_of_the_price() -> None:
    dear, cheap = optimal_policy(REF, REWARDS, beta=1e6), optimal_policy(REF, REWARDS, beta=1e-2)
    torch.testing.assert_close(dear, REF, atol=1e-5, rtol=0)
    assert cheap.argmax().item() == 3 and cheap.max().item() > 1 - 1e-9
    assert optimal_value(REF, REWARDS, beta=1e6).item() == pytest.approx(1.0, abs=1e-5)  # E_ref[r]


def test_a_constant_added_to_the_reward_moves_the_value_and_not_the_policy() -> None:
    shifted = REWARDS + 7.0
    torch.testing.assert_close(optimal_policy(REF, shifted, beta=0.3), optimal_policy(REF, REWARDS, beta=0.3))
    difference = optimal_value(REF, shifted, beta=0.3) - optimal_value(REF, REWARDS, beta=0.3)
    assert difference.item() == pytest.approx(7.0)


def test_the_optimum_keeps_zeros_and_survives_large_exponents() -> None:
    ref = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    rewards = torch.tensor([0.0, 900.0, 1e9], dtype=torch.float64)  # exp(900) overflows
    assert optimal_policy(ref, rewards, beta=1.0).tolist() == pytest.approx([0.0, 1.0, 0.0])
    assert optimal_value(ref, rewards, beta=1.0).item() == pytest.approx(900 - math.log(2))


def test_fraction() -> None:
    values = torch.tensor([1.0, 3.0, 2.0, 0.0])
    got = fraction_of_optimum(values, torch.ones(4), torch.full((4,), 3.0))
    assert got.tolist() == pytest.approx([0.0, 1.0, 0.5, -0.5])
    with pytest.raises(ValueError, match="nothing can be gained"):
        fraction_of_optimum(torch.ones(1), torch.ones(1), torch.ones(1))


def test_the_objective_for_autograd_is_the_same_number() -> None:
    ref, policy = distributions(9, seed=1), distributions(9, seed=2)
    rewards = distributions(9, seed=3)
    got = policy_objective(policy.log(), ref, rewards, beta=0.7)
    torch.testing.assert_close(got, objective(policy, ref, rewards, beta=0.7))


def test_its_gradient_in_logits_is_probability_times_advantage() -> None:
    """dJ/dz_y = π(y) (f(y) - E_π[f]) with f = r - β log(π/q), for a softmax policy; zero at the optimum."""
    ref, rewards, beta = distributions(6, seed=1, rows=1), distributions(6, seed=3, rows=1), 0.3
    logits = distributions(6, seed=2, rows=1).log().requires_grad_()
    policy_objective(logits.log_softmax(-1), ref, rewards, beta=beta).sum().backward()
    policy = logits.detach().softmax(-1)
    score = rewards - beta * (policy.log() - ref.log())
    torch.testing.assert_close(logits.grad, policy * (score - (policy * score).sum()))
    best = optimal_policy(ref, rewards, beta=beta).log().requires_grad_()
    policy_objective(best.log_softmax(-1), ref, rewards, beta=beta).sum().backward()
    assert best.grad.abs().max().item() < 1e-12


def test_win_rates_by_hand_and_in_parts() -> None:
    rewards = torch.tensor([0.0, math.log(3.0)])  # the second beats the first three times out of four
    got = win_rates(rewards, torch.tensor([0.5, 0.5]))
    assert got.tolist() == pytest.approx([0.5 * 0.5 + 0.5 * 0.25, 0.5 * 0.75 + 0.5 * 0.5])
    many, opponents = distributions(1100, seed=5, rows=2) * 1000, distributions(1100, seed=6, rows=2)
    whole = (torch.sigmoid(many[:, :, None] - many[:, None, :]) * opponents[:, None, :]).sum(-1)
    torch.testing.assert_close(win_rates(many, opponents), whole)
    # Against itself, any distribution wins half of the time.
    against_itself = (win_rates(many, opponents) * opponents).sum(-1)
    torch.testing.assert_close(against_itself, torch.full((2,), 0.5).double())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: optimal_policy(REF, REWARDS, beta=0.0), "beta must be positive, got 0.0"),
        (lambda: optimal_value(REF, REWARDS, beta=-1.0), "beta must be positive"),
        (lambda: objective(REF, REF, REWARDS, beta=math.nan), "beta must be positive"),
        (lambda: optimal_policy(REF * 2, REWARDS, beta=1.0), "ref_probs must sum to one"),
        (lambda: exact_kl(REF, torch.tensor([0.5, 0.7, -0.2, 0.0])), "q must hold probabilities"),
        (lambda: exact_kl(REF, torch.tensor([0.5, math.nan, 0.5, 0.0])), "q must hold probabilities"),
        (lambda: exact_kl(REF, REF.expand(2, 4)), r"one shape, got p \(4,\), q \(2, 4\)"),
        (lambda: expected_reward(REF, REWARDS[:1]), r"rewards \(1,\)"),
    ],
)
def test_errors_name_the_thing(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
