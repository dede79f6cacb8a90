"""Shape checks at the door of every pure function."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def require_same_shape(**tensors: Tensor) -> None:
    """Raise a ValueError that names every tensor and its shape, if the named tensors differ in shape.

    Broadcasting is refused on purpose: a ``[B]`` against a ``[B, T]`` tensor runs without an error and
    gives a wrong number.
    """
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"these tensors must have one shape, got {shapes}")


def require_rank(rank: int, **tensors: Tensor) -> None:
    """Raise a ValueError that names the tensor and its shape, if it does not have ``rank`` dimensions."""
    for name, tensor in tensors.items():
        if tensor.dim() != rank:
            raise ValueError(f"{name} must have {rank} dimensions, got shape {tuple(tensor.shape)}")


def require_mask(mask: Tensor) -> None:
    """Raise a TypeError that names the received dtype, if ``mask`` is not boolean (``True`` counts)."""
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor where True counts, got {mask.dtype}; use mask.bool()")


def require_positive(**numbers: float) -> None:
    """Raise a ValueError that names the number and its value, if it is not larger than zero."""
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be positive, got {number}")


def require_one_of(choices: Iterable[str], **values: str) -> None:
    """Raise a ValueError that names the value and the choices, if it is not one of ``choices``."""
    allowed = sorted(choices)
    for name, value in values.items():
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
