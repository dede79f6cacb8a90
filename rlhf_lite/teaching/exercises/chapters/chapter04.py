"""Chapter 4: LoRA by hand, counting, merging, bits per parameter, a learning rate."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from rlhf_lite.teaching.exercises.loading import Mistakes

if TYPE_CHECKING:
    from torch import Tensor

MISTAKES: Mistakes = {}


def lora_forward(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """The forward pass of a linear layer with LoRA."""
    return x @ weight.T + _scale(a, alpha) * _update(x, a, b)


def _scale(a: Tensor, alpha: float) -> float:
    return alpha / a.shape[0]


def _update(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return x @ a.T @ b.T


MISTAKES["lora_forward"] = {
    "the scale forgotten": lambda x, w, a, b, alpha: x @ w.T + _update(x, a, b),
    "alpha not divided by the rank": lambda x, w, a, b, alpha: x @ w.T + alpha * _update(x, a, b),
    "divided by the square root": lambda x, w, a, b, alpha:
        x @ w.T + alpha / a.shape[0] ** 0.5 * _update(x, a, b),
    "the base layer forgotten": lambda x, w, a, b, alpha: _scale(a, alpha) * _update(x, a, b),
    "the scale on the base layer too": lambda x, w, a, b, alpha:
        _scale(a, alpha) * (x @ w.T + _update(x, a, b)),
    "the rank read from the wrong axis": lambda x, w, a, b, alpha:
        x @ w.T + alpha / a.shape[1] * _update(x, a, b),
    "the weight not transposed": lambda x, w, a, b, alpha: x @ w + _scale(a, alpha) * _update(x, a, b),
    "A and B swapped": lambda x, w, a, b, alpha: x @ w.T + _scale(a, alpha) * (x @ b) @ a,
}


def lora_parameters(shapes: list[tuple[int, int]], rank: int, layers: int) -> int:
    """How many numbers does an adapter train? The shapes are (out, in)."""
    return layers * sum(rank * (outputs + inputs) for outputs, inputs in shapes)


MISTAKES["lora_parameters"] = {
    "the full matrices": lambda shapes, rank, layers: layers * sum(o * i for o, i in shapes),
    "A only": lambda shapes, rank, layers: layers * sum(rank * i for o, i in shapes),
    "B only": lambda shapes, rank, layers: layers * sum(rank * o for o, i in shapes),
    "one layer": lambda shapes, rank, layers: lora_parameters(shapes, rank, 1),
    "square matrices": lambda shapes, rank, layers: layers * sum(2 * rank * o for o, i in shapes),
    "the product as stored": lambda shapes, rank, layers: layers * sum(rank * o * i for o, i in shapes),
    "base and adapter together": lambda shapes, rank, layers:
        layers * sum(rank * (o + i) + o * i for o, i in shapes),
    "bytes": lambda shapes, rank, layers: 4 * lora_parameters(shapes, rank, layers),
}


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """The weight with an adapter merged into it."""
    return weight + _scale(a, alpha) * (b @ a)


MISTAKES["merged_weight"] = {
    "the scale forgotten": lambda w, a, b, alpha: w + b @ a,
    "alpha not divided by the rank": lambda w, a, b, alpha: w + alpha * (b @ a),
    "divided by the square root": lambda w, a, b, alpha: w + alpha / a.shape[0] ** 0.5 * (b @ a),
    "the update alone": lambda w, a, b, alpha: _scale(a, alpha) * (b @ a),
    "subtracted": lambda w, a, b, alpha: w - _scale(a, alpha) * (b @ a),
    "transposed": lambda w, a, b, alpha: w + _scale(a, alpha) * (b @ a).T,
    "A times B": lambda w, a, b, alpha: w + _scale(a, alpha) * (a @ b),
}


def bits_per_parameter(bits: int, block: int, constant_bits: int, outer_block: int) -> float:
    """How many bits does a quantised number take, its constants included?"""
    return bits + (constant_bits + _outer(outer_block)) / block


def _outer(outer_block: int) -> float:
    """Bits of the constants' own constants, for each constant."""
    return 32 / outer_block if outer_block else 0


MISTAKES["bits_per_parameter"] = {
    "the constants forgotten": lambda bits, block, constant, outer: bits,
    "the outer constants forgotten": lambda bits, block, constant, outer: bits + constant / block,
    "constants not shared by the block": lambda bits, block, constant, outer: bits + constant + _outer(outer),
    "outer constants shared by constants only": lambda bits, block, constant, outer:
        bits + constant / block + _outer(outer),
    "outer block counted in numbers": lambda bits, block, constant, outer:
        bits + constant / block + block * _outer(outer),
    "bytes": lambda bits, block, constant, outer: bits_per_parameter(bits, block, constant, outer) / 8,
    "always a float32 constant": lambda bits, block, constant, outer: bits + 32 / block,
    "division by the missing level": lambda bits, block, constant, outer:
        bits + constant / block + 32 / (block * outer),
}

REFUSED = "refused"
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def read_learning_rate(value: Any) -> float | str:
    """A learning rate from a settings file, without a surprise."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return REFUSED
    return float(value) if math.isfinite(value) and value > 0 else REFUSED


def _accepted(value: Any) -> bool:
    return read_learning_rate(value) != REFUSED


def _float(value: Any) -> float:
    """What float() makes of a value; NaN if it refuses."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


MISTAKES["read_learning_rate"] = {
    "float(value) and nothing else": float,
    "whatever float() can read": lambda value: _float(value) if 0 < _float(value) < math.inf else REFUSED,
    "floats only": lambda value: read_learning_rate(value) if isinstance(value, float) else REFUSED,
    "negative numbers accepted": lambda value:
        _float(value) if math.isfinite(_float(value)) and not isinstance(value, bool) else REFUSED,
    "zero accepted": lambda value:
        0.0 if value == 0 and not isinstance(value, bool) else read_learning_rate(value),
    "infinity accepted": lambda value: value if value == math.inf else read_learning_rate(value),
    "the text returned as it is": lambda value:
        value if isinstance(value, str) and _accepted(value) else read_learning_rate(value),
    "a default in silence": lambda value: read_learning_rate(value) if _accepted(value) else 1e-3,
}
