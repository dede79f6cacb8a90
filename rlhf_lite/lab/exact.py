"""What is the best that any policy can do? The closed form, by summing over every sequence.

The quantity that RLHF maximises, for one prompt with reference distribution q, reward r and price β of a nat:

    J(π) = E_π[r] - β KL(π || q)

    π*(y) = q(y) exp(r(y)/β) / Z,   Z = E_q[exp(r/β)],   J* = β log Z,   J(π) = J* - β KL(π || π*)

Source: Ziegler et al. 2019, section 2; Rafailov et al. 2023, appendix A.1. The last identity says why J*
cannot be exceeded, and by how much a policy falls short.

All sums run over a finite set of N sequences in float64. Distributions have shape ``[..., N]``: leading axes
are prompts, and every function answers per prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Probabilities in float64 sum to one up to rounding; anything more is a mistake upstream.
_SUM_TOLERANCE = 1e-6


def optimal_policy(ref_probs: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """The distribution that maximises J: the reference, tilted towards reward.

    Args:
        ref_probs: q, ``[..., N]``, sums to one. What the reference never says, no tilt can bring back.
        rewards: r, same shape.
        beta: the price of a nat of KL, in points of reward; positive.

    Returns:
        π*, ``[..., N]`` float64.

    Raises:
        ValueError: for probabilities that do not sum to one, unequal shapes, or a beta that is not positive.
    """
    return _tilt(ref_probs, rewards, beta).softmax(-1)


def optimal_value(ref_probs: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """J* = β log E_q[exp(r/β)], the highest J of any policy; ``[...]`` float64, in points of reward.

    Arguments and errors as in :func:`optimal_policy`.
    """
    return beta * _tilt(ref_probs, rewards, beta).logsumexp(-1)


def exact_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) in nats, ``[...]`` float64; infinite where p says something that q never says.

    Args:
        p: ``[..., N]``, sums to one.
        q: same shape, sums to one.
    """
    p, q = require_probs(p=p), require_probs(q=q)
    _require_one_shape(p=p, q=q)
    # 0 log 0 is 0: what p never says costs nothing.
    return torch.where(p > 0, p * (p.log() - q.log()), torch.zeros_like(p)).sum(-1)


def expected_reward(probs: Tensor, rewards: Tensor) -> Tensor:
    """E_π[r], ``[...]`` float64, from probabilities ``[..., N]`` and rewards of the same shape."""
    probs, rewards = require_probs(probs=probs), rewards.double()
    _require_one_shape(probs=probs, rewards=rewards)
    return (probs * rewards).sum(-1)


def objective(probs: Tensor, ref_probs: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """J(π) = E_π[r] - β KL(π || q), ``[...]`` float64, in points of reward.

    Args:
        probs: π, ``[..., N]``, sums to one.
        ref_probs: q, same shape.
        rewards: r, same shape.
        beta: the price of a nat; positive.
    """
    _require_positive(beta)
    return expected_reward(probs, rewards) - beta * exact_kl(probs, ref_probs)


def fraction_of_optimum(value: Tensor, reference_value: Tensor, best_value: Tensor) -> Tensor:
    """How much of the possible improvement was made: (J(π) - J(q)) / (J* - J(q)), elementwise.

    1 is the optimum, 0 the reference; a policy worse than the reference is below 0.

    Args:
        value: J(π).
        reference_value: J(q), which is E_q[r].
        best_value: J*.

    Raises:
        ValueError: if there is nothing to gain (the reward does not vary under the reference).
    """
    gap = best_value - reference_value
    if bool((gap <= 1e-12).any()):
        raise ValueError("nothing can be gained here: J* - J(reference) is "
                         f"{gap.min().item():.3g}; does the reward vary?")
    return (value - reference_value) / gap


def policy_objective(log_probs: Tensor, ref_probs: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """J as a function of log π, for autograd: ``[...]`` float64.

    Same number as :func:`objective`. Gradient flows into ``log_probs`` ``[..., N]``, which must be
    normalised; probabilities that underflow would spoil the gradient, log-probabilities do not.
    """
    _require_positive(beta)
    log_probs, reference = log_probs.double(), require_probs(ref_probs=ref_probs)
    _require_one_shape(log_probs=log_probs, ref_probs=reference, rewards=rewards)
    return (log_probs.exp() * (rewards.double() - beta * (log_probs - reference.log()))).sum(-1)


def win_rates(rewards: Tensor, opponents: Tensor) -> Tensor:
    """The chance that each sequence beats one drawn from ``opponents``, if strengths are Bradley-Terry.

        w(a) = Σ_b μ(b) σ(r(a) - r(b))

    Args:
        rewards: strengths r, ``[..., N]``.
        opponents: μ, same shape, sums to one.

    Returns:
        ``[..., N]`` float64 in (0, 1).
    """
    opponents, strengths = require_probs(opponents=opponents), rewards.double()
    _require_one_shape(rewards=strengths, opponents=opponents)
    flat, probs = strengths.reshape(-1, strengths.shape[-1]), opponents.reshape(-1, strengths.shape[-1])
    # One prompt at a time, some rows at a time: N x N numbers per prompt would be 128 MB for 4,096 sequences.
    rates = [torch.cat([torch.sigmoid(part[:, None] - row) @ p for part in row.split(512)])
             for row, p in zip(flat, probs, strict=True)]
    return torch.stack(rates).reshape(strengths.shape)


def require_probs(**named: Tensor) -> Tensor:
    """The one named tensor in float64, after a check that it holds probabilities along its last axis.

    Raises:
        ValueError: naming the tensor, if an entry is negative or a row does not sum to one.
    """
    ((name, tensor),) = named.items()
    probs = tensor.double()
    if not bool((probs >= 0).all()):  # also refuses NaN
        raise ValueError(f"{name} must hold probabilities, got a smallest entry of {probs.min().item():.3g}")
    worst = (probs.sum(-1) - 1).abs().max().item()
    if worst > _SUM_TOLERANCE:
        raise ValueError(f"{name} must sum to one along its last axis, but a row is off by {worst:.3g}")
    return probs


def _tilt(ref_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """The exponent of π* before it is normalised, log q + r/β: ``[..., N]`` float64."""
    _require_positive(beta)
    reference = require_probs(ref_probs=ref_probs)
    _require_one_shape(ref_probs=reference, rewards=rewards)
    return reference.log() + rewards.double() / beta


def _require_positive(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}; at 0 the optimum would ignore the reference")


def _require_one_shape(**tensors: Tensor) -> None:
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"these tensors must have one shape, got {shapes}")
