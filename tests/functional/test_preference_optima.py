"""Which policy each preference loss leads to: the sentences of the table, checked on infinite data.

All ordered pairs of a few answers, weighted by the exact Bradley-Terry win rates, are infinite data. A
claimed optimum must have gradient zero there, and every step away must raise the expected loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from rlhf_lite.functional import (
    apo_down_loss,
    apo_zero_loss,
    bco_loss,
    cpo_loss,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    nca_loss,
    robust_dpo_loss,
    simpo_loss,
    sppo_loss,
)

BETA = 0.4
REWARDS = torch.tensor([0.0, 1.0, -0.7, 2.0], dtype=torch.float64)
WINS = torch.sigmoid(REWARDS[:, None] - REWARDS[None, :])  # P(i beats j)
PAIRS = torch.tensor(list(itertools.permutations(range(4), 2)))


def expected_loss(gains: torch.Tensor, loss: Callable, wins: torch.Tensor = WINS) -> torch.Tensor:
    """Mean over all ordered pairs of P(i beats j) · loss(log-ratio of i, log-ratio of j)."""
    pairs = PAIRS[PAIRS.lt(len(gains)).all(1)]
    chosen, rejected = pairs.T
    zero = torch.zeros(len(pairs), dtype=torch.float64)
    return (wins[chosen, rejected] * loss(gains[chosen], gains[rejected], zero, zero)).mean()


def assert_minimum(gains: torch.Tensor, loss: Callable, wins: torch.Tensor = WINS) -> None:
    gains = gains.clone().requires_grad_()
    value = expected_loss(gains, loss, wins)
    (gradient,) = torch.autograd.grad(value, gains)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        step = 0.3 * torch.randn(len(gains), generator=generator, dtype=torch.float64)
        assert expected_loss(gains.detach() + step, loss, wins) >= value - 1e-12


def flipped(share: float, wins: torch.Tensor = WINS) -> torch.Tensor:
    return (1 - share) * wins + share * wins.T


RATES = (WINS.sum(1) - 0.5) / 3  # how often each answer wins against a random other one


@pytest.mark.parametrize(
    ("loss", "gains"),
    [
        (lambda *x: dpo_loss(*x, beta=BETA), REWARDS / BETA),
        (lambda *x: nca_loss(*x, beta=BETA), torch.log(2 * RATES) / BETA),
        (lambda *x: sppo_loss(*x, beta=BETA), (RATES - 0.5) / BETA),
        (lambda *x: bco_loss(*x, beta=BETA), torch.logit(RATES) / BETA),
        (lambda *x: bco_loss(*x, beta=BETA, delta=0.7), (torch.logit(RATES) + 0.7) / BETA),
    ],
    ids=["dpo", "nca", "sppo", "bco", "bco_delta"],
)
def test_optimum_over_four_answers(loss, gains):
    assert_minimum(gains, loss)


def test_robust_dpo_finds_the_clean_optimum_in_flipped_labels_and_dpo_does_not():
    assert_minimum(
        REWARDS / BETA, lambda *x: robust_dpo_loss(*x, beta=BETA, label_smoothing=0.2), flipped(0.2)
    )
    with pytest.raises(AssertionError):
        assert_minimum(REWARDS / BETA, lambda *x: dpo_loss(*x, beta=BETA), flipped(0.2))


def test_robust_dpo_is_unbiased_pair_by_pair():
    # (1-ε) loss(w, x) + ε loss(x, w) = DPO's loss on clean labels
    w, x, zero = torch.tensor([1.3, -2.0]), torch.tensor([-0.4, 0.3]), torch.zeros(2)
    robust = [robust_dpo_loss(a, b, zero, zero, beta=BETA, label_smoothing=0.2) for a, b in ((w, x), (x, w))]
    torch.testing.assert_close(0.8 * robust[0] + 0.2 * robust[1], dpo_loss(w, x, zero, zero, beta=BETA))


P = WINS[0, 1].item()  # 0.27: answer 0 usually loses


@pytest.mark.parametrize(
    ("loss", "gap"),
    [
        (lambda *x: dpo_loss(*x, beta=BETA, label_smoothing=0.2), torch.logit(flipped(0.2)[0, 1]) / BETA),
        (lambda *x: ipo_loss(*x, tau=BETA), (WINS[0, 1] - 0.5) / BETA),
        (
            lambda w, x, *_: simpo_loss(w, x, torch.ones_like(w), torch.ones_like(x), beta=BETA, gamma=0.0),
            torch.logit(WINS[0, 1]) / BETA,
        ),
        (
            lambda w, x, *_: cpo_loss(w, x, torch.ones_like(w), beta=BETA, nll_weight=0.0),
            torch.logit(WINS[0, 1]) / BETA,
        ),
    ],
    ids=["cdpo", "ipo", "simpo", "cpo"],
)
def test_optimal_gap_of_two_answers(loss, gap):
    assert_minimum(torch.stack([gap, torch.zeros_like(gap)]), loss)


def test_ipo_per_token_makes_the_gap_grow_with_length():
    lengths = torch.tensor([5.0, 2.0], dtype=torch.float64)

    def total(gains):
        value = 0.0
        for i, j in ((0, 1), (1, 0)):
            value = value + WINS[i, j] * ipo_loss(
                gains[i : i + 1],
                gains[j : j + 1],
                torch.zeros(1),
                torch.zeros(1),
                tau=BETA,
                normalise="mean",
                chosen_lengths=lengths[i : i + 1],
                rejected_lengths=lengths[j : j + 1],
            )
        return value.sum()

    gains = torch.stack(
        [5 * (WINS[0, 1] - 0.5) / BETA, torch.zeros((), dtype=torch.float64)]
    ).requires_grad_()
    (gradient,) = torch.autograd.grad(total(gains), gains)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_hinge_puts_the_winner_of_a_narrow_majority_at_the_full_margin():
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)  # steps of 0.05
    narrow = torch.tensor([[0.5, 0.51], [0.49, 0.5]], dtype=torch.float64)
    losses = [
        expected_loss(torch.stack([gap, gap * 0]), lambda *x: hinge_loss(*x, beta=BETA), narrow)
        for gap in grid
    ]
    assert grid[torch.stack(losses).argmin()].item() == pytest.approx(1 / BETA)


def test_anchored_losses_have_no_finite_optimum_and_move_as_they_say():
    gains = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    (zero,) = torch.autograd.grad(expected_loss(gains, lambda *x: apo_zero_loss(*x, beta=BETA)), gains)
    assert torch.equal(zero < 0, RATES > 0.5)  # descent raises exactly the winners
    further = [
        expected_loss(k * (RATES - 0.5).sign(), lambda *x: apo_zero_loss(*x, beta=BETA)) for k in (1, 10, 90)
    ]
    assert further[0] > further[1] > further[2]
    (down,) = torch.autograd.grad(
        apo_down_loss(gains[:1], gains[1:2], *torch.zeros(2, 1), beta=BETA).sum(), gains
    )
    assert down[0] == 0 and down[1] > 0  # at the reference only the rejected answer falls,
    gains = torch.tensor([0.0, -1.0], requires_grad=True)
    (down,) = torch.autograd.grad(
        apo_down_loss(gains[:1], gains[1:], *torch.zeros(2, 1), beta=BETA).sum(), gains
    )
    assert 0 < down[0] < down[1]  # then both, the rejected one faster


def test_dpo_on_infinite_data_reaches_the_exact_optimum_of_rlhf():
    # π* ∝ π_ref exp(r/β), found here by Newton's method from π_ref, without using the formula
    ref = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    gains = torch.zeros(4, dtype=torch.float64)

    def objective(x):
        return expected_loss(x, lambda *y: dpo_loss(*y, beta=BETA))

    for _ in range(12):
        gradient = torch.autograd.functional.jacobian(objective, gains)
        hessian = torch.autograd.functional.hessian(objective, gains) + 1e-9 * torch.eye(4)
        gains = gains - torch.linalg.solve(hessian, gradient)
    policy = torch.softmax(ref.log() + gains, 0)
    expected = torch.softmax(ref.log() + REWARDS / BETA, 0)
    torch.testing.assert_close(policy, expected, atol=1e-8, rtol=0)
