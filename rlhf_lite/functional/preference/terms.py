"""What the preference losses share: log-ratios to the reference, means per token, and their checks."""

from __future__ import annotations

from torch import Tensor

from rlhf_lite.functional.checks import require_positive, require_rank, require_same_shape


def per_token(logps: Tensor, lengths: Tensor) -> Tensor:
    """Divide ``[B]`` summed log-probabilities by their ``[B]`` token counts.

    Raises:
        ValueError: if shapes differ or a length is below 1.
    """
    require_same_shape(logps=logps, lengths=lengths)
    if bool((lengths < 1).any()):
        raise ValueError(f"lengths must be at least 1 token, got {lengths.tolist()}")
    return logps / lengths


def log_ratios(policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *,
               beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Δ_w and Δ_l, ``[B]`` each, after the checks that all these losses share."""
    require_rank(1, policy_chosen=policy_chosen)
    require_same_shape(policy_chosen=policy_chosen, policy_rejected=policy_rejected, ref_chosen=ref_chosen,
                       ref_rejected=ref_rejected)
    require_positive(beta=beta)
    return policy_chosen - ref_chosen.detach(), policy_rejected - ref_rejected.detach()


def require_smoothing(label_smoothing: float) -> None:
    """Raise a ValueError if ε is not in [0, 0.5): beyond it the loss would follow the flipped labels."""
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), got {label_smoothing}")
