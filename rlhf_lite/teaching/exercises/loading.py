"""Exercises: what one is, and how it is read from ``data/chapter05.yaml`` and ``chapters/chapter05.py``.

A chapter is read when the first of its exercises is asked for. What is wrong in a file is reported with the
exercise and the field.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from rlhf_lite.teaching.exercises.notation import build, read, read_answer

# What an exercise may ask for: a number, a choice, or a tensor written as nested lists.
Answer = float | str | Sequence[Any]
# By exercise: the known wrong solutions, by the name that the data file explains.
Mistakes = dict[str, dict[str, Callable[..., Any]]]
_DATA = files(__package__).joinpath("data")
_NAME = re.compile(r"^(\w+):[ ]*$", re.MULTILINE)  # an exercise's key stands at the beginning of its line


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


class ExerciseDataError(ValueError):
    """A data file that cannot be used; the message names file, exercise and field."""


class CaseData(BaseModel, extra="forbid", strict=True):
    """A case as it stands in the file; the derivation of ``expected`` is a comment above it."""

    title: str
    inputs: dict[str, Any]
    expected: Any
    hint: str


class ExerciseData(BaseModel, extra="forbid", strict=True):
    """An exercise as it stands in the file.

    Attributes:
        title: the question.
        difficulty: as in the notebook.
        minutes: as in the notebook.
        praise: one sentence for a reader who has solved it.
        arguments: name and kind of what each case gives: the parameters of the solution, or of the builder.
        builder: a function of the chapter that makes the solution's arguments of those of a case.
        choices: the texts that may be an answer; without them an answer is a number or a tensor.
        tolerance: how far a number may be off, relative and absolute.
        cases: inputs, answers worked out by hand, and hints.
        mistakes: the explanation of each known mistake, by its name.
    """

    title: str
    difficulty: Literal["easy", "medium", "hard"]
    minutes: int = Field(gt=0)
    praise: str
    arguments: dict[str, str]
    builder: str | None = None
    choices: list[str] = []
    tolerance: float = Field(default=1e-5, gt=0)
    cases: list[CaseData] = Field(min_length=1)
    mistakes: dict[str, str]


def exercise_names() -> list[str]:
    """The names of all exercises, in the order of the book."""
    return list(_chapter_of())


def get_exercise(name: str) -> Exercise:
    """The exercise called ``name``.

    Raises:
        ValueError: if there is none; the message suggests the nearest name.
        ExerciseDataError: if the data file of its chapter cannot be used.
    """
    chapter_of = _chapter_of()
    if name not in chapter_of:
        near = difflib.get_close_matches(name, chapter_of, n=1, cutoff=0.0)
        raise ValueError(f"there is no exercise {name!r}; did you mean {near[0]!r}? "
                         f"Known: {', '.join(chapter_of)}")
    return _chapter(chapter_of[name])[name]


@cache
def _chapter_of() -> dict[str, str]:
    """The chapter of every exercise, such as "chapter05". The files are searched for names, not parsed."""
    chapter_of: dict[str, str] = {}
    for chapter in sorted(path.name.removesuffix(".yaml") for path in _DATA.iterdir()):
        for name in _NAME.findall(_text(chapter)):
            if name in chapter_of:
                places = f"{chapter_of[name]} and {chapter}"
                raise ExerciseDataError(f"two exercises are called {name!r}, in {places}; rename one of them")
            chapter_of[name] = chapter
    return chapter_of


@cache
def _chapter(chapter: str) -> dict[str, Exercise]:
    functions = importlib.import_module(f"{__package__}.chapters.{chapter}")
    return load_chapter(_text(chapter), f"{chapter}.yaml", functions)


def _text(chapter: str) -> str:
    return _DATA.joinpath(f"{chapter}.yaml").read_text(encoding="utf-8")


def load_chapter(text: str, where: str, functions: ModuleType | SimpleNamespace) -> dict[str, Exercise]:
    """All exercises of a chapter, by name.

    Args:
        text: the data file, YAML.
        where: its name, for messages.
        functions: the chapter's module: solutions and builders by name, and ``MISTAKES``.

    Raises:
        ExerciseDataError: if the text is wrong, or does not fit the functions; the message says where.
    """
    with _reported(where):
        data = yaml.load(text, Loader=_UniqueKeys)
        if not isinstance(data, dict) or not isinstance(data.get("chapter"), str):
            raise ValueError("lacks 'chapter: ' and the name of the notebook")
    chapter = data.pop("chapter")
    exercises = {}
    for name, fields in data.items():
        with _reported(f"{where}, exercise {name}"):
            exercises[name] = _exercise(name, chapter, ExerciseData.model_validate(fields), functions)
    return exercises


@contextmanager
def _reported(where: str) -> Iterator[None]:
    """Report what goes wrong inside with the place in the file."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ExerciseDataError(f"{where}, {field}: {first['msg']}") from error
    except yaml.YAMLError as error:
        raise ExerciseDataError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        between = ", " if isinstance(error, ExerciseDataError) else ": "
        raise ExerciseDataError(f"{where}{between}{error}") from error


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C is faster
    """A loader that refuses a key given twice: plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(problem=f"{twice[0]} is given twice{node.start_mark}")
        return super().construct_mapping(node, deep=deep)


def _exercise(name: str, chapter: str, data: ExerciseData, functions: Any) -> Exercise:
    """The data, tied to its functions. Raises ValueError where the two do not fit together."""
    solution, mistakes = _function(functions, name), functions.MISTAKES.get(name, {})
    if set(mistakes) != set(data.mistakes):
        odd = ", ".join(sorted(set(mistakes) ^ set(data.mistakes)))
        raise ValueError(f"mistakes need an explanation here and a function in MISTAKES; one lacks for {odd}")
    builder = _function(functions, data.builder) if data.builder else None
    parameters = list(inspect.signature(builder or solution).parameters)
    if list(data.arguments) != parameters:
        raise ValueError(f"arguments are {', '.join(data.arguments)}; parameters: {', '.join(parameters)}")
    shared = data.model_dump(include={"title", "difficulty", "minutes", "praise", "tolerance"})
    cases = tuple(_case(number, case, data, builder) for number, case in enumerate(data.cases, 1))
    wrong = tuple(WrongAnswer(key, mistakes[key], text) for key, text in data.mistakes.items())
    return Exercise(name=name, chapter=chapter, cases=cases, wrong_answers=wrong, solution=solution, **shared)


def _function(functions: Any, name: str) -> Callable[..., Any]:
    if not callable(getattr(functions, name, None)):
        raise ValueError(f"the chapter's module has no function {name}")
    return getattr(functions, name)


def _case(number: int, case: CaseData, data: ExerciseData, builder: Callable[..., Any] | None) -> Case:
    with _reported(f"case {number} ({case.title})"):
        if set(case.inputs) != set(data.arguments):
            raise ValueError(f"inputs are {', '.join(case.inputs)}; needed: {', '.join(data.arguments)}")
        values = {}
        for argument, kind in data.arguments.items():
            with _reported(f"inputs, {argument}"):
                values[argument] = read(kind, case.inputs[argument])
        with _reported("expected"):
            expected = read_answer(case.expected, data.choices)
    return Case(case.title, partial(_arguments, data.arguments, values, builder), expected, case.hint)


def _arguments(kinds: dict[str, str], values: dict[str, Any],
               builder: Callable[..., Any] | None) -> tuple[Any, ...]:
    arguments = tuple(build(kind, values[name]) for name, kind in kinds.items())
    return builder(*arguments) if builder else arguments
