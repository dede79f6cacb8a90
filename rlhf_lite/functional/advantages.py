"""Advantage estimates from token rewards and values."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lite.functional.checks import require_mask, require_rank, require_same_shape


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
