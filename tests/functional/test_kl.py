"""KL divergence by exact enumeration of a three-token world, and its controller by published numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from rlhf_lite.functional import AdaptiveKLController, FixedKLController, categorical_kl, kl_estimate

# KL = .5 ln(.5/.2) + .3 ln(.3/.3) + .2 ln(.2/.5) = .3 ln 2.5
POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REFERENCE = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
EXACT = 0.3 * math.log(2.5)


def _moments(kind: str) -> tuple[float, float]:
    estimate = kl_estimate(POLICY.log(), REFERENCE.log(), kind=kind)
    mean = (POLICY * estimate).sum()
    return mean.item(), (POLICY * (estimate - mean) ** 2).sum().item()


def test_expectations_by_enumeration():
    assert pytest.approx(0.27489, abs=5e-6) == EXACT
    assert _moments("k1")[0] == pytest.approx(EXACT, abs=1e-12)
    assert _moments("k3")[0] == pytest.approx(EXACT, abs=1e-12)
    # E[k2] = .5 * (.5 + .2) * ln(2.5)^2
    assert _moments("k2")[0] == pytest.approx(0.35 * math.log(2.5) ** 2, abs=1e-12)
    assert _moments("k2")[0] == pytest.approx(0.29386, abs=5e-6)


logits = st.lists(st.floats(-4, 4), min_size=5, max_size=5)


@given(policy=logits, reference=logits)
@settings(max_examples=30, deadline=None)
def test_unbiased_for_every_policy_and_only_on_its_own_samples(policy, reference):
    log_p, log_q = (torch.log_softmax(torch.tensor(x, dtype=torch.float64), 0) for x in (policy, reference))
    exact = categorical_kl(log_p, log_q).item()
    for kind in ("k1", "k3"):
        assert (log_p.exp() * kl_estimate(log_p, log_q, kind=kind)).sum().item() == pytest.approx(
            exact, abs=1e-9
        )
    # On samples of the reference k1 averages to minus the other KL.
    wrong = (log_q.exp() * kl_estimate(log_p, log_q)).sum().item()
    assert wrong == pytest.approx(-categorical_kl(log_q, log_p).item(), abs=1e-9)


def test_variances_by_enumeration():
    assert _moments("k1")[1] == pytest.approx(0.5121, abs=5e-5)
    assert _moments("k3")[1] == pytest.approx(0.0426, abs=5e-5)


def test_default_is_k1_and_its_direction_is_policy_over_reference():
    assert kl_estimate(torch.tensor(-1.0), torch.tensor(-3.0)).item() == 2.0


def test_k3_is_exact_near_zero_and_never_negative():
    # exp(-d) - 1 + d = d^2/2 - d^3/6 + ...; float32 subtraction would lose all digits
    d = torch.tensor([1e-4, -1e-4, 1e-3], dtype=torch.float32)
    k3 = kl_estimate(d, torch.zeros(3), kind="k3")
    assert k3[0].item() == pytest.approx(5e-9, rel=0.02)
    # Rounding of the sum itself costs at most one unit in the last place of d.
    spread = torch.linspace(-8, 8, 4001)
    assert (kl_estimate(spread, torch.zeros_like(spread), kind="k3") >= -1e-9).all()


@pytest.mark.parametrize(
    ("kind", "slope"), [("k1", lambda d: 1.0), ("k2", lambda d: d), ("k3", lambda d: 1 - math.exp(-d))]
)
def test_gradients(kind, slope):
    for d in (-1.5, 0.0, 0.7):
        logp = torch.tensor(d, dtype=torch.float64, requires_grad=True)
        kl_estimate(logp, torch.zeros((), dtype=torch.float64), kind=kind).backward()
        assert logp.grad.item() == pytest.approx(slope(d), abs=1e-12)


def test_estimates_refuse_wrong_input():
    with pytest.raises(ValueError, match=r"logp \(2, 3\).*ref_logp \(2,\)"):
        kl_estimate(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"k1.*k2.*k3.*'k4'"):
        kl_estimate(torch.zeros(2), torch.zeros(2), kind="k4")


def test_categorical_kl_by_enumeration():
    # Logits are log-probabilities up to a constant per row.
    shifted = categorical_kl((POLICY.log() + 3).unsqueeze(0), (REFERENCE.log() - 5).unsqueeze(0))
    assert shifted.shape == (1,)
    assert shifted.item() == pytest.approx(EXACT, abs=1e-12)
    back = categorical_kl(REFERENCE.log(), POLICY.log())
    assert back.item() == pytest.approx(EXACT, abs=1e-12)  # symmetric for these two


def test_categorical_kl_direction_and_gradient_equal_torch_distributions():
    generator = torch.Generator().manual_seed(3)
    p, q = (torch.randn(4, 6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    ours, theirs = categorical_kl(p, q), kl_divergence(Categorical(logits=p), Categorical(logits=q))
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours.sum(), (p, q)), torch.autograd.grad(theirs.sum(), (p, q)), strict=True
    ):
        torch.testing.assert_close(mine, other)
    assert (categorical_kl(p, p) == 0).all()


def test_categorical_kl_with_impossible_tokens():
    p = torch.tensor([0.0, 0.0, -math.inf])
    assert categorical_kl(p, torch.zeros(3)).item() == pytest.approx(math.log(1.5))
    assert categorical_kl(p, p).item() == 0.0
    assert categorical_kl(torch.zeros(3), p).item() == math.inf


def test_adaptive_controller_golden():
    # vwxyzjn/lm-human-preference-details, AdaptiveKLController, 512 samples per update
    controller = AdaptiveKLController(0.15, 6, 10_000)
    values = []
    for kl in (12, 3, 6, 6.6, 0):
        controller.update(kl, 512)
        values.append(controller.value)
    assert values == pytest.approx([0.151536, 0.149984, 0.149984, 0.150752, 0.149208], abs=5e-7)


def test_adaptive_controller_pushes_towards_the_target():
    up, down, still = (AdaptiveKLController(0.1, 5.0, 100.0) for _ in range(3))
    up.update(5.5, 10)  # error 0.1, one tenth of the horizon
    down.update(4.5, 10)
    still.update(5.0, 10)
    assert [up.value, down.value, still.value] == pytest.approx([0.101, 0.099, 0.1])


def test_adaptive_controller_refuses_impossible_settings():
    with pytest.raises(ValueError, match="positive"):
        AdaptiveKLController(0.1, 0.0, 100)
    with pytest.raises(ValueError, match="positive"):
        AdaptiveKLController(0.1, 6.0, -1)


def test_fixed_controller_never_changes():
    controller = FixedKLController(0.05)
    controller.update(1000.0, 512)
    assert controller.value == 0.05


def test_the_controller_stays_positive_however_large_the_batch():
    """In the authors' form five horizons in one batch make the coefficient 0, and more turn its sign."""
    for n, factor in ((4, 0.9), (8, 0.8), (40, 0.8), (640, 0.8)):
        controller = AdaptiveKLController(0.05, 6.0, 8.0)
        controller.update(0.0, n)
        assert controller.value == pytest.approx(0.05 * factor, rel=1e-12)
