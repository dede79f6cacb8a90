"""Put an update into a frozen weight, and take it out again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Folded:
    """A layer whose weight was replaced, and the parameter to put back."""

    layer: nn.Module
    original: nn.Parameter

    def undo(self) -> None:
        """Put the original back: the very same parameter, not one computed back, so that nothing drifts."""
        self.layer.weight = self.original


@torch.no_grad()
def fold(layer: nn.Module, update: Tensor, name: str) -> Folded:
    """Replace ``layer.weight`` by weight + update.

    The sum is taken in float32 and rounded once, also for bfloat16 weights. The layer gets a new parameter:
    writing into the old one would change every layer that it is tied to, such as the vocabulary head when an
    embedding is adapted.

    Args:
        layer: has a ``weight``.
        update: in the shape of the weight.
        name: what an error calls the layer.

    Raises:
        ValueError: if the result is not finite; the layer is left alone.
    """
    original = layer.weight
    total = torch.add(update, original)  # float32 + bfloat16 is float32
    # One number that is not finite makes the sum so, and a sum is cheaper than a look at every entry.
    if not bool(torch.isfinite(total.sum())):
        raise ValueError(f"merging makes the weight of {name} infinite or NaN: the adapter is broken")
    layer.weight = nn.Parameter(total.to(original.dtype), requires_grad=False)
    return Folded(layer, original)
