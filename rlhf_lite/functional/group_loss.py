"""Losses for groups of samples per prompt (GRPO, RLOO), and how token losses become one number.

Sampling distribution: the tokens were sampled from the *old* policy (``old_logp``). The advantages are
constants here: no gradient passes through them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from rlhf_lite.functional.checks import (
    require_mask,
    require_one_of,
    require_positive,
    require_rank,
    require_same_shape,
)
from rlhf_lite.functional.kl import kl_estimate
from rlhf_lite.functional.policy_loss import LOG_RATIO_LIMIT, clipped_surrogate

Aggregation = Literal["grpo", "dapo", "bnpo", "dr_grpo"]


def reinforce_loss(logp: Tensor, advantages: Tensor) -> Tensor:
    """-A log π(y): its gradient is minus the policy gradient, its value means nothing.

    Source: Williams 1992. The samples must come from the policy itself (``logp``'s), once: after an update
    they no longer do, and :func:`grpo_loss` corrects by the ratio.

    Args:
        logp: ``[B]`` (whole sequences) or ``[B, T]`` (tokens), in nats.
        advantages: same shape; constants.
    """
    require_same_shape(logp=logp, advantages=advantages)
    return -logp * advantages.detach()


def grpo_loss(logp: Tensor, old_logp: Tensor, advantages: Tensor, *, clip: float,
              clip_high: float | None = None, ref_logp: Tensor | None = None, kl_coef: float = 0.0) -> Tensor:
    """Clipped surrogate plus a KL penalty, per token: -min(ρ A, clip(ρ, 1-ε, 1+ε_high) A) + kl_coef · k3.

    Source: Shao et al. 2024 (DeepSeekMath, arXiv:2402.03300), equations 3 and 4; ε_high > ε is DAPO's "clip
    higher" (Yu et al. 2025, arXiv:2503.14476). How tokens become one loss is :func:`aggregation_weights`'s
    matter. On samples of the policy itself, k3 is an unbiased estimate of KL(policy || reference), but its
    expected gradient is that of KL(reference || policy), because the samples depend on the policy too. Equal
    to TRL's ``GRPOTrainer`` at token level, which has kl_coef 0 by default where the paper has 0.04. TRL's
    ``RLOOTrainer`` uses the same with *sequence* log-probabilities: pass ``[B, 1]``.

    Args:
        logp: ``[B, T]`` under the policy being trained.
        old_logp: ``[B, T]`` under the policy that sampled; a constant.
        advantages: ``[B, T]``, usually one number repeated along a row; constants.
        clip: ε > 0.
        clip_high: ε_high, default ``clip``.
        ref_logp: ``[B, T]`` under the reference; a constant. Needed when ``kl_coef`` is not 0.
        kl_coef: β of the paper, reward per nat.

    Returns:
        ``[B, T]``. Log-ratios are held below 20 nats, so that a broken sample gives a finite loss.
    """
    require_rank(2, logp=logp)
    high = clip if clip_high is None else clip_high
    loss = clipped_surrogate(logp, old_logp, advantages, low=clip, high=high)
    if kl_coef == 0.0:
        return loss
    if ref_logp is None:
        raise ValueError(f"kl_coef is {kl_coef}, which needs ref_logp")
    require_same_shape(logp=logp, ref_logp=ref_logp)
    # k3 grows like exp(ref_logp - logp); the same limit as for the ratio.
    floor = ref_logp.detach() - LOG_RATIO_LIMIT
    return loss + kl_coef * kl_estimate(torch.maximum(logp, floor), ref_logp.detach(), kind="k3")


def aggregation_weights(mask: Tensor, *, aggregation: Aggregation, max_tokens: int | None = None) -> Tensor:
    """Weights w so that the loss of a batch is ``(w * per_token_loss).sum()``.

    - ``grpo``: mean over the tokens of a row, then over rows (Shao et al. 2024). Short answers weigh more per
      token, so long wrong answers are punished less.
    - ``dapo``, ``bnpo``: mean over all counted tokens of the batch (Yu et al. 2025). Two names for one
      formula here: in TRL ``bnpo`` divides by the tokens of a *micro*-batch and so depends on how a batch
      is split, ``dapo`` by those of the whole one.
    - ``dr_grpo``: sum divided by rows times ``max_tokens`` (Liu et al. 2025, arXiv:2503.20783): a constant
      divisor, no length bias.

    Compute them on the whole batch (of all processes), then slice rows: micro-batches add up exactly.

    Args:
        mask: bool ``[B, T]``; True counts. A row without a counted token weighs 0 but still counts as a row.
        aggregation: which rule.
        max_tokens: for ``dr_grpo``, the most tokens that an answer may have.

    Returns:
        ``[B, T]`` in torch's default floating type, 0 where the mask is False.

    Raises:
        ValueError: for an unknown rule, an empty batch, or a missing or too small ``max_tokens``.
    """
    require_rank(2, mask=mask)
    require_mask(mask)
    require_one_of(_AGGREGATIONS, aggregation=aggregation)
    if not bool(mask.any()):
        raise ValueError("no token counts in this batch: the mask is empty")
    return _AGGREGATIONS[aggregation](mask.to(torch.get_default_dtype()), max_tokens)


def aggregate_tokens(losses: Tensor, mask: Tensor, *, aggregation: Aggregation,
                     max_tokens: int | None = None) -> Tensor:
    """One number from ``[B, T]`` token losses; see :func:`aggregation_weights`. Masked places may be NaN."""
    require_same_shape(losses=losses, mask=mask)
    weights = aggregation_weights(mask, aggregation=aggregation, max_tokens=max_tokens)
    counted = torch.where(mask, losses, torch.zeros((), dtype=losses.dtype, device=losses.device))
    return (weights * counted).sum()


def _row_means(counts: Tensor, _max_tokens: int | None) -> Tensor:
    return counts / counts.sum(1, keepdim=True).clamp(min=1.0) / counts.shape[0]


def _token_mean(counts: Tensor, _max_tokens: int | None) -> Tensor:
    return counts / counts.sum()


def _fixed_length(counts: Tensor, max_tokens: int | None) -> Tensor:
    if max_tokens is None:
        raise ValueError('aggregation "dr_grpo" needs max_tokens, the most tokens that an answer may have')
    require_positive(max_tokens=max_tokens)
    longest = int(counts.sum(1).max())
    if longest > max_tokens:
        raise ValueError(f"a row has {longest} counted tokens, more than max_tokens={max_tokens}")
    return counts / (counts.shape[0] * max_tokens)


_AGGREGATIONS: dict[str, Callable[[Tensor, int | None], Tensor]] = {
    "grpo": _row_means,
    "dapo": _token_mean,
    "bnpo": _token_mean,
    "dr_grpo": _fixed_length,
}
