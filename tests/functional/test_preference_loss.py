"""Preference losses: numbers by hand, identities, finite gradients and refusals at the door.

The numbers use β = log 2, so that every sigmoid is a fraction: σ(k log 2) = 2^k / (2^k + 1).
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lite.functional import (
    RunningDelta,
    apo_down_loss,
    apo_zero_loss,
    bco_loss,
    cpo_loss,
    dpo_loss,
    hinge_loss,
    implicit_reward,
    ipo_loss,
    nca_loss,
    orpo_loss,
    robust_dpo_loss,
    simpo_loss,
    sppo_loss,
)
from rlhf_lite.functional.preference.reference_free import log1mexp

LN2 = math.log(2)
ln = math.log


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# Policy -1 and -6, reference -3 and -5: Δ_w = 2, Δ_l = -1, h = 3.
PAIR = (t(-1), t(-6), t(-3), t(-5))
REFERENCE_LOSSES = {
    "dpo": partial(dpo_loss, beta=LN2),
    "cdpo": partial(dpo_loss, beta=LN2, label_smoothing=0.25),
    "robust": partial(robust_dpo_loss, beta=LN2, label_smoothing=0.25),
    "ipo": partial(ipo_loss, tau=0.25),
    "hinge": partial(hinge_loss, beta=0.1),
    "apo_zero": partial(apo_zero_loss, beta=LN2),
    "apo_down": partial(apo_down_loss, beta=LN2),
    "nca": partial(nca_loss, beta=LN2),
    "bco": partial(bco_loss, beta=LN2),
    "bco_delta": partial(bco_loss, beta=LN2, delta=3 * LN2),
    "sppo": partial(sppo_loss, beta=1.0),
    "sppo_soft": partial(sppo_loss, beta=1.0, win_rate=0.75),
}
BY_HAND = {  # σ(βh) = 8/9, σ(βΔ_w) = 4/5, σ(βΔ_l) = 1/3
    "dpo": ln(9 / 8),
    "cdpo": 0.75 * ln(9 / 8) + 0.25 * ln(9),
    "robust": (0.75 * ln(9 / 8) - 0.25 * ln(9)) / 0.5,
    "ipo": (3 - 2) ** 2,
    "hinge": 1 - 0.3,
    "apo_zero": 1 / 5 + 1 / 3,
    "apo_down": 4 / 5 + 1 / 9,
    "nca": ln(5 / 4) + 0.5 * ln(5) + 0.5 * ln(3 / 2),
    "bco": ln(5 / 4) + ln(3 / 2),
    "bco_delta": ln(3) + ln(17 / 16),  # σ(-log 2) = 1/3, σ(4 log 2) = 16/17
    "sppo": (2 - 0.5) ** 2 + (-1 + 0.5) ** 2,
    "sppo_soft": (2 - 0.25) ** 2 + (-1 + 0.25) ** 2,
}
AT_THE_REFERENCE = {
    "dpo": LN2,
    "cdpo": LN2,
    "robust": LN2,
    "ipo": 4.0,
    "hinge": 1.0,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "nca": 2 * LN2,
    "bco": 2 * LN2,
    "bco_delta": ln(9) + ln(9 / 8),
    "sppo": 0.5,
    "sppo_soft": 0.125,
}
every = pytest.mark.parametrize("name", REFERENCE_LOSSES)


@every
def test_by_hand(name):
    assert REFERENCE_LOSSES[name](*PAIR).item() == pytest.approx(BY_HAND[name], rel=1e-12)


@every
def test_at_the_reference(name):
    same = t(-7, -900, -0.1)
    loss = REFERENCE_LOSSES[name](same, same - 3, same, same - 3)
    assert loss.tolist() == pytest.approx([AT_THE_REFERENCE[name]] * 3, rel=1e-12)


@every
def test_the_reference_is_a_constant_and_gradients_are_right(name):
    loss = REFERENCE_LOSSES[name]
    policy = [t(-1, -2.5).requires_grad_(), t(-6, -2).requires_grad_()]
    reference = [t(-3, -2).requires_grad_(), t(-5, -4).requires_grad_()]
    assert torch.autograd.gradcheck(lambda w, x: loss(w, x, *(y.detach() for y in reference)), policy)
    loss(*policy, *reference).sum().backward()
    assert all(x.grad is not None for x in policy)
    assert all(x.grad is None or bool((x.grad == 0).all()) for x in reference)


@every
def test_the_first_step_favours_the_chosen_answer(name):
    chosen, rejected = t(-2).requires_grad_(), t(-2).requires_grad_()
    REFERENCE_LOSSES[name](chosen, rejected, t(-2), t(-2)).sum().backward()
    assert chosen.grad.item() < rejected.grad.item()


margins = st.floats(-30, 30)


@given(a=margins, b=margins, beta=st.floats(0.01, 3))
@settings(max_examples=25, deadline=None)
def test_swapping_the_answers_negates_the_margin(a, b, beta):
    # -log σ(z) + log σ(-z) = -z, with z = β h
    pair, swapped = (t(a), t(b), t(0.0), t(0.0)), (t(b), t(a), t(0.0), t(0.0))
    z = beta * (a - b)
    difference = dpo_loss(*pair, beta=beta) - dpo_loss(*swapped, beta=beta)
    assert difference.item() == pytest.approx(-z, abs=1e-9)
    # Robust DPO divides that difference by 1 - 2ε, conservative DPO multiplies by it.
    half = [robust_dpo_loss(*x, beta=beta, label_smoothing=0.25) for x in (pair, swapped)]
    assert (half[0] - half[1]).item() == pytest.approx(-2 * z, abs=1e-9)
    mild = [dpo_loss(*x, beta=beta, label_smoothing=0.25) for x in (pair, swapped)]
    assert (mild[0] - mild[1]).item() == pytest.approx(-0.5 * z, abs=1e-9)


@given(a=margins, b=margins, shift=margins)
@settings(max_examples=25, deadline=None)
def test_a_constant_of_the_prompt_cancels_in_losses_of_the_gap(a, b, shift):
    moved = (t(a + shift), t(b + shift), t(0.0), t(0.0))
    for name in ("dpo", "cdpo", "robust", "ipo", "hinge"):
        loss = REFERENCE_LOSSES[name]
        torch.testing.assert_close(loss(*moved), loss(t(a), t(b), t(0.0), t(0.0)), atol=1e-6, rtol=1e-9)


def test_robust_without_smoothing_is_dpo():
    pair = (t(-1, -9, 0), t(-6, 0, -2), t(-3, -5, -1), t(-5, -5, -1))
    torch.testing.assert_close(robust_dpo_loss(*pair, beta=0.3), dpo_loss(*pair, beta=0.3))


def test_ipo_means_two_things():
    # 2/2 - (-1)/4 = 1.25 per token against 3 nats per sequence; 1/(2τ) = 2
    lengths = {"chosen_lengths": torch.tensor([2]), "rejected_lengths": torch.tensor([4])}
    mean = ipo_loss(*PAIR, tau=0.25, normalise="mean", **lengths)
    assert mean.item() == pytest.approx((1.25 - 2) ** 2)
    assert ipo_loss(*PAIR, tau=0.25, **lengths).item() == pytest.approx(1.0)
    ones = torch.tensor([1])
    same = ipo_loss(*PAIR, tau=0.25, normalise="mean", chosen_lengths=ones, rejected_lengths=ones)
    assert same.item() == pytest.approx(1.0)


def test_hinge_stops_exactly_at_the_margin():
    chosen = t(4.9, 5.1).requires_grad_()
    loss = hinge_loss(chosen, t(0, 0), t(0, 0), t(0, 0), beta=0.2)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.02, 0.0])
    assert chosen.grad.tolist() == [-0.2, 0.0]


def test_implicit_reward_by_hand():
    reward = implicit_reward(t(-1, -6), t(-3, -5), beta=0.5)
    assert reward.tolist() == [1.0, -0.5]


# --- Without a reference


def test_simpo_by_hand():
    # Means -6/3 = -2 and -8/2 = -4, gap 2: σ(2 log 2 - log 2) = 2/3. The margin γ is not multiplied by β.
    pair = (t(-6), t(-8), torch.tensor([3]), torch.tensor([2]))
    assert simpo_loss(*pair, beta=LN2, gamma=LN2).item() == pytest.approx(ln(3 / 2))
    assert simpo_loss(*pair, beta=LN2, gamma=0.0).item() == pytest.approx(ln(5 / 4))
    equal = simpo_loss(t(-6), t(-4), torch.tensor([3]), torch.tensor([2]), beta=9.0, gamma=1.5)
    assert equal.item() == pytest.approx(ln(1 + math.exp(1.5)))
    assert simpo_loss(*pair, beta=LN2).item() == pytest.approx(
        ln(1 + math.exp(0.5) / 4)
    )  # γ = 0.5 by default


def test_orpo_by_hand():
    # p = 3/4 (odds 3) from two tokens, p = 1/2 (odds 1) from three: σ(log 3) = 3/4
    pair = (t(2 * ln(0.75)), t(3 * ln(0.5)), torch.tensor([2]), torch.tensor([3]))
    assert orpo_loss(*pair, beta=0.25).item() == pytest.approx(1.25 * ln(4 / 3))
    assert orpo_loss(*pair, beta=0.25, nll_weight=0.0).item() == pytest.approx(0.25 * ln(4 / 3))
    swapped = (pair[1], pair[0], pair[3], pair[2])
    assert orpo_loss(*swapped, beta=0.25).item() == pytest.approx(LN2 + 0.25 * ln(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orpo_near_certainty_and_near_impossibility(dtype):
    # log odds of p = exp(-ε) are -log ε + O(ε): no cancellation; of p = exp(-50) they are -50.
    chosen = torch.tensor([-1e-6, -50.0, 0.0], dtype=dtype, requires_grad=True)
    rejected = torch.tensor([-50.0, -1e-6, 0.0], dtype=dtype, requires_grad=True)
    lengths = torch.ones(3, dtype=torch.long)
    loss = orpo_loss(chosen, rejected, lengths, lengths, beta=1.0, nll_weight=0.0)
    gap = 50 + 6 * ln(10)
    assert loss[1].item() == pytest.approx(gap, rel=1e-5)
    assert loss[2].item() == pytest.approx(LN2, rel=1e-5)
    loss.sum().backward()
    for x in (chosen, rejected):
        assert bool(torch.isfinite(x.grad).all())
    # dL/dp_l: d log odds / d log p = 1 / (1 - p) = 1e6
    assert rejected.grad[1].item() == pytest.approx(1e6, rel=1e-3)


def test_log1mexp_has_finite_gradients_in_both_branches():
    # d/dx log(1 - e^x) = -e^x / (1 - e^x): about 1/x near zero, about -e^x far away
    x = torch.tensor([-1e-30, -1e-3, -0.6931, -0.6932, -20.0, -200.0], requires_grad=True)
    value = log1mexp(x)
    value.sum().backward()
    expected = [math.log(-math.expm1(number)) for number in x.detach().double().tolist()]
    assert value.tolist() == pytest.approx(expected, rel=1e-5)
    slopes = [math.exp(number) / math.expm1(number) for number in x.detach().double().tolist()]
    assert x.grad.tolist() == pytest.approx(slopes, rel=1e-4, abs=1e-40)


def test_cpo_by_hand():
    # z = 3 log 2 from sums; imitation 2 nats over 4 tokens
    pair = (t(-2), t(-5), torch.tensor([4]))
    assert cpo_loss(*pair, beta=LN2).item() == pytest.approx(ln(9 / 8) + 0.5)
    assert cpo_loss(*pair, beta=LN2, nll_weight=3.0).item() == pytest.approx(ln(9 / 8) + 1.5)
    smooth = cpo_loss(*pair, beta=LN2, nll_weight=0.0, label_smoothing=0.25)
    assert smooth.item() == pytest.approx(BY_HAND["cdpo"])


@pytest.mark.parametrize(
    "loss",
    [
        lambda w, x, m, n: simpo_loss(w, x, m, n, beta=2.0, gamma=0.4),
        lambda w, x, m, n: orpo_loss(w, x, m, n, beta=0.7),
        lambda w, x, m, n: cpo_loss(w, x, m, beta=0.3, label_smoothing=0.1),
        lambda w, x, m, n: ipo_loss(
            w, x, t(-3, -2), t(-5, -4), tau=0.2, normalise="mean", chosen_lengths=m, rejected_lengths=n
        ),
    ],
)
def test_gradients_without_reference(loss):
    policy = [t(-1, -2.5).requires_grad_(), t(-6, -2).requires_grad_()]
    lengths = (torch.tensor([2, 5]), torch.tensor([3, 4]))
    assert torch.autograd.gradcheck(lambda w, x: loss(w, x, *lengths), policy)


# --- BCO's running δ


def test_running_delta_is_the_mean_of_everything_seen():
    delta = RunningDelta()
    assert delta.value == 0.0
    assert delta.update(t(1, 3), t(-1, -1)) == pytest.approx(0.5)  # ½ (2 + -1)
    assert delta.update(t(4.5), t(2.5)) == pytest.approx((2 * 0.5 + 1 * 3.5) / 3)
    delta.update(t(0, 0, 0), t(0, 0, 0))
    assert delta.value == pytest.approx((1.0 + 3.5) / 6)


def test_delta_is_a_constant():
    shift = t(0.3)[0].requires_grad_()
    bco_loss(t(-1).requires_grad_(), t(-2), t(-1), t(-2), beta=1.0, delta=shift).sum().backward()
    assert shift.grad is None


# --- Doors


@every
def test_shapes_are_checked(name):
    loss, b, bt = REFERENCE_LOSSES[name], torch.zeros(3), torch.zeros(3, 4)
    with pytest.raises(ValueError, match="one shape"):
        loss(b, b, b, torch.zeros(1))
    with pytest.raises(ValueError, match="policy_chosen must have 1 dim"):
        loss(bt, bt, bt, bt)  # a forgotten sum over the tokens


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_beta_must_be_positive(beta):
    for loss in (dpo_loss, robust_dpo_loss, hinge_loss, apo_zero_loss, apo_down_loss, nca_loss, bco_loss):
        with pytest.raises(ValueError, match="beta must be positive"):
            loss(*PAIR, beta=beta)
    with pytest.raises(ValueError, match="tau must be positive"):
        ipo_loss(*PAIR, tau=beta)
    one = torch.tensor([1])
    for loss in (simpo_loss, orpo_loss):
        with pytest.raises(ValueError, match="beta must be positive"):
            loss(t(-1), t(-2), one, one, beta=beta)
    with pytest.raises(ValueError, match="beta must be positive"):
        implicit_reward(t(-1), t(-2), beta=beta)


def test_other_settings_are_checked():
    for loss in (dpo_loss, robust_dpo_loss):
        for smoothing in (-0.1, 0.5):
            with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 0\.5\)"):
                loss(*PAIR, beta=1.0, label_smoothing=smoothing)
    with pytest.raises(ValueError, match=r"needs chosen_lengths"):
        ipo_loss(*PAIR, tau=1.0, normalise="mean")
    with pytest.raises(ValueError, match=r"normalise must be one of .*'token'"):
        ipo_loss(*PAIR, tau=1.0, normalise="token")
    with pytest.raises(ValueError, match="win_rate"):
        sppo_loss(*PAIR, beta=1.0, win_rate=1.1)
    one, zero = torch.tensor([1]), torch.tensor([0])
    with pytest.raises(ValueError, match=r"at least 1 token, got \[0\]"):
        simpo_loss(t(-1), t(-2), one, zero, beta=1.0)
    with pytest.raises(ValueError, match="gamma must not be negative"):
        simpo_loss(t(-1), t(-2), one, one, beta=1.0, gamma=-1.0)
