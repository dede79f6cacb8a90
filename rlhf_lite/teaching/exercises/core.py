"""How an exercise is described and checked.

An unsolved exercise must not block a reader: outside of grading, ``check`` prints what it found and goes on.
While nbgrader executes the notebook (it sets ``NBGRADER_EXECUTION``), or with ``RLHF_LITE_EXERCISES=strict``,
or with ``strict=True``, a failed check raises ``ExerciseFailed``, so that the cell earns no points.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

# What an exercise may ask for: a number, a choice, or a tensor written as nested lists.
Answer = float | str | Sequence[Any]

CHAPTERS = ("00", "01", "02", "03", "04", "05", "07", "08", "09", "12", "13", "15", "17")
DIFFICULTIES = ("easy", "medium", "hard")
NOT_SOLVED = "not solved yet"


class ExerciseFailed(AssertionError):
    """The reader's function is not right yet; the message says why."""


@dataclass(frozen=True)
class Case:
    """One input to try, with an answer that was worked out by hand.

    Attributes:
        title: what is hard about this input, completing "the case with ...".
        inputs: builds the arguments (a function, so that torch is imported only when a check runs).
        expected: the right answer: a number, a text (a choice), or nested lists of numbers for a tensor.
        hint: one or two sentences for a reader whose answer differs and fits no known misconception.
    """

    title: str
    inputs: Callable[[], tuple[Any, ...]]
    expected: Answer
    hint: str


@dataclass(frozen=True)
class WrongAnswer:
    """A well-known wrong solution and the sentence that clears up the misunderstanding behind it."""

    name: str
    function: Callable[..., Any]
    explanation: str


@dataclass(frozen=True)
class Exercise:
    """One exercise: what it asks, how it is tried, what people get wrong, and a solution that passes."""

    name: str
    title: str
    chapter: str
    difficulty: str
    minutes: int
    cases: tuple[Case, ...]
    wrong_answers: tuple[WrongAnswer, ...]
    solution: Callable[..., Any]
    praise: str
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.difficulty not in DIFFICULTIES:
            raise ValueError(
                f"exercise {self.name}: difficulty is {self.difficulty!r}; use {', '.join(DIFFICULTIES)}"
            )


@dataclass(frozen=True)
class CheckResult:
    """What a check found. It is true when the exercise is solved."""

    name: str
    passed: bool
    message: str
    wrong_answer: str | None = field(default=None, compare=False)

    def __bool__(self) -> bool:
        return self.passed

    def _ipython_display_(self) -> None:
        """Show nothing as a cell's result: ``check`` has already printed the message."""


@dataclass(frozen=True)
class _Outcome:
    """What one call returned: its numbers and their shape, or a word for what went wrong, with a detail.

    ``values`` holds the entries in reading order; a number is an answer of shape ``()``, and so is a text.
    """

    values: tuple[float | str, ...] = ()
    shape: tuple[int, ...] = ()
    problem: str = ""
    detail: str = ""

    def same_as(self, other: _Outcome, tolerance: float) -> bool:
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


def exercise_names() -> list[str]:
    """The names of all exercises, in the order of the book."""
    return list(_registry())


def get_exercise(name: str) -> Exercise:
    """The exercise called ``name``.

    Raises:
        ValueError: if there is none; the message suggests the nearest name.
    """
    registry = _registry()
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1, cutoff=0.0)
        raise ValueError(
            f"there is no exercise {name!r}; did you mean {near[0]!r}? Known: {', '.join(registry)}"
        )
    return registry[name]


def check(name: str, function: Callable[..., Any], *, strict: bool | None = None) -> CheckResult:
    """Try ``function`` on the inputs of exercise ``name`` and print what was found.

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
    exercise = get_exercise(name)
    result = _examine(exercise, function)
    if not result.passed and (grading() if strict is None else strict):
        raise ExerciseFailed(result.message)
    print(result.message)
    return result


def grading() -> bool:
    """Whether a failed check has to raise: under nbgrader, or with ``RLHF_LITE_EXERCISES=strict``."""
    wish = os.environ.get("RLHF_LITE_EXERCISES", "")
    if wish not in ("", "strict", "lenient"):
        raise ValueError(f"RLHF_LITE_EXERCISES is {wish!r}; use 'strict' or 'lenient', or leave it unset")
    if wish:
        return wish == "strict"
    return bool(os.environ.get("NBGRADER_EXECUTION"))


def _registry() -> dict[str, Exercise]:
    registry: dict[str, Exercise] = {}
    for chapter in CHAPTERS:
        module = importlib.import_module(f"rlhf_lite.teaching.exercises.chapter{chapter}")
        for exercise in module.EXERCISES:
            if exercise.name in registry:
                raise ValueError(f"two exercises are called {exercise.name!r}; rename one of them")
            registry[exercise.name] = exercise
    return registry


def _examine(exercise: Exercise, function: Callable[..., Any]) -> CheckResult:
    if not callable(function):
        text = f"{exercise.name}: check() needs the function itself, and received {function!r}."
        return CheckResult(exercise.name, False, text)
    outcomes = [_call(function, case) for case in exercise.cases]
    if any(outcome.problem == NOT_SOLVED for outcome in outcomes):
        text = (
            f"{exercise.name}: not solved yet. Replace the line `raise NotImplementedError()` and run again."
        )
        return CheckResult(exercise.name, False, text)
    for case, outcome in zip(exercise.cases, outcomes, strict=True):
        if not outcome.same_as(_read(case.expected), exercise.tolerance):
            return _explain(exercise, case, outcome, outcomes)
    text = f"{exercise.name}: solved. All {len(exercise.cases)} cases pass. {exercise.praise}"
    return CheckResult(exercise.name, True, text)


def _explain(exercise: Exercise, case: Case, outcome: _Outcome, outcomes: list[_Outcome]) -> CheckResult:
    """Name the misconception if the answers are those of a known wrong solution; otherwise give the hint."""
    start, wanted = f"{exercise.name}: not right yet, on the case with {case.title}. ", _read(case.expected)
    if outcome.problem:
        found = f"Your function {outcome.detail}; the answer is {wanted}."
    elif outcome.shape != wanted.shape and wanted.shape != ():
        found = f"Your function returned shape {outcome.shape}; the answer {wanted} has shape {wanted.shape}."
    else:
        found = f"Your function returned {outcome}; the answer is {wanted}."
    for wrong in exercise.wrong_answers:
        theirs = [_call(wrong.function, case) for case in exercise.cases]
        if all(a.same_as(b, exercise.tolerance) for a, b in zip(outcomes, theirs, strict=True)):
            return CheckResult(exercise.name, False, f"{start}{found} {wrong.explanation}", wrong.name)
    return CheckResult(exercise.name, False, f"{start}{found} {case.hint}")


def _call(function: Callable[..., Any], case: Case) -> _Outcome:
    inputs = case.inputs()
    before = copy.deepcopy(inputs)
    wants_number = _read(case.expected).shape == ()
    try:
        answer = function(*inputs)
    except NotImplementedError:
        return _Outcome(problem=NOT_SOLVED, detail="is not written yet")
    except Exception as error:  # the reader's code may raise anything, and the book must go on
        return _Outcome(problem=type(error).__name__, detail=f"raised {type(error).__name__}: {error}")
    if not all(_unchanged(a, b) for a, b in zip(inputs, before, strict=True)):
        return _Outcome(
            problem="changed inputs", detail="changed the tensors it was given (an operation ending in _)"
        )
    return _read(answer, one_number=wants_number)


def _read(answer: Any, *, one_number: bool = False) -> _Outcome:
    """Numbers and shape of an answer: a number, a text, a tensor, an array or nested lists."""
    if answer is None:
        return _Outcome(problem="returned None", detail="returned nothing (is a `return` missing?)")
    if isinstance(answer, str):
        return _Outcome((answer.strip().lower(),))
    if hasattr(answer, "detach"):
        answer = answer.detach()
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    try:
        shape = _shape(answer)
        values = tuple(float(entry) for entry in _entries(answer))
    except (TypeError, ValueError):
        return _Outcome(problem="not a number", detail=f"returned {answer!r}, which is not a number")
    if one_number and shape != ():
        if len(values) == 1:  # a tensor of one entry is a number
            return _Outcome(values)
        detail = f"returned a tensor of shape {shape}, not a number"
        return _Outcome(problem="returned a tensor", detail=detail)
    return _Outcome(values, shape)


def _shape(nested: Any) -> tuple[int, ...]:
    """Shape of nested lists. Raises ValueError if the rows have different shapes."""
    if not isinstance(nested, list | tuple):
        return ()
    inner = {_shape(part) for part in nested} or {()}
    if len(inner) > 1:
        raise ValueError("rows of different lengths")
    return (len(nested), *inner.pop())


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


def _unchanged(now: Any, before: Any) -> bool:
    if hasattr(now, "detach"):
        import torch

        return torch.equal(torch.nan_to_num(now.float()), torch.nan_to_num(before.float()))
    if hasattr(now, "tolist"):
        return repr(now.tolist()) == repr(before.tolist())  # repr: NaN equals NaN
    if isinstance(now, list | tuple):
        return len(now) == len(before) and all(_unchanged(a, b) for a, b in zip(now, before, strict=True))
    return bool(now == before) or repr(now) == repr(before)


def _close(a: float | str, b: float | str, tolerance: float) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
