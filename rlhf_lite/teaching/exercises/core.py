"""How an exercise is checked.

An unsolved exercise must not block a reader: outside of grading, ``check`` prints what is wrong and goes on.
While nbgrader executes the notebook (it sets ``NBGRADER_EXECUTION``), or with ``RLHF_LITE_EXERCISES=strict``,
or with ``strict=True``, a failed check raises ``ExerciseFailed``, so that the cell earns no points.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rlhf_lite.teaching.exercises.loading import get_exercise
from rlhf_lite.teaching.exercises.outcome import NOT_SOLVED, Outcome, as_outcome, outcome_of
from rlhf_lite.teaching.exercises.records import Case, Exercise


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
