"""How an exercise is checked.

An unsolved exercise must not block a reader: outside of grading, ``check`` prints what is wrong and goes on.
While nbgrader executes the notebook (it sets ``NBGRADER_EXECUTION``), or with ``RLHF_LITE_EXERCISES=strict``,
or with ``strict=True``, a failed check raises ``ExerciseFailed``, so that the cell earns no points.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_lite.teaching.exercises.loading import Case, Exercise, get_exercise
from rlhf_lite.teaching.exercises.notation import shape_of

NOT_SOLVED = "not solved yet"


class ExerciseFailed(AssertionError):
    """The reader's function is not right yet; the message says why."""


@dataclass(frozen=True)
class CheckResult:
    """What a check came to. It is true when the exercise is solved."""

    name: str
    passed: bool
    message: str
    wrong_answer: str | None = field(default=None, compare=False)

    def __bool__(self) -> bool:
        return self.passed

    def _ipython_display_(self) -> None:
        """Show nothing as a cell's result: ``check`` has already printed the message."""


def check(name: str, function: Callable[..., Any], *, strict: bool | None = None) -> CheckResult:
    """Try ``function`` on the inputs of exercise ``name`` and print what is wrong, or that it is solved.

    Args:
        name: the exercise, as in the notebook.
        function: the reader's function.
        strict: raise when the check fails. By default only while a grader runs the notebook.

    Returns:
        A result that is true when the function passed.

    Raises:
        ExerciseFailed: if the check failed and ``strict`` holds.
        ValueError: if there is no such exercise.
    """
    result = examine(get_exercise(name), function)
    if not result.passed and (grading() if strict is None else strict):
        raise ExerciseFailed(result.message)
    print(result.message)
    return result


def grading() -> bool:
    """Whether a failed check has to raise: under nbgrader, or with ``RLHF_LITE_EXERCISES=strict``."""
    mode = os.environ.get("RLHF_LITE_EXERCISES", "")
    if mode not in ("", "strict", "lenient"):
        raise ValueError(f"RLHF_LITE_EXERCISES is {mode!r}; use 'strict' or 'lenient', or leave it unset")
    return mode == "strict" if mode else bool(os.environ.get("NBGRADER_EXECUTION"))


def examine(exercise: Exercise, function: Callable[..., Any]) -> CheckResult:
    """Try a function on every case of an exercise; the first case that fails is explained."""
    if not callable(function):
        text = f"{exercise.name}: check() needs the function itself, and received {function!r}."
        return CheckResult(exercise.name, False, text)
    outcomes = [outcome_of(function, case) for case in exercise.cases]
    if any(outcome.problem == NOT_SOLVED for outcome in outcomes):
        advice = "Replace the line `raise NotImplementedError()` and run again."
        return CheckResult(exercise.name, False, f"{exercise.name}: {NOT_SOLVED}. {advice}")
    for case, outcome in zip(exercise.cases, outcomes, strict=True):
        if not outcome.same_as(as_outcome(case.expected), exercise.tolerance):
            return _explain(exercise, case, outcome, outcomes)
    text = f"{exercise.name}: solved. All {len(exercise.cases)} cases pass. {exercise.praise}"
    return CheckResult(exercise.name, True, text)


def _explain(exercise: Exercise, case: Case, outcome: Outcome, outcomes: list[Outcome]) -> CheckResult:
    """Name the misconception if the answers are those of a known wrong solution; otherwise give the hint."""
    start = f"{exercise.name}: not right yet, on the case with {case.title}. {_contrast(case, outcome)}"
    for wrong in exercise.wrong_answers:
        theirs = [outcome_of(wrong.function, case) for case in exercise.cases]
        if all(a.same_as(b, exercise.tolerance) for a, b in zip(outcomes, theirs, strict=True)):
            return CheckResult(exercise.name, False, f"{start} {wrong.explanation}", wrong.name)
    return CheckResult(exercise.name, False, f"{start} {case.hint}")


def _contrast(case: Case, outcome: Outcome) -> str:
    """What the reader's function did, and the answer."""
    right = as_outcome(case.expected)
    if outcome.problem:
        return f"Your function {outcome.detail}; the answer is {right}."
    if outcome.shape != right.shape and right.shape != ():
        return f"Your function returned shape {outcome.shape}; the answer {right} has shape {right.shape}."
    return f"Your function returned {outcome}; the answer is {right}."


# --- What a call came to -----------------------------------------------------


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
