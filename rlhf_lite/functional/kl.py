"""Kullback-Leibler divergence: exact, estimated from samples, and controlled.

Sampling distribution: every estimate here assumes that the tokens were sampled from the *policy* (``logp``),
so that it estimates KL(policy || reference). With samples from elsewhere it estimates nothing useful.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlhf_lite.functional.checks import require_same_shape


def kl_estimate(logp: Tensor, ref_logp: Tensor, *, kind: Literal["k1", "k2", "k3"] = "k1") -> Tensor:
    """Per-sample estimates of KL(policy || reference) from samples of the policy.

    With d = log π(y) - log π_ref(y):  k1 = d,  k2 = d²/2,  k3 = exp(-d) - 1 + d.
    k1 and k3 are unbiased; k3 is never negative; k2 is biased. Source: Schulman, "Approximating KL
    divergence" (2020).

    Args:
        logp: log-probability under the policy that sampled, any shape, in nats.
        ref_logp: log-probability of the same tokens under the reference, same shape.
        kind: which estimator.

    Returns:
        Same shape, in nats.
    """
    require_same_shape(logp=logp, ref_logp=ref_logp)
    if kind not in _ESTIMATORS:
        raise ValueError(f"kind must be one of {sorted(_ESTIMATORS)}, got {kind!r}")
    return _ESTIMATORS[kind](logp - ref_logp)


# expm1 keeps k3 exact near zero, where exp(-d) - 1 cancels.
_ESTIMATORS = {"k1": lambda d: d, "k2": lambda d: 0.5 * d**2, "k3": lambda d: torch.expm1(-d) + d}


def categorical_kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Exact KL(p || q) between two categorical distributions, in nats.

    Args:
        logits_p: ``[..., V]`` unnormalised log-probabilities of p.
        logits_q: same shape, of q.

    Returns:
        ``[...]``.
    """
    require_same_shape(logits_p=logits_p, logits_q=logits_q)
    log_p, log_q = torch.log_softmax(logits_p, -1), torch.log_softmax(logits_q, -1)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), torch.zeros((), dtype=p.dtype, device=p.device)).sum(-1)


class FixedKLController:
    """A KL coefficient that never changes."""

    def __init__(self, value: float) -> None:
        self.value = value

    def update(self, kl: float, n_samples: int) -> None:
        """Ignore the measured KL."""


class AdaptiveKLController:
    """Proportional control of the KL coefficient in log space.

        e = clip(KL / target - 1, -0.2, 0.2);   β ← β · (1 + e · min(1, n / horizon))

    Source: Ziegler et al. 2019, section 2.2 (there K_β = 0.1 and n is the batch size, written as n/horizon in
    the authors' code). There n is far below the horizon; the minimum is ours: one measurement moves β by a
    fifth at most, where five horizons in one batch would make it 0, and more would turn its sign.

    Args:
        init: first coefficient β.
        target: the KL to hold, in nats per sequence.
        horizon: how many samples it takes to react; smaller is faster.
    """

    def __init__(self, init: float, target: float, horizon: float) -> None:
        if target <= 0 or horizon <= 0:
            raise ValueError(f"target and horizon must be positive, got {target} and {horizon}")
        self.value, self.target, self.horizon = init, target, horizon

    def update(self, kl: float, n_samples: int) -> None:
        """Move the coefficient after ``n_samples`` sequences with mean ``kl`` nats per sequence."""
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.value *= 1.0 + error * min(1.0, n_samples / self.horizon)
