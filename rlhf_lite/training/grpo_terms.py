"""What the published methods without a critic differ in: advantages, units, and where the KL is paid.

Three choices, and :data:`METHODS` names their combinations:

- ``estimator``: reward minus the group's mean, divided by its standard deviation (``grpo``, Shao et al. 2024)
  or not (``dr_grpo``, Liu et al. 2025), or minus the mean of the *others* (``rloo``, Ahmadian et al. 2024);
- ``aggregation``: how tokens become a loss, see ``functional.aggregation_weights``; ``sequence`` takes whole
  completions as the unit, with one ratio for each, as RLOO does;
- ``kl_in``: the penalty for leaving the reference comes off each completion's reward before the baseline
  (``reward``), or is added to each token's loss as k3 (``loss``), or as k3 times the ratio
  (``weighted_loss``, DeepSeek-V3.2, arXiv:2512.02556; the default of TRL 1.16).

With ``kl_in="reward"`` all of them aim at the optimum of E[r] - β KL(π || π_ref): the estimators differ by a
factor per prompt, which rescales the step and not its goal. In the loss it is another matter. The reward is
divided by its deviation σ and the penalty is not, so that a nat costs β σ, another price for every prompt.
And the expected gradient of k3 is that of KL(π_ref || π), the other direction; the ratio mends this at each
token, but still leaves out what a token does to the KL of the tokens after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from rlhf_lite.functional import (
    aggregation_weights,
    group_advantages,
    grpo_loss,
    kl_estimate,
    masked_sum,
    rloo_advantages,
)

Estimator = Literal["grpo", "dr_grpo", "rloo"]
Aggregation = Literal["grpo", "dapo", "bnpo", "dr_grpo", "sequence"]
KLPlace = Literal["reward", "loss", "weighted_loss"]

ESTIMATORS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "grpo": partial(group_advantages, scale="std"),
        "dr_grpo": partial(group_advantages, scale="none"),
        "rloo": rloo_advantages,
    }
)
_AGGREGATIONS = ("grpo", "dapo", "bnpo", "dr_grpo", "sequence")
_KL_PLACES = ("reward", "loss", "weighted_loss")
# Beyond this a log-ratio is a broken sample, and its exponential would overflow.
_LOG_RATIO_LIMIT = 20.0

# The published methods, as arguments of train_grpo.
METHODS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "grpo": {"estimator": "grpo", "aggregation": "grpo", "kl_in": "loss"},
        "dapo": {"estimator": "grpo", "aggregation": "dapo", "kl_in": "loss"},
        "dr_grpo": {"estimator": "dr_grpo", "aggregation": "dr_grpo", "kl_in": "loss"},
        "rloo": {"estimator": "rloo", "aggregation": "sequence", "kl_in": "reward"},
    }
)


def check_method(*, estimator: str, aggregation: str, kl_in: str, kl_coef: float, reference: bool) -> None:
    """Raise a ValueError for a choice that does not exist, or two that do not fit together."""
    for name, value, known in (
        ("estimator", estimator, tuple(ESTIMATORS)),
        ("aggregation", aggregation, _AGGREGATIONS),
        ("kl_in", kl_in, _KL_PLACES),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if aggregation == "sequence" and kl_in != "reward" and kl_coef > 0:
        raise ValueError("a KL in the loss is paid per token: use kl_in='reward' with aggregation='sequence'")
    if kl_coef > 0 and not reference:
        raise ValueError(
            f"kl_coef is {kl_coef}, but there is no reference to keep near: give one, or set it to 0"
        )


def unit_losses(
    logps: Tensor,
    old_logps: Tensor,
    ref_logps: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    aggregation: Aggregation,
    kl_in: KLPlace,
    kl_coef: float,
    clip: float,
    clip_high: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss and ratio of each unit: tokens ``[B, S]``, or completions ``[B, 1]`` for ``"sequence"``.

    Args:
        logps: ``[B, S]`` of the policy that is being trained.
        old_logps: ``[B, S]`` of the policy that sampled.
        ref_logps: ``[B, S]`` of the reference.
        advantages: ``[B]``.
        response_mask: bool ``[B, S]``; True counts.
        aggregation, kl_in: see the head of this file.
        kl_coef: price of a nat; not charged here where the reward paid it.
        clip, clip_high: see ``functional.grpo_loss``.
    """
    old, ref = old_logps, ref_logps
    if aggregation == "sequence":
        logps, old, ref = (masked_sum(each, response_mask, dim=1).unsqueeze(1) for each in (logps, old, ref))
    loss = grpo_loss(
        logps,
        old,
        advantages.unsqueeze(1).expand_as(logps),
        clip=clip,
        clip_high=clip_high,
        ref_logp=ref,
        kl_coef=kl_coef if kl_in == "loss" else 0.0,
    )
    ratio = (logps - old).clamp(max=_LOG_RATIO_LIMIT).exp()
    if kl_in == "weighted_loss":
        k3 = kl_estimate(torch.maximum(logps, ref - _LOG_RATIO_LIMIT), ref, kind="k3")
        loss = loss + kl_coef * ratio * k3
    return loss, ratio.detach()


def unit_weights(response_mask: Tensor, *, aggregation: Aggregation, max_tokens: int) -> Tensor:
    """Weights of the units of a whole minibatch, ``[B, S]`` or ``[B, 1]``; the loss is their weighted sum."""
    if aggregation == "sequence":
        return torch.full((len(response_mask), 1), 1 / len(response_mask), device=response_mask.device)
    return aggregation_weights(response_mask, aggregation=aggregation, max_tokens=max_tokens)
