"""Losses for reward models."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lite.functional.checks import require_rank, require_same_shape


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


def rating_regression_loss(scores: Tensor, ratings: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Half the squared error against a human rating: ½ w (s - rating)².

    The Gaussian negative log-likelihood up to a constant, when w is one over the variance of the rating: the
    mean of k raters with deviation σ has w = k/σ². Unlike preferences, ratings fix the level of the score.
    Source: textbook least squares; the reward models of HelpSteer2 (Wang et al. 2024, arXiv:2406.08673) are
    regressions on ratings too.

    Args:
        scores: ``[B]``.
        ratings: ``[B]``, in the units that the scores shall have.
        weights: ``[B]`` >= 0 or None for 1.

    Returns:
        ``[B]``.
    """
    require_same_shape(scores=scores, ratings=ratings)
    loss = 0.5 * (scores - ratings) ** 2
    if weights is None:
        return loss
    require_same_shape(scores=scores, weights=weights)
    if bool((weights < 0).any()):
        raise ValueError(f"weights must not be negative, got {weights.min().item()}")
    return weights * loss


def ordinal_loss(scores: Tensor, grades: Tensor, thresholds: Tensor) -> Tensor:
    """Negative log-likelihood of ordered grades: P(grade <= k) = σ(θ_k - s), the proportional-odds model.

    Source: McCullagh 1980, "Regression models for ordinal data". Grades are ordered but not equally far
    apart: the thresholds learn the distances. With one threshold at 0 it is logistic regression.

    Args:
        scores: ``[B]``.
        grades: integer ``[B]`` in 0 ... K-1.
        thresholds: ``[K-1]``, strictly increasing; may be trained (as a first value and positive steps).

    Returns:
        ``[B]`` in nats.

    Raises:
        ValueError: if a grade is outside 0 ... K-1 or the thresholds do not increase.
    """
    require_same_shape(scores=scores, grades=grades)
    require_rank(1, thresholds=thresholds)
    steps = thresholds.diff()
    if thresholds.numel() < 1 or bool((steps <= 0).any()):
        raise ValueError(f"thresholds must be one or more increasing numbers, got {thresholds.tolist()}")
    last = thresholds.numel()
    if grades.is_floating_point() or bool(((grades < 0) | (grades > last)).any()):
        raise ValueError(f"grades must be whole numbers from 0 to {last}, got {grades.tolist()}")
    # P(k) = σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b-a)) with a = θ_k - s and b = θ_{k-1} - s: no cancellation.
    zero = torch.zeros((), dtype=scores.dtype, device=scores.device)
    upper, lower = thresholds[grades.clamp(max=last - 1)], thresholds[(grades - 1).clamp(min=0)]
    below_upper = torch.where(grades == last, zero, logsigmoid(upper - scores))
    above_lower = torch.where(grades == 0, zero, logsigmoid(scores - lower))
    between = torch.nn.functional.pad(torch.log(-torch.expm1(-steps)), (1, 1))[grades]  # 0 at both ends
    return -(below_upper + above_lower + between)
