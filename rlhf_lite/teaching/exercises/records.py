"""What an exercise is: its cases, the known wrong answers, and a solution that passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# What an exercise may ask for: a number, a choice, or a tensor written as nested lists.
Answer = float | str | Sequence[Any]
# By exercise: the known wrong solutions, by the name that the data file explains.
Mistakes = dict[str, dict[str, Callable[..., Any]]]


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
