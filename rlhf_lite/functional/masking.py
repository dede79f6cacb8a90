"""Means, variances and whitening over the entries that count.

One meaning everywhere: ``mask=True`` means that the entry counts. Values at masked-out places never reach a
result or a gradient, even when they are NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lite.functional.checks import require_mask, require_same_shape


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of the entries of ``x`` where ``mask`` is True, over ``dim`` (default: all)."""
    require_same_shape(x=x, mask=mask)
    require_mask(mask)
    # where, not multiplication: 0 * NaN is NaN.
    counts = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
    return counts.sum() if dim is None else counts.sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the entries of ``x`` where ``mask`` is True.

    Args:
        x: any shape.
        mask: bool, same shape as ``x``; True counts.
        dim: the dimension to reduce; None reduces all of them.

    Returns:
        A scalar, or ``x`` without ``dim``.

    Raises:
        ValueError: if nothing counts in some reduced slice: a mean of nothing has no value.
    """
    total = masked_sum(x, mask, dim)
    count = mask.sum() if dim is None else mask.sum(dim)
    if bool((count == 0).any()):
        raise ValueError("masked_mean over an empty mask: no entry counts in at least one slice")
    return total / count


def masked_var(x: Tensor, mask: Tensor, *, unbiased: bool = True) -> Tensor:
    """Variance of the entries of ``x`` where ``mask`` is True, a scalar.

    Args:
        x: any shape.
        mask: bool, same shape; True counts.
        unbiased: divide by n - 1 (TRL's choice) rather than n (OpenAI's).

    Raises:
        ValueError: if fewer than two entries count and ``unbiased`` is set.
    """
    count = int(mask.sum())
    if unbiased and count < 2:
        raise ValueError(f"an unbiased variance needs two entries that count, got {count}")
    mean = masked_mean(x, mask)
    squared = masked_mean((torch.where(mask, x, mean) - mean) ** 2, mask)
    return squared * count / (count - 1) if unbiased else squared


def masked_whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True, unbiased: bool = True,
                  eps: float = 1e-8) -> Tensor:
    """Scale the counted entries to variance one and, by default, mean zero.

    ``shift_mean=False`` adds the mean back after the scaling, as in OpenAI's 2019 code and TRL. Masked-out
    entries come back as 0.

    Args:
        x: any shape.
        mask: bool, same shape; True counts.
        shift_mean: centre the result on zero.
        unbiased: see :func:`masked_var`.
        eps: added to the variance, so that a constant input, or a single entry, gives zeros.
    """
    mean, single = masked_mean(x, mask), int(mask.sum()) == 1
    var = torch.zeros_like(mean) if single else masked_var(x, mask, unbiased=unbiased)
    whitened = (torch.where(mask, x, mean) - mean) * torch.rsqrt(var + eps)
    if not shift_mean:
        whitened = whitened + mean
    return torch.where(mask, whitened, torch.zeros((), dtype=x.dtype, device=x.device))
