"""Clipped losses of proximal policy optimisation, per token."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lite.functional.checks import require_same_shape


def ppo_policy_loss(logp: Tensor, old_logp: Tensor, advantages: Tensor, *, clip: float) -> Tensor:
    """Clipped surrogate, as a loss: -min(ρ A, clip(ρ, 1-ε, 1+ε) A) with ρ = exp(logp - old_logp).

    Source: Schulman et al. 2017 (arXiv:1707.06347), equation 7. The gradient is exactly zero where the
    clipped branch is the smaller one.

    Args:
        logp: log-probabilities under the policy that is being trained, any shape.
        old_logp: under the policy that sampled, same shape, without gradient.
        advantages: same shape.
        clip: ε > 0.

    Returns:
        Per-token loss, same shape; the caller averages over the tokens that count.
    """
    require_same_shape(logp=logp, old_logp=old_logp, advantages=advantages)
    if clip <= 0:
        raise ValueError(f"clip must be positive, got {clip}")
    ratio = torch.exp(logp - old_logp)
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def ppo_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None) -> Tensor:
    """Squared error of the critic, with the update limited to ``clip`` around the old value.

        ½ · max((V - R)², (clip(V, V_old-ε, V_old+ε) - R)²)

    The clipping is not in the paper; it comes from OpenAI's baselines code and is kept by Ziegler et al. 2019
    and TRL.

    Args:
        values: from the critic that is being trained, any shape.
        old_values: when the batch was sampled, same shape, without gradient.
        returns: targets, same shape.
        clip: ε, or None for the plain squared error.

    Returns:
        Per-token loss, same shape.
    """
    require_same_shape(values=values, old_values=old_values, returns=returns)
    plain = (values - returns) ** 2
    if clip is None:
        return 0.5 * plain
    near_old = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum(plain, (near_old - returns) ** 2)
