"""One value of a row, with its place for errors: text, a number, or the turns of a conversation."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlhf_lite.errors import DataError
from rlhf_lite.types import Message

_ROLES = {"user": "user", "human": "user", "prompter": "user", "system": "system",
          "assistant": "assistant", "gpt": "assistant", "model": "assistant"}
# The two ways to name what a turn holds, and the names under which a list of turns is wrapped.
_TURN_KEYS = (("role", "content"), ("from", "value"))
_WRAPPERS = ("messages", "conversations")
# How a conversation begins that json.dumps, or str() of a list or of an array, wrote into a text cell.
_OPENING = re.compile(r"""\s*(array\()?[\[{][\s\[{]*["'](role|content|from|value|messages|conversations)""")
_KEY = re.compile(r"""["'](role|content|from|value)["']\s*:""")
_MAX_CELL = 1_000_000


@dataclass(frozen=True)
class Place:
    """Where a row came from, to be named in errors."""

    file: str
    row: int | None

    def error(self, problem: str, fix: str, *, field: str | None = None, value: object = None) -> DataError:
        """The error about something in this row."""
        return DataError(problem, file=self.file, row=self.row, field=field, value=value, fix=fix)


@dataclass(frozen=True)
class Cell:
    """One value of a row, with its name and place for errors. The checks return it if it is what they ask."""

    name: str
    value: Any
    place: Place

    def error(self, problem: str, fix: str) -> DataError:
        """The error about this value."""
        return self.place.error(problem, fix, field=self.name, value=self.value)

    def text(self) -> str:
        """Text that can be stored as UTF-8; it may be empty."""
        if self.value is None:
            raise self.error("has no value", "fill it in, or take the row out")
        if not isinstance(self.value, str):
            fix = "make it text, or a list of {'role', 'content'} for a conversation"
            raise self.error(f"is of type {type(self.value).__name__}, expected text", fix)
        try:
            self.value.encode("utf-8")
        except UnicodeEncodeError:
            fix = "write the file again from its source as UTF-8"
            raise self.error("holds half of a surrogate pair", fix) from None
        return self.value

    def filled(self, problem: str, fix: str) -> str:
        """Text with more in it than white space; else it has the problem."""
        if not self.text().strip():
            raise self.error(problem, fix)
        return self.value

    def answer(self) -> str:
        """An answer as text, not empty."""
        return self.filled("is empty", "write the answer, or take the row out")

    def opened(self) -> Cell:
        """The cell with its conversation as a list: taken out of a text, an object, or a turn on its own."""
        value = _unwrapped(self.value)
        if isinstance(value, str) and _OPENING.match(value) and _names_turns(set(_KEY.findall(value))):
            parsed = _unwrapped(self._parsed(value))
            value = parsed if is_conversation(parsed) else value
        return replace(self, value=value)

    def _parsed(self, text: str) -> Any:
        """What somebody wrote into a text cell, as JSON or as Python shows it."""
        fix = "write conversations as lists into JSON lines or Parquet, not as text into a cell"
        if len(text) > _MAX_CELL:
            raise self.error(f"is a conversation as text of more than {_MAX_CELL:,} characters", fix)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):  # read as Python below
            pass
        try:
            with warnings.catch_warnings(action="ignore"):  # such as an invalid escape in a text
                return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            problem = "looks like a conversation as text, but is neither JSON nor Python"
            raise self.error(problem, fix) from None

    def messages(self) -> tuple[Message, ...]:
        """Turns of a conversation, none of them empty; ``from`` and ``value`` are understood too."""
        if not self.value:
            raise self.error("is an empty list", "add the turns, or take the row out")
        return tuple(Cell(f"{self.name}[{number}]", turn, self.place).message()
                     for number, turn in enumerate(self.value))

    def message(self) -> Message:
        """One turn of a conversation."""
        turn = self.value
        if not isinstance(turn, Mapping):
            problem = f"is of type {type(turn).__name__}, expected a turn"
            raise self.error(problem, "make it {'role': ..., 'content': ...}")
        keys = _TURN_KEYS["from" in turn and "role" not in turn]
        role, content = (Cell(f"{self.name}.{key}", turn.get(key), self.place) for key in keys)
        speaker = role.filled("is empty", "name the speaker: system, user or assistant")
        content = replace(content, value=content.part())
        text = content.filled("is an empty turn", "fill the turn, or take the row out")
        return Message(_ROLES.get(speaker.strip().lower(), speaker), text)

    def part(self) -> Any:
        """What a turn holds: of a list with one part of ``{"type": "text", "text": ...}``, that text."""
        if not isinstance(self.value, list):
            return self.value
        texts = [part.get("text") for part in self.value if isinstance(part, Mapping) and not any(
            held for key, held in part.items() if key not in ("type", "text"))]
        if len(texts) != len(self.value):
            raise self.error("holds parts that are no text", "take the row out: only texts are read")
        if len(texts) != 1:
            raise self.error(f"holds {len(texts)} texts", "join them into one text")
        return texts[0]

    def number(self, text_only: bool) -> float:
        """A finite number; of a format without types (``text_only``) also one written as text."""
        fix = "give a finite number, or leave the field out of the file"
        value = self.value
        if value is None or (text_only and isinstance(value, str) and not value.strip()):
            raise self.place.error("has no value", fix, field=self.name)
        if text_only and isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise self.error("is not a number", fix) from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"is of type {type(value).__name__}, expected a number", fix)
        try:
            number = float(value)
        except OverflowError:  # a whole number of JSON may have any length
            number = math.inf
        if not math.isfinite(number):
            raise self.error("is not finite", fix)
        return number


def _names_turns(keys: Iterable[str]) -> bool:
    return any(set(keys).issuperset(pair) for pair in _TURN_KEYS)


def is_conversation(value: object) -> bool:
    """Whether a value is a list of turns."""
    return (isinstance(value, list) and bool(value)
            and all(isinstance(turn, Mapping) and _names_turns(turn) for turn in value))


def _unwrapped(value: Any) -> Any:
    """``{"messages": [...]}`` as the list it holds, and a turn on its own as a list of one."""
    if not isinstance(value, Mapping):
        return value
    inner = next((value[key] for key in _WRAPPERS if isinstance(value.get(key), list)), None)
    return inner if inner is not None else [value] if _names_turns(value) else value
