"""Choosing the best of n samples: the distribution it gives, its distance from the reference, an estimator.

The n candidates are drawn independently from the reference; the one with the highest reward wins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlhf_lite.functional.checks import require_rank, require_same_shape


def best_of_n_kl_bound(n: int) -> float:
    """An *upper bound* on KL(best-of-n || reference): log n - (n-1)/n nats.

    Reached in the limit of infinitely many answers without ties. Often quoted as the KL itself (Stiennon et
    al. 2020, Gao et al. 2022). Beirami et al. 2024 (arXiv:2401.01879) show that it is a bound, a loose one
    once n times the probability of the best answer is large: the KL cannot exceed -log of that probability.
    """
    _require_n(n)
    return math.log(n) - (n - 1) / n


def best_of_n_probs(probs: Tensor, rewards: Tensor, n: int) -> Tensor:
    """Exact probability that each answer wins among n independent draws.

        P(y) = p(y) / P(r = r(y)) · (P(r <= r(y))^n - P(r < r(y))^n)

    Ties are split by the reference among equals, which is what picking any of the tied *draws* gives (the
    first one, or one at random). Picking the smallest answer id among the tied would be something else.
    Source: Beirami et al. 2024 (arXiv:2401.01879) for the case without ties.

    Args:
        probs: ``[..., V]`` the reference, summing to 1.
        rewards: ``[..., V]``.
        n: number of draws, at least 1; 1 gives ``probs`` back.

    Returns:
        ``[..., V]`` in float64.
    """
    require_same_shape(probs=probs, rewards=rewards)
    _require_n(n)
    probs, rewards = probs.double(), rewards.double().contiguous()
    total = probs.sum(-1, keepdim=True)
    if bool((probs < 0).any()) or not bool(torch.allclose(total, torch.ones_like(total), atol=1e-4)):
        sums = total.flatten().tolist()[:5]
        raise ValueError(f"probs must be non-negative and sum to 1; the first sums are {sums}")
    ordered, order = rewards.sort(-1)
    cumulative = torch.nn.functional.pad((probs / total).gather(-1, order).cumsum(-1), (1, 0))
    cumulative = cumulative / cumulative[..., -1:]
    at_most = cumulative.gather(-1, torch.searchsorted(ordered, rewards, right=True))  # P(r <= r(y))
    below = cumulative.gather(-1, torch.searchsorted(ordered, rewards, right=False))  # P(r < r(y))
    # (a^n - b^n) / (a - b), without cancellation when b is close to a; its limit is n a^(n-1).
    gap = (at_most - below) / at_most.clamp(min=1e-300)
    share = torch.where(gap > 1e-14, -torch.expm1(n * torch.log1p(-gap)) / gap.clamp(min=1e-14), float(n))
    return probs / total * share * at_most ** (n - 1)


def best_of_n_estimate(scores: Tensor, values: Tensor | None = None, *, n: int) -> Tensor:
    """Unbiased estimate of the winner's expected value, from one pool of samples of the reference.

    The mean over all subsets of n out of the M samples, without enumerating them: sorted by score, sample i
    (from 1) is the best of a subset with probability C(i-1, n-1) / C(M, n). Source: Nakano et al. 2021
    (WebGPT, arXiv:2112.09332); Gao et al. 2022 use it too. Tied samples share their weight.
    Resampling n *with* replacement from the pool is biased low.

    Args:
        scores: ``[M]`` of the judge that picks the winner.
        values: ``[M]`` of another judge, such as the gold reward; default the scores themselves.
        n: between 1 and M; 1 gives the plain mean. Estimates for n near M hang on few samples.

    Returns:
        A float64 scalar in units of ``values``.
    """
    values = scores if values is None else values
    require_rank(1, scores=scores)
    require_same_shape(scores=scores, values=values)
    _require_n(n)
    pool = scores.numel()
    if n > pool:
        raise ValueError(f"n is {n}, but the pool has only {pool} samples")
    scores = scores.double().contiguous()
    ordered = scores.sort().values
    at_most = torch.searchsorted(ordered, scores, right=True)  # how many samples score no more than this one
    below = torch.searchsorted(ordered, scores, right=False)
    weights = (_all_within(at_most, n, pool) - _all_within(below, n, pool)) / (at_most - below)
    return (weights * values.double()).sum()


def _all_within(count: Tensor, n: int, pool: int) -> Tensor:
    """Probability that n samples drawn without replacement are all among the ``count`` lowest."""
    count = count.double()
    log_ratio = (
        torch.lgamma(count + 1)
        - torch.lgamma((count - n).clamp(min=0.0) + 1)
        - math.lgamma(pool + 1)
        + math.lgamma(pool - n + 1)
    )
    return torch.where(count >= n, log_ratio.exp(), torch.zeros_like(count))


def _require_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
