"""How the data files write a value.

A number may be written as the arithmetic that it comes from, such as ``2 / 3`` or ``1.5 * ln(4 / 3)``;
infinity and NaN are YAML's ``.inf`` and ``.nan``. ``KINDS`` are the kinds of value that an argument
may take.
"""

from __future__ import annotations

import ast
import copy
import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

_FUNCTIONS = {"ln": math.log, "exp": math.exp, "log1p": math.log1p, "sqrt": math.sqrt}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def read(kind: str, value: Any) -> Any:
    """Check a value of a data file, and calculate the arithmetic in it.

    Raises:
        ValueError: if there is no such kind, or if the value is not of this kind.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of value; use {', '.join(KINDS)}")
    return KINDS[kind](value)


def build(kind: str, value: Any) -> Any:
    """The argument that a reader's function receives, made anew for every call. Only tensors import torch."""
    dtype, _, form = kind.partition(" ")
    if form == "tensors":
        return [build(f"{dtype} tensor", part) for part in value]
    if form == "tensor":
        import torch

        return torch.tensor(value, dtype=getattr(torch, dtype))
    return copy.deepcopy(value)


def read_answer(value: Any, choices: list[str]) -> Any:
    """One of the choices, a number, or numbers in nested lists. Raises ValueError if it is none of these."""
    if value in choices:
        return value
    try:
        return _numbers(value)
    except ValueError as error:
        raise ValueError(f"{error}; the choices are {', '.join(choices)}" if choices else error) from None


def shape_of(nested: Any) -> tuple[int, ...]:
    """Shape of nested lists or tuples. Raises ValueError if the rows have different shapes."""
    if not isinstance(nested, list | tuple):
        return ()
    inner = {shape_of(part) for part in nested} or {()}
    if len(inner) > 1:
        raise ValueError("rows of different lengths")
    return (len(nested), *inner.pop())


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        return _calculate(ast.parse(value, mode="eval").body)
    except (TypeError, SyntaxError, ArithmeticError, ValueError):
        allowed = f"+ - * / **, brackets, e, {', '.join(_FUNCTIONS)}"
        raise ValueError(f"{value!r} is not a number; arithmetic may use {allowed}") from None


def _calculate(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id="e"):
            return math.e
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_calculate(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_calculate(left), _calculate(right))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](_calculate(argument))
    raise ValueError("not arithmetic")


def _numbers(value: Any) -> Any:
    return [_numbers(entry) for entry in value] if isinstance(value, list) else _number(value)


def _require(value: Any, fits: bool, kind: str) -> Any:
    if not fits:
        raise ValueError(f"{value!r} is not a {kind}")
    return value


def _whole(value: Any) -> int:
    return _require(value, isinstance(value, int) and not isinstance(value, bool), "whole number")


def _truth(value: Any) -> bool:
    return bool(_require(value, value in (0, 1), "truth value; use 0 or 1, true or false"))


def _text(value: Any) -> str:
    return _require(value, isinstance(value, str), "text; put it in quotes")


def _list(entry: Callable[[Any], Any], value: Any) -> list[Any]:
    return [entry(part) for part in _require(value, isinstance(value, list), "list")]


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(_require(value, isinstance(value, list) and len(value) == 2, "pair"))


def _mapping(value: Any) -> dict[str, float]:
    items = _require(value, isinstance(value, dict), "mapping").items()
    return {_text(name): _number(number) for name, number in items}


def _tensor(entry: Callable[[Any], Any], value: Any) -> Any:
    shape_of(value)
    return [_tensor(entry, row) for row in value] if isinstance(value, list) else entry(value)


KINDS: dict[str, Callable[[Any], Any]] = {
    "number": _number,
    "numbers": partial(_list, _numbers),  # also in nested lists
    "text": _text,
    "texts": partial(_list, _text),
    "pairs": partial(_list, _pair),  # a list of tuples
    "mapping": _mapping,  # from names to numbers
    "anything": lambda value: value,  # as YAML reads it: a text stays a text
    "float32 tensor": partial(_tensor, _number),
    "float64 tensor": partial(_tensor, _number),
    "int64 tensor": partial(_tensor, _whole),
    "bool tensor": partial(_tensor, _truth),
    "float32 tensors": partial(_list, partial(_tensor, _number)),
    "bool tensors": partial(_list, partial(_tensor, _truth)),
}
