"""Losses on pairs (chosen, rejected) that compare the policy with a frozen reference, one number per pair.

Every function takes four ``[B]`` tensors of *summed* log-probabilities in nats: of the chosen and of the
rejected answer, under the policy and under the reference. The pairs may come from anywhere: these losses are
off-policy. The reference is a constant: no gradient reaches it, even when the caller forgot ``no_grad``.

Notation: Δ_w = log π(y_w) - log π_ref(y_w) for the chosen (winning) answer, Δ_l for the rejected (losing)
one, h = Δ_w - Δ_l. Losses without a reference are in :mod:`~rlhf_lite.functional.preference.reference_free`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lite.functional.checks import require_one_of, require_positive, require_same_shape
from rlhf_lite.functional.preference.terms import log_ratios, per_token, require_smoothing


def implicit_reward(policy_logps: Tensor, ref_logps: Tensor, *, beta: float) -> Tensor:
    """The reward for which a policy would be optimal: β (log π(y) - log π_ref(y)), up to β log Z(x).

    Source: Rafailov et al. 2023 (arXiv:2305.18290), equation 5. The missing β log Z(x) is the same for all
    answers to one prompt, so compare implicit rewards within a prompt only. Gradients flow to the policy;
    detach it for logging.

    Args:
        policy_logps: ``[B]`` summed log-probabilities under the policy, in nats.
        ref_logps: ``[B]``, under the reference.
        beta: β > 0, units of the reward per nat.

    Returns:
        ``[B]`` in units of the reward.
    """
    require_same_shape(policy_logps=policy_logps, ref_logps=ref_logps)
    require_positive(beta=beta)
    return beta * (policy_logps - ref_logps.detach())


def dpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *,
             beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Direct preference optimisation: -(1-ε) log σ(β h) - ε log σ(-β h).

    Source: Rafailov et al. 2023 (arXiv:2305.18290), equation 7, for ε = 0. With ε > 0 it is *conservative*
    DPO (Mitchell's note, 2023; the authors' own ``preference_loss``): the loss has its minimum at a finite
    margin β h = log((1-ε)/ε). TRL 1.16's ``sigmoid`` ignores ``label_smoothing``; its ``robust`` is
    :func:`robust_dpo_loss`, another loss.

    Args:
        policy_chosen, policy_rejected, ref_chosen, ref_rejected: ``[B]``, see the module.
        beta: β > 0; the strength of the pull to the reference, and the KL coefficient of the RLHF problem
            with the same optimum.
        label_smoothing: ε in [0, 0.5), the assumed share of flipped labels.

    Returns:
        ``[B]`` in nats; log 2 where the policy equals the reference.
    """
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    require_smoothing(label_smoothing)
    z = beta * (chosen - rejected)  # (B,)
    return -(1.0 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)


def robust_dpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor,
                    *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO made unbiased for flipped labels: (-(1-ε) log σ(β h) + ε log σ(-β h)) / (1 - 2ε).

    Source: Chowdhury et al. 2024 (arXiv:2403.00409). If a share ε of the pairs is swapped at
    random, the expected loss equals the DPO loss on clean pairs. It differs from conservative DPO by the sign
    before ε and by the divisor, is not bounded below for a single pair, and keeps pushing margins up. Equal
    to TRL's ``robust``.

    Args:
        policy_chosen, policy_rejected, ref_chosen, ref_rejected: ``[B]``, see the module.
        beta: β > 0.
        label_smoothing: ε in [0, 0.5), the known share of flipped labels; 0 gives :func:`dpo_loss`.
    """
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    require_smoothing(label_smoothing)
    z = beta * (chosen - rejected)  # (B,)
    clean, flipped = -logsigmoid(z), -logsigmoid(-z)
    return ((1.0 - label_smoothing) * clean - label_smoothing * flipped) / (1.0 - 2.0 * label_smoothing)


def ipo_loss(policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *,
             tau: float, normalise: Literal["sum", "mean"] = "sum", chosen_lengths: Tensor | None = None,
             rejected_lengths: Tensor | None = None) -> Tensor:
    """Identity preference optimisation: (h - 1/(2τ))².

    Source: Azar et al. 2023 (arXiv:2310.12036), equation 17. Two things go by this name. ``sum``: h is made
    of sequence log-probabilities, as the equation and Mitchell's code have it. ``mean``: each Δ is divided by
    the number of its tokens first, as TRL's ``ipo`` does, whose comment says that the paper's results were
    made that way. The same τ means very different margins in the two.

    Args:
        policy_chosen, policy_rejected, ref_chosen, ref_rejected: ``[B]``, see the module.
        tau: τ > 0, the strength of the regularisation (TRL calls it ``beta``).
        normalise: which of the two forms.
        chosen_lengths, rejected_lengths: ``[B]`` counted tokens, for ``mean``.

    Returns:
        ``[B]``, in nats² (``sum``) or (nats per token)² (``mean``).
    """
    require_one_of(("sum", "mean"), normalise=normalise)
    require_positive(tau=tau)
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    if normalise == "mean":
        if chosen_lengths is None or rejected_lengths is None:
            raise ValueError('normalise="mean" needs chosen_lengths and rejected_lengths')
        chosen = per_token(chosen, chosen_lengths)
        rejected = per_token(rejected, rejected_lengths)
    return (chosen - rejected - 0.5 / tau) ** 2


def hinge_loss(policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *,
               beta: float) -> Tensor:
    """Hinge on the DPO margin: max(0, 1 - β h).

    Source: the normalised form of SLiC that Liu et al. 2023 (RSO, arXiv:2309.06657) give, and
    TRL's ``hinge``. The SLiC-HF paper itself (Zhao et al. 2023) has no reference inside the hinge and adds an
    SFT term. The gradient is exactly zero once β h > 1.

    Returns:
        ``[B]``; 1 where the policy equals the reference.
    """
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    return torch.relu(1.0 - beta * (chosen - rejected))


def apo_zero_loss(policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *,
                  beta: float) -> Tensor:
    """Anchored preference optimisation, for chosen answers *better* than the model's own:
    (1 - σ(β Δ_w)) + σ(β Δ_l).

    Source: D'Oosterlinck et al. 2024 (arXiv:2408.06266), equation 7. Pushes the chosen answer above the
    reference and the rejected one below it, each on its own. Equal to TRL's ``apo_zero``.

    Returns:
        ``[B]`` in [0, 2]; 1 where the policy equals the reference.
    """
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)


def apo_down_loss(policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *,
                  beta: float) -> Tensor:
    """Anchored preference optimisation, for chosen answers *worse* than the model's own:
    σ(β Δ_w) + (1 - σ(β (Δ_w - Δ_l))).

    Source: D'Oosterlinck et al. 2024 (arXiv:2408.06266), equation 8. Lowers both answers, the rejected one
    more. Equal to TRL's ``apo_down``.

    Returns:
        ``[B]`` in [0, 2]; 1 where the policy equals the reference.
    """
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    return torch.sigmoid(beta * chosen) + torch.sigmoid(-beta * (chosen - rejected))


def nca_loss(policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *,
             beta: float) -> Tensor:
    """Noise-contrastive alignment: -log σ(β Δ_w) - ½ log σ(-β Δ_w) - ½ log σ(-β Δ_l).

    Source: Chen et al. 2024 (arXiv:2402.05369), the form for K = 2 answers with a preference; TRL's
    ``nca_pair``. The middle term stops the chosen answer from rising without end.

    Returns:
        ``[B]`` in nats; 2 log 2 where the policy equals the reference.
    """
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    z_chosen, z_rejected = beta * chosen, beta * rejected
    return -logsigmoid(z_chosen) - 0.5 * logsigmoid(-z_chosen) - 0.5 * logsigmoid(-z_rejected)


def sppo_loss(policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *,
              beta: float, win_rate: float = 1.0) -> Tensor:
    """Self-play preference optimisation: (Δ_w - (p - ½)/β)² + (Δ_l - (½ - p)/β)².

    Source: Wu et al. 2024 (arXiv:2405.00675), equation 4.7, with η = 1/β. p is the probability that the
    chosen answer wins; the paper estimates it with a preference model for samples *from the current policy*,
    and the reference is the policy of the previous round. p = 1 is the hard form of TRL's ``sppo_hard``.

    Args:
        policy_chosen, policy_rejected, ref_chosen, ref_rejected: ``[B]``, see the module.
        beta: β > 0; the target of each log-ratio is (p - ½)/β nats.
        win_rate: p in [0, 1].

    Returns:
        ``[B]`` in nats².
    """
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    if not 0.0 <= win_rate <= 1.0:
        raise ValueError(f"win_rate must lie in [0, 1], got {win_rate}")
    target = (win_rate - 0.5) / beta
    return (chosen - target) ** 2 + (rejected + target) ** 2
