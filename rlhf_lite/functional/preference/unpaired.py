"""Preference losses that judge each answer on its own: KTO, and BCO with its reward shift."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lite.functional.checks import require_positive, require_rank, require_same_shape
from rlhf_lite.functional.preference.terms import log_ratios


def kto_loss(policy_logps: Tensor, ref_logps: Tensor, desirable: Tensor, *, beta: float, kl: float | Tensor,
             desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Tensor:
    """Kahneman-Tversky optimisation: λ_D (1 - σ(β (Δ - z))) or λ_U (1 - σ(β (z - Δ))), Δ = log π/π_ref.

    Source: Ethayarajh et al. 2024 (arXiv:2402.01306), up to the constant λ. z = max(0, kl) is the reference
    point. The paper wants KL(π || π_ref) there; it and TRL estimate it as the mean of log π - log π_ref over
    *mismatched* answers (the prompt of row i with the answer of row i + 1), clamp it at zero and let no
    gradient through. Mismatched answers are not samples of the policy, so this is a biased stand-in.
    The clamp and the detaching happen here; the mean is the caller's (:func:`kto_baseline`).

    Args:
        policy_logps: ``[B]`` summed log-probabilities of each answer under the policy, in nats.
        ref_logps: ``[B]``, under the reference; a constant.
        desirable: bool ``[B]``; True for answers that people liked.
        beta: β > 0.
        kl: one number for the whole batch (over all processes), in nats.
        desirable_weight, undesirable_weight: λ_D and λ_U; with unequal numbers of the two kinds, choose them
            so that λ_D n_D and λ_U n_U are about equal.

    Returns:
        ``[B]`` in the order of the input, in [0, λ]. TRL puts the desirable rows first.
    """
    require_rank(1, policy_logps=policy_logps)
    require_same_shape(policy_logps=policy_logps, ref_logps=ref_logps, desirable=desirable)
    if desirable.dtype != torch.bool:
        raise TypeError(f"desirable must be a bool tensor, got {desirable.dtype}; use desirable.bool()")
    require_positive(beta=beta)
    point = torch.as_tensor(kl, dtype=policy_logps.dtype, device=policy_logps.device).detach()
    if point.numel() != 1:
        raise ValueError(f"kl must be one number for the whole batch, got shape {tuple(point.shape)}")
    gain = policy_logps - ref_logps.detach() - point.reshape(()).clamp(min=0.0)  # (B,)
    # 1 - σ(x) = σ(-x), which keeps its digits for large x.
    return torch.where(desirable, desirable_weight * torch.sigmoid(-beta * gain),
                       undesirable_weight * torch.sigmoid(beta * gain))


def kto_baseline(policy_logps: Tensor, ref_logps: Tensor) -> Tensor:
    """KTO's reference point from ``[B]`` log-probabilities of *mismatched* answers: max(0, mean log-ratio).

    Returns:
        A scalar without gradient, in nats. With several processes, average the unclamped means first: the
        clamp does not commute with the average.
    """
    require_rank(1, policy_logps=policy_logps)
    require_same_shape(policy_logps=policy_logps, ref_logps=ref_logps)
    return (policy_logps - ref_logps).mean().clamp(min=0.0).detach()


def bco_loss(policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *,
             beta: float, delta: float | Tensor = 0.0) -> Tensor:
    """Binary classifier optimisation: -log σ(β Δ_w - δ) - log σ(-(β Δ_l - δ)).

    Source: Jung et al. 2024 (arXiv:2404.04656). Each answer is classified on its own, so
    pairs are not needed: the two terms may come from different prompts. δ is the running mean of the
    implicit rewards (:class:`RunningDelta`), a constant for the gradient. TRL's ``bco_pair`` has no δ, which
    is ``delta=0`` here; the trainer that had one (``BCOTrainer``) is gone from TRL 1.16.

    Args:
        policy_chosen, policy_rejected, ref_chosen, ref_rejected: ``[B]`` summed log-probabilities.
        beta: β > 0.
        delta: δ in units of reward (β times nats), one number.

    Returns:
        ``[B]`` in nats; 2 log 2 where the policy equals the reference and δ = 0.
    """
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    shift = delta.detach() if isinstance(delta, Tensor) else delta
    return -logsigmoid(beta * chosen - shift) - logsigmoid(shift - beta * rejected)


class RunningDelta:
    """BCO's δ: the mean of the implicit rewards seen so far, half chosen and half rejected.

    Source: Jung et al. 2024: δ = ½ (E[r(y_w)] + E[r(y_l)]). Over the whole run, as TRL's former
    ``BCOTrainer`` had it, every batch weighs by its size.
    """

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0

    def update(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> float:
        """Take in ``[B]`` implicit rewards of the chosen and of the rejected answers; return the new δ."""
        require_same_shape(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
        batch = chosen_rewards.numel()
        mean = 0.5 * (chosen_rewards.detach().mean() + rejected_rewards.detach().mean()).item()
        self.count += batch
        self.value += (mean - self.value) * batch / self.count
        return self.value
