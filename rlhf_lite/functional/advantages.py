"""Advantage estimates: from token rewards and values, and from groups of answers to one prompt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlhf_lite.functional.checks import require_mask, require_one_of, require_rank, require_same_shape


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns that belong to them.

        δ_t = r_t + γ V_{t+1} - V_t;   A_t = δ_t + γ λ A_{t+1};   R_t = A_t + V_t

    The value after the last counted token is 0: the sequence ends there. Returns are made from the
    advantages *before* any whitening; a critic trained on whitened returns learns the wrong scale.
    Source: Schulman et al. 2016 (arXiv:1506.02438), equations 11 and 16.

    Args:
        rewards: ``[B, T]``.
        values: ``[B, T]``, V of the state before each token.
        mask: bool ``[B, T]``; True counts; the counted tokens of a row must be contiguous.
        gamma: discount in [0, 1].
        lam: λ in [0, 1]; 1 gives Monte Carlo returns minus the value, 0 the one-step error.

    Returns:
        advantages and returns, both ``[B, T]``, 0 where the mask is False.

    Raises:
        ValueError: if shapes differ, a row's mask has a hole, or gamma or lam is outside [0, 1].
    """
    require_rank(2, rewards=rewards, values=values, mask=mask)
    require_same_shape(rewards=rewards, values=values, mask=mask)
    require_mask(mask)
    for name, number in (("gamma", gamma), ("lam", lam)):
        if not 0.0 <= number <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1], got {number}")
    starts = mask & ~torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    if bool((starts.sum(1) > 1).any()):
        raise ValueError("the counted tokens of a row must be contiguous, but a row's mask has a hole")

    zero = torch.zeros((), dtype=rewards.dtype, device=rewards.device)
    rewards, values = torch.where(mask, rewards, zero), torch.where(mask, values, zero)
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # (B,)
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(mask[:, t], advantage, zero)
        next_value, next_advantage = values[:, t], advantages[:, t]
    return advantages, torch.where(mask, advantages + values, zero)


def discounted_returns(rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Discounted sum of the rewards from each token on: G_t = r_t + γ G_{t+1}.

    This is :func:`gae` without a critic and with λ = 1.

    Args:
        rewards: ``[B, T]``.
        mask: bool ``[B, T]``; True counts; contiguous in each row.
        gamma: discount in [0, 1].

    Returns:
        ``[B, T]``, 0 where the mask is False.
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0)[1]


def group_advantages(rewards: Tensor, *, group_size: int, scale: Literal["std", "none"] = "std",
                     eps: float = 1e-4) -> Tensor:
    """Reward minus the mean of its group, by default divided by the group's standard deviation + eps.

    Source: Shao et al. 2024 (GRPO, arXiv:2402.03300), section 4.1.2; ``none`` is Dr. GRPO (Liu et al. 2025,
    arXiv:2503.20783): the division favours prompts that are nearly always or nearly never solved.
    The deviation is the sample's (divided by K - 1) and eps is 1e-4, as in TRL; verl has K - 1 and 1e-6; the
    paper states neither. ``none`` is (K-1)/K of :func:`rloo_advantages`: the own reward is part of the mean.

    Args:
        rewards: ``[B]``, one per sampled answer; the K answers to a prompt are adjacent.
        group_size: K >= 2; divides B.
        scale: divide by the deviation or not.
        eps: added to the deviation.

    Returns:
        ``[B]``; exactly 0 in a group of equal rewards.
    """
    require_one_of(("std", "none"), scale=scale)
    groups = _groups(rewards, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    if scale == "std":
        centred = centred / (groups.std(1, keepdim=True, correction=1) + eps)
    return centred.flatten()


def rloo_advantages(rewards: Tensor, *, group_size: int) -> Tensor:
    """Reward minus the mean reward of the *other* answers to its prompt: K/(K-1) · (r - mean).

    Source: Kool et al. 2019; for language models Ahmadian et al. 2024 (arXiv:2402.14740). The baseline does
    not depend on the answer that it is subtracted from, so the gradient is unbiased without any factor.

    Args:
        rewards: ``[B]``, one per sampled answer; the K answers to a prompt are adjacent.
        group_size: K >= 2; divides B.

    Returns:
        ``[B]``; exactly 0 in a group of equal rewards.
    """
    groups = _groups(rewards, group_size)
    others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).flatten()


def _groups(rewards: Tensor, group_size: int) -> Tensor:
    """``[B/K, K]``, each group moved so that its first reward is 0.

    Advantages do not change under a shift, and rounding no longer turns equal large rewards into advantages
    of one standard deviation.
    """
    require_rank(1, rewards=rewards)
    if group_size < 2:
        raise ValueError(f"group_size must be at least 2: a single answer has no baseline, got {group_size}")
    if rewards.numel() == 0 or rewards.numel() % group_size:
        raise ValueError(f"the {rewards.numel()} rewards are not whole groups of {group_size}")
    groups = rewards.reshape(-1, group_size)
    return groups - groups[:, :1]
