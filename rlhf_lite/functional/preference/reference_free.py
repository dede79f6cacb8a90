"""Losses on pairs (chosen, rejected) that need no reference model, one number per pair.

They take summed log-probabilities ``[B]`` in nats, and the token counts where a form divides by them, so
that nobody has to remember which loss wants sums and which wants means. The pairs may come from anywhere.
Without a reference nothing holds the policy near its start: watch the KL divergence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lite.functional.checks import require_positive, require_rank, require_same_shape
from rlhf_lite.functional.preference.terms import per_token, require_smoothing


def simpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, chosen_lengths: Tensor,
               rejected_lengths: Tensor, *, beta: float, gamma: float = 0.5) -> Tensor:
    """Simple preference optimisation: -log σ(β (mean_w - mean_l) - γ), with mean log-probabilities per token.

    Source: Meng et al. 2024 (arXiv:2405.14734), equation 6. γ is the target margin in units of reward and is
    *not* multiplied by β. The authors' code takes the ratio γ/β (``gamma_beta_ratio``); TRL takes γ
    (``simpo_gamma``) and divides by β before it multiplies by β, which is this again.

    Args:
        policy_chosen, policy_rejected: ``[B]`` summed log-probabilities.
        chosen_lengths, rejected_lengths: ``[B]`` counted tokens.
        beta: β > 0; the paper uses 2 to 10, far above DPO's, because per-token means are small.
        gamma: γ >= 0.

    Returns:
        ``[B]`` in nats; log(1 + e^γ) where the two means are equal.
    """
    chosen, rejected = _per_token(policy_chosen, policy_rejected, chosen_lengths, rejected_lengths, beta)
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, got {gamma}")
    return -logsigmoid(beta * (chosen - rejected) - gamma)


def orpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, chosen_lengths: Tensor,
              rejected_lengths: Tensor, *, beta: float, nll_weight: float = 1.0) -> Tensor:
    """Odds-ratio preference optimisation: -mean_w - β log σ(log odds_w - log odds_l), odds = p / (1 - p).

    p = exp(mean log-probability per token), the geometric mean of the token probabilities.
    Source: Hong et al. 2024 (arXiv:2403.07691), equations 4, 6 and 7; their λ is β. TRL averages the SFT term
    over all tokens of the batch, the prompts' included; here it is per pair, over the chosen answer.
    ``log(1 - p)`` is computed without cancellation and p is held one rounding step below 1, so that value and
    gradient stay finite where TRL's are NaN (a mean log-probability of exactly 0).

    Args:
        policy_chosen, policy_rejected: ``[B]`` summed log-probabilities.
        chosen_lengths, rejected_lengths: ``[B]`` counted tokens.
        beta: λ of the paper, the weight of the odds-ratio term.
        nll_weight: weight of the SFT term; 0 leaves the odds-ratio term alone.

    Returns:
        ``[B]`` in nats.
    """
    chosen, rejected = _per_token(policy_chosen, policy_rejected, chosen_lengths, rejected_lengths, beta)
    log_odds_ratio = log_odds(chosen) - log_odds(rejected)
    return -nll_weight * chosen - beta * logsigmoid(log_odds_ratio)


def cpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, chosen_lengths: Tensor, *, beta: float,
             nll_weight: float = 1.0, label_smoothing: float = 0.0) -> Tensor:
    """Contrastive preference optimisation: DPO with a uniform reference, plus imitation of the chosen answer.

        -(1-ε) log σ(z) - ε log σ(-z) - nll_weight · mean_w,   z = β (log π(y_w) - log π(y_l))

    Source: Xu et al. 2024 (arXiv:2401.08417). z is made of *sums*. The paper writes the imitation term as
    -log π(y_w), the sum; TRL (``cpo_alpha``) uses the mean per token, as here, except that TRL averages over
    all tokens of the batch and here it is per pair.

    Args:
        policy_chosen, policy_rejected: ``[B]`` summed log-probabilities.
        chosen_lengths: ``[B]`` counted tokens of the chosen answers.
        beta: β > 0.
        nll_weight: weight of the imitation term; TRL's ``cpo_alpha``.
        label_smoothing: ε in [0, 0.5), as in conservative DPO.

    Returns:
        ``[B]`` in nats.
    """
    require_rank(1, policy_chosen=policy_chosen)
    require_same_shape(policy_chosen=policy_chosen, policy_rejected=policy_rejected)
    require_positive(beta=beta)
    require_smoothing(label_smoothing)
    z = beta * (policy_chosen - policy_rejected)  # (B,)
    preference = -(1.0 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)
    return preference - nll_weight * per_token(policy_chosen, chosen_lengths)


def log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p, accurate for p near 0 and near 1.

    p is held one rounding step of its type below 1; there the gradient is zero instead of infinite.
    """
    held = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    return held - log1mexp(held)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0 without cancellation, with finite gradients in both branches.

    Source: Mächler 2012, "Accurately computing log(1 - exp(-|a|))": the switch is at -log 2.
    """
    near = x > -0.6931471805599453
    # Each branch sees a harmless number where it is not used: `where` passes 0 * inf = NaN back otherwise.
    small = torch.where(near, x, torch.full_like(x, -0.5))
    large = torch.where(near, torch.full_like(x, -1.0), x)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def _per_token(policy_chosen: Tensor, policy_rejected: Tensor, chosen_lengths: Tensor,
               rejected_lengths: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    require_rank(1, policy_chosen=policy_chosen)
    require_same_shape(policy_chosen=policy_chosen, policy_rejected=policy_rejected)
    require_positive(beta=beta)
    return per_token(policy_chosen, chosen_lengths), per_token(policy_rejected, rejected_lengths)
