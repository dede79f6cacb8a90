"""Linear layers for decoding: as PyTorch has them, or packed for the matrix kernels of the CPU.

A decoding step multiplies a few rows by every weight of the model. In bfloat16 the CPU kernels of oneDNN want
the weights in blocks of their own; PyTorch rearranges them anew in every call, which costs as much as the
product itself when the rows are few. Packing once per sampling call pays that once.
"""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.nn import functional

from rlhf_lite.models.lora.layer import LoRALinear

# What PEFT puts around a module that an adapter changes.
WRAPPERS = (BaseTunerLayer, AuxiliaryTrainingWrapper)


class PlainLinear:
    """y = x W^T + b on rows ``[N, in]``, alone or followed by one operation on each element.

    A view of the model's own weights; nothing is copied.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """``[N, in]`` to ``[N, out]``."""
        return functional.linear(x, self._weight, self._bias)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product plus ``other``, for residual connections."""
        return self(x) + other

    def gated(self, x: Tensor, gate: Tensor) -> Tensor:
        """The product times ``gate``."""
        return self(x) * gate

    def silu(self, x: Tensor) -> Tensor:
        """The product times its own sigmoid, the activation called SiLU or swish."""
        return functional.silu(self(x))


class PackedLinear:
    """A copy of the weights laid out for oneDNN's kernels, with the operators that PyTorch's compiler uses.

    The operation that follows is done before the result is rounded to bfloat16, which spares a pass over
    memory and one rounding.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = torch.ops.mkldnn._reorder_linear_weight(weight), bias

    def __call__(self, x: Tensor) -> Tensor:
        """See :class:`PlainLinear`."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """See :class:`PlainLinear`."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "add")

    def gated(self, x: Tensor, gate: Tensor) -> Tensor:
        """See :class:`PlainLinear`."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, gate, self._weight, self._bias, "mul")

    def silu(self, x: Tensor) -> Tensor:
        """See :class:`PlainLinear`."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "swish", [], "")


Linear = PlainLinear | PackedLinear


def can_pack(weight: Tensor) -> bool:
    """Whether :class:`PackedLinear` works for such weights: bfloat16 on a CPU with oneDNN's kernels for it.

    In float32 packing gains next to nothing.
    """
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    needed = ("_is_mkldnn_bf16_supported", "_linear_pointwise", "_reorder_linear_weight")
    return all(hasattr(torch.ops.mkldnn, name) for name in needed) and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def plain_linear(module: nn.Module) -> nn.Linear | None:
    """The linear layer whose weights are all that ``module`` computes with just now; None if there is more.

    A layer that carries adapters is plain while they are merged into its weights or switched off.
    """
    if isinstance(module, BaseTunerLayer) and module.merged != module.disable_adapters:
        module = module.get_base_layer()
    elif isinstance(module, LoRALinear) and module.active is None:
        module = module.base
    return module if type(module) is nn.Linear else None
