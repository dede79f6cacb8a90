"""The layers of LoRA: a frozen weight and the small updates that are added to it.

A frozen weight W gets a trainable update of rank r:

    W' = W + s · B A,    A [r, in],  B [out, r],    s = alpha / r  (or alpha / √r)

Source: Hu et al. 2021 (arXiv:2106.09685), eq. 3; s = alpha / √r is rank-stabilised LoRA, Kalajdzievski 2023
(arXiv:2312.03732). Deviation from the paper: A of a linear layer is drawn from Kaiming's uniform
distribution, as in the authors' code, where the paper says Gaussian. B = 0 (for an embedding A = 0), so that
a new adapter changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class LoRASpec:
    """The numbers of one adapter on one layer.

    Attributes:
        rank: r, the number of rows of A and of columns of B.
        alpha: the numerator of the scale.
        dropout: the share of inputs to A that are dropped in training; embeddings have none, as in PEFT.
        rslora: divide alpha by √r instead of r.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    rslora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    @property
    def scale(self) -> float:
        """The factor s in W + s · B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class Merged(NamedTuple):
    """What a merge changed on one layer: the adapter that was active, and its weight if that was replaced."""

    active: str | None
    weight: nn.Parameter | None


@torch.no_grad()
def fold(layer: nn.Module, update: Tensor, name: str) -> nn.Parameter:
    """Replace ``layer.weight`` by weight + update, and return the weight that was there.

    To undo it, give the layer that very parameter again: nothing is computed back, so that nothing drifts.
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
    return original


class LoRALinear(nn.Module):
    """A frozen linear layer with any number of named adapters, of which one is active, or none.

    Args:
        base: ``nn.Linear``, or GPT-2's ``Conv1D``, which is the same with a transposed weight.

    Attributes:
        A: name to ``[r, in]``, float32.
        B: name to ``[out, r]``, float32.
        specs: name to rank, scale and dropout.
        active: the adapter that is added, or None.
        merged: what ``unmerge`` puts back while an adapter is merged, or None.
    """

    def __init__(self, base: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        self.specs: dict[str, LoRASpec] = {}
        self.active: str | None = None
        self.merged: Merged | None = None

    @property
    def weight(self) -> Tensor:
        """The base weight, for code that reads its type or shape."""
        return self.base.weight

    def add(self, name: str, spec: LoRASpec, generator: torch.Generator | None = None) -> None:
        """A new adapter that changes nothing: A uniform in ±1/√in, B zero."""
        inputs, out = sizes(self)
        # Kaiming's uniform distribution with a = √5, as in the authors' code, is this one.
        a = (torch.rand(spec.rank, inputs, generator=generator) * 2 - 1) / math.sqrt(inputs)
        _register(self, name, spec, a, torch.zeros(out, spec.rank))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``: the base layer, plus s · B A x of the active adapter."""
        y = self.base(x)
        if self.active is None:
            return y
        spec, a, b = self.specs[self.active], self.A[self.active], self.B[self.active]
        inner = F.dropout(x.to(a.dtype), spec.dropout, self.training)
        return (y + F.linear(F.linear(inner, a), b) * spec.scale).to(y.dtype)

    def update(self, name: str) -> Tensor:
        """The update s · B A in float32, in the shape of the base weight."""
        delta = self.specs[name].scale * (self.B[name] @ self.A[name])  # (out, in)
        return delta if isinstance(self.base, nn.Linear) else delta.T


class LoRAEmbedding(nn.Module):
    """A frozen embedding with named adapters; see :class:`LoRALinear`.

    The input of an embedding is a one-hot vector, so A x is a column of A.

    Args:
        base: ``nn.Embedding``.

    Attributes:
        A: name to ``[r, V]``, float32; zero at the start, because a token's column gets a gradient only when
            the token occurs.
        B: name to ``[H, r]``, float32; standard normal at the start.
        specs, active, merged: as in :class:`LoRALinear`.
    """

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        self.specs: dict[str, LoRASpec] = {}
        self.active: str | None = None
        self.merged: Merged | None = None

    @property
    def weight(self) -> Tensor:
        """The base weight, for code that reads its type or shape."""
        return self.base.weight

    def add(self, name: str, spec: LoRASpec, generator: torch.Generator | None = None) -> None:
        """A new adapter that changes nothing: A zero, B standard normal."""
        tokens, hidden = sizes(self)
        b = torch.randn(hidden, spec.rank, generator=generator)
        _register(self, name, spec, torch.zeros(spec.rank, tokens), b)

    def forward(self, ids: Tensor) -> Tensor:
        """``[...]`` token ids to ``[..., H]``."""
        y = self.base(ids)
        if self.active is None:
            return y
        a, b = self.A[self.active], self.B[self.active]
        rows = F.embedding(ids, a.T, padding_idx=self.base.padding_idx)  # (..., r)
        return (y + F.linear(rows, b) * self.specs[self.active].scale).to(y.dtype)

    def update(self, name: str) -> Tensor:
        """The update s · (B A)ᵀ in float32, ``[V, H]`` like the base weight."""
        return self.specs[name].scale * (self.B[name] @ self.A[name]).T


LoRALayer = LoRALinear | LoRAEmbedding
WRAPPERS: Mapping[type[nn.Module], type[LoRALinear] | type[LoRAEmbedding]] = {
    nn.Linear: LoRALinear, Conv1D: LoRALinear, nn.Embedding: LoRAEmbedding,
}


def sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs (for an embedding: tokens) and outputs of a layer that can carry adapters, wrapped or not."""
    rows, columns = layer.weight.shape
    return (columns, rows) if isinstance(getattr(layer, "base", layer), nn.Linear) else (rows, columns)


def _register(layer: LoRALayer, name: str, spec: LoRASpec, a: Tensor, b: Tensor) -> None:
    if name in layer.specs:
        raise ValueError(f"there is an adapter called {name!r} already: choose another name")
    device = layer.weight.device
    layer.specs[name] = spec
    # Float32 also on a bfloat16 model: an optimiser's small steps would be rounded away.
    layer.A[name], layer.B[name] = nn.Parameter(a.to(device)), nn.Parameter(b.to(device))
