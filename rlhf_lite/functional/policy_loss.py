"""Clipped losses of proximal policy optimisation, per token."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lite.functional.checks import require_positive, require_same_shape

# A ratio of e^20 = 5e8 is a broken sample, not information. Without a limit exp overflows, and the gradient
# of the branch that `min` did not take is 0 * inf = NaN.
LOG_RATIO_LIMIT = 20.0


def ppo_policy_loss(logp: Tensor, old_logp: Tensor, advantages: Tensor, *, clip: float) -> Tensor:
    """Clipped surrogate, as a loss: -min(ρ A, clip(ρ, 1-ε, 1+ε) A) with ρ = exp(logp - old_logp).

    Source: Schulman et al. 2017 (arXiv:1707.06347), equation 7. The gradient is exactly zero where the
    clipped branch is the smaller one. The samples come from the *old* policy. Log-ratios are held below 20
    nats so that loss and gradient stay finite; TRL has no such limit, verl has this one.

    Args:
        logp: log-probabilities under the policy that is being trained, any shape.
        old_logp: under the policy that sampled, same shape; a constant.
        advantages: same shape; constants.
        clip: ε > 0.

    Returns:
        Per-token loss, same shape; the caller averages over the tokens that count.
    """
    return clipped_surrogate(logp, old_logp, advantages, low=clip, high=clip)


def clipped_surrogate(logp: Tensor, old_logp: Tensor, advantages: Tensor, *, low: float,
                      high: float) -> Tensor:
    """-min(ρ A, clip(ρ, 1-low, 1+high) A), the part that PPO and GRPO share."""
    require_same_shape(logp=logp, old_logp=old_logp, advantages=advantages)
    require_positive(clip=low, clip_high=high)
    # Detached: with old_logp = logp in the graph the ratio would be the constant 1, and nothing learnt.
    ratio = torch.exp((logp - old_logp.detach()).clamp(max=LOG_RATIO_LIMIT))
    advantages = advantages.detach()
    clipped = ratio.clamp(1.0 - low, 1.0 + high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def ppo_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None) -> Tensor:
    """Squared error of the critic, with the update limited to ``clip`` around the old value.

        ½ · max((V - R)², (clip(V, V_old-ε, V_old+ε) - R)²)

    The clipping is not in the paper; it comes from OpenAI's baselines code and is kept by Ziegler et al. 2019
    and TRL.

    Args:
        values: from the critic that is being trained, any shape.
        old_values: when the batch was sampled, same shape; constants.
        returns: targets, same shape; constants.
        clip: ε > 0, or None for the plain squared error.

    Returns:
        Per-token loss, same shape.
    """
    require_same_shape(values=values, old_values=old_values, returns=returns)
    old_values, returns = old_values.detach(), returns.detach()
    plain = (values - returns) ** 2
    if clip is None:
        return 0.5 * plain
    require_positive(clip=clip)
    near_old = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum(plain, (near_old - returns) ** 2)
