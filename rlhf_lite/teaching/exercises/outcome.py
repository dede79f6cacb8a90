"""What one call of a reader's function came to, and whether two calls came to the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_lite.teaching.exercises.notation import shape_of
from rlhf_lite.teaching.exercises.records import Case

NOT_SOLVED = "not solved yet"


@dataclass(frozen=True)
class Outcome:
    """What one call returned: its numbers and their shape, or a word for what went wrong, with a detail.

    ``values`` holds the entries in reading order; a number is an answer of shape ``()``, and so is a text.
    """

    values: tuple[float | str, ...] = ()
    shape: tuple[int, ...] = ()
    problem: str = ""
    detail: str = ""

    def same_as(self, other: Outcome, tolerance: float) -> bool:
        """Whether both are one answer up to the tolerance, relative and absolute, or one problem."""
        if self.problem or other.problem:
            return self.problem == other.problem
        if self.shape != other.shape:
            return False
        return all(_close(a, b, tolerance) for a, b in zip(self.values, other.values, strict=True))

    def __str__(self) -> str:
        """The answer as a reader would write it, shortened if it is long."""
        if self.shape == ():
            return _show(self.values[0])
        if len(self.values) > 16:
            return f"a tensor of shape {self.shape}, beginning {_show_rows(self.values[:8], (8,))}"
        return _show_rows(self.values, self.shape)


def outcome_of(function: Callable[..., Any], case: Case) -> Outcome:
    """Call the function on the inputs of a case. Whatever it does, the book goes on."""
    inputs = case.inputs()
    before = repr(_plain(inputs))  # text, because NaN does not equal itself
    try:
        answer = function(*inputs)
    except NotImplementedError:
        return Outcome(problem=NOT_SOLVED, detail="is not written yet")
    except Exception as error:  # the reader's code may raise anything
        return Outcome(problem=type(error).__name__, detail=f"raised {type(error).__name__}: {error}")
    if repr(_plain(inputs)) != before:
        detail = "changed the tensors it was given (an operation ending in _)"
        return Outcome(problem="changed inputs", detail=detail)
    return as_outcome(answer, one_number=as_outcome(case.expected).shape == ())


def as_outcome(answer: Any, *, one_number: bool = False) -> Outcome:
    """Numbers and shape of an answer: a number, a text, a tensor, an array or nested lists."""
    if answer is None:
        return Outcome(problem="returned None", detail="returned nothing (is a `return` missing?)")
    if isinstance(answer, str):
        return Outcome((answer.strip().lower(),))
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    try:
        shape = shape_of(answer)
        values = tuple(float(entry) for entry in _entries(answer))
    except (TypeError, ValueError):
        return Outcome(problem="not a number", detail=f"returned {answer!r}, which is not a number")
    if one_number and shape != ():
        if len(values) == 1:  # a tensor of one entry is a number
            return Outcome(values)
        detail = f"returned a tensor of shape {shape}, not a number"
        return Outcome(problem="returned a tensor", detail=detail)
    return Outcome(values, shape)


def _plain(value: Any) -> Any:
    """Arguments with every tensor and array as nested lists."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _entries(nested: Any) -> Iterator[Any]:
    if isinstance(nested, list | tuple):
        for part in nested:
            yield from _entries(part)
    else:
        yield nested


def _show(value: float | str) -> str:
    return repr(value) if isinstance(value, str) else f"{value:.6g}"


def _show_rows(values: Sequence[float | str], shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return f"[{', '.join(_show(value) for value in values)}]"
    size = len(values) // shape[0] if shape[0] else 0
    rows = [values[i * size : (i + 1) * size] for i in range(shape[0])]
    return f"[{', '.join(_show_rows(row, shape[1:]) for row in rows)}]"


def _close(a: float | str, b: float | str, tolerance: float) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
