"""Exercise: read a learning rate from a settings file without being surprised."""

from __future__ import annotations

import math
import re
from typing import Any

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

REFUSED = "refused"
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def _read_learning_rate(value: Any) -> float | str:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return REFUSED
    return float(value) if math.isfinite(value) and value > 0 else REFUSED


def _case(title: str, value: Any, expected: float | str, hint: str) -> Case:
    return Case(title, lambda: (value,), expected, hint)


def _only_numbers(value: Any) -> Any:
    good = isinstance(value, float) and math.isfinite(value) and value > 0
    return value if good else REFUSED


def _anything_python_reads(value: Any) -> Any:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return REFUSED
    return number if number > 0 and math.isfinite(number) else REFUSED


def _any_finite_number(value: Any) -> Any:
    if isinstance(value, bool):
        return REFUSED
    try:
        return float(value) if math.isfinite(float(value)) else REFUSED
    except (TypeError, ValueError):
        return REFUSED


def _zero_allowed(value: Any) -> Any:
    return 0.0 if value in (0, 0.0) and not isinstance(value, bool) else _read_learning_rate(value)


def _infinity_allowed(value: Any) -> Any:
    return value if value == math.inf else _read_learning_rate(value)


def _text_kept(value: Any) -> Any:
    answer = _read_learning_rate(value)
    return value if isinstance(value, str) and answer != REFUSED else answer


def _default_instead(value: Any) -> Any:
    answer = _read_learning_rate(value)
    return 1e-3 if answer == REFUSED else answer


READ_LEARNING_RATE = Exercise(
    name="read_learning_rate",
    title="Read a learning rate safely",
    chapter="04_lora",
    difficulty="medium",
    minutes=10,
    cases=(
        _case("a float", 2e-4, 2e-4, "A positive float is a learning rate: return it."),
        _case("the text '2e-4'", "2e-4", 2e-4, "This text can mean one thing only: turn it into a float."),
        _case("the text '.5E-3'", ".5E-3", 5e-4, "A number may begin with its point, and have a capital E."),
        _case("the whole number 1", 1, 1.0, "A whole number is a number (if a bold learning rate)."),
        _case("a word", "fast", REFUSED, "A word is no number: return 'refused'."),
        _case("a number and a unit", "2e-4x", REFUSED, "Nothing may follow the number."),
        _case("true", True, REFUSED, "In Python True is an int. Nobody means a learning rate of one by it."),
        _case("nothing", None, REFUSED, "An empty setting is None: return 'refused'."),
        _case("zero", 0.0, REFUSED, "With a learning rate of zero nothing is learnt, and nothing says so."),
        _case("a negative number", "-2e-4", REFUSED, "A negative learning rate climbs the loss."),
        _case("infinity", math.inf, REFUSED, "YAML reads .inf as infinity. Ask for a finite number."),
        _case("the text 'nan'", "nan", REFUSED, "float('nan') works, and is no learning rate."),
        _case("an underscore", "1_0e-4", REFUSED, "float() accepts underscores. Here one is a typing error."),
    ),
    wrong_answers=(
        WrongAnswer(
            "float(value) and nothing else",
            lambda value: float(value),
            "You trust float(). It raises on a word, where 'refused' is asked for; and it takes True, 'nan', "
            "infinity, negative numbers and '1_0e-4'.",
        ),
        WrongAnswer(
            "whatever float() can read",
            _anything_python_reads,
            "You accept all that float() accepts. True becomes 1.0, and '1_0e-4' a thousandth. Refuse "
            "booleans, "
            "and look at the text before you convert it.",
        ),
        WrongAnswer(
            "floats only",
            _only_numbers,
            "You refuse the text '2e-4' (and the whole number 1). That is safe, but the reader of the "
            "message "
            "will swear that 2e-4 is a number. A clean number in a text has one meaning: accept it.",
        ),
        WrongAnswer(
            "negative numbers accepted",
            _any_finite_number,
            "You accept numbers that are not positive. A rate of zero learns nothing; a negative one climbs.",
        ),
        WrongAnswer(
            "zero accepted",
            _zero_allowed,
            "You accept zero. The run would end without an error and without having learnt anything.",
        ),
        WrongAnswer(
            "infinity accepted",
            _infinity_allowed,
            "You accept infinity, which is above zero too. Ask math.isfinite.",
        ),
        WrongAnswer(
            "the text returned as it is",
            _text_kept,
            "You check the text and return the text. The optimiser needs the float: this is the bug of the "
            "story.",
        ),
        WrongAnswer(
            "a default in silence",
            _default_instead,
            "You replace a bad value by a default. Then the run trains with a rate that nobody chose. "
            "Refuse.",
        ),
    ),
    solution=_read_learning_rate,
    praise="This is how rlhf_lite.config reads a learning rate, too.",
)
