"""Losses for reward models."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lite.functional.checks import require_same_shape


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, *, margin: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of each preference: -log σ(r_chosen - r_rejected - margin).

    Source: Bradley & Terry 1952; with the margin, Touvron et al. 2023 (Llama 2), equation 2.

    Args:
        chosen: ``[B]`` scores of the preferred texts.
        rejected: ``[B]`` scores of the others.
        margin: ``[B]`` or None; how far apart the two should be.

    Returns:
        ``[B]`` in nats; log 2 where the scores are equal and there is no margin.
    """
    require_same_shape(chosen=chosen, rejected=rejected)
    difference = chosen - rejected
    if margin is not None:
        require_same_shape(chosen=chosen, margin=margin)
        difference = difference - margin
    return -logsigmoid(difference)


def centring_penalty(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Penalty ``[B]`` that keeps scores around zero: (r_chosen + r_rejected)².

    Preferences fix only differences of scores; this term picks one of the many equal solutions and leaves the
    difference free. Source: Eisenstein et al. 2023 (arXiv:2312.09244), section 4; TRL's
    ``center_rewards_coefficient`` uses the same form.
    """
    require_same_shape(chosen=chosen, rejected=rejected)
    return torch.square(chosen + rejected)
