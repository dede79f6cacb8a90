"""Single fields of a preference row, and their checks; every complaint is a DataError with its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_lite.errors import DataError
from rlhf_lite.types import Message

ROLE_ALIASES = {"human": "user", "gpt": "assistant"}
RATING_FIELDS = (("chosen_rating", "rejected_rating"), ("score_chosen", "score_rejected"))


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

    def messages(self) -> tuple[Message, ...]:
        """Turns of a conversation, none of them empty; ``from`` and ``value`` are understood too."""
        if not self.value:
            raise self.error("is an empty list", "add the turns, or take the row out")
        return tuple(
            Cell(f"{self.name}[{number}]", turn, self.place).message()
            for number, turn in enumerate(self.value)
        )

    def message(self) -> Message:
        """One turn of a conversation."""
        turn = self.value
        if not isinstance(turn, Mapping):
            problem = f"is of type {type(turn).__name__}, expected a turn"
            raise self.error(problem, "make it {'role': ..., 'content': ...}")
        keys = ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
        role, content = (Cell(f"{self.name}.{key}", turn.get(key), self.place) for key in keys)
        speaker = role.filled("is empty", "name the speaker: system, user or assistant")
        text = content.filled("is an empty turn", "fill the turn, or take the row out")
        return Message(ROLE_ALIASES.get(speaker, speaker), text)

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
        if not math.isfinite(value):
            raise self.error("is not finite", fix)
        return float(value)


def require_columns(row: Mapping[str, Any], place: Place) -> None:
    """Both answers have to be there, whatever the form.

    Raises:
        DataError: naming the missing fields and those that are there.
    """
    missing = [repr(name) for name in ("chosen", "rejected") if name not in row]
    if missing:
        present = ", ".join(repr(str(name)) for name in list(row)[:12]) or "none"
        fix = "rename the fields with the preferred and the other answer to 'chosen' and 'rejected'"
        raise place.error(f"missing {' and '.join(missing)}; the fields are {present}", fix)


def margin_of(row: Mapping[str, Any], place: Place, text_only: bool) -> float | None:
    """The margin from ``margin`` or from two ratings; they have to be finite, in order, and agree."""
    margins: list[Cell] = []
    if "margin" in row:
        margins.append(Cell("margin", Cell("margin", row["margin"], place).number(text_only), place))
    for pair in RATING_FIELDS:
        if not any(name in row for name in pair):
            continue
        for name in pair:
            if name not in row:
                raise place.error("is missing", "give both ratings, or neither", field=name)
        good, bad = (Cell(name, row[name], place) for name in pair)
        difference = good.number(text_only) - bad.number(text_only)
        if difference < 0:
            fix = "swap chosen and rejected, or correct the rating"
            raise good.error(f"is below {bad.name}={bad.value!r}", fix)
        margins.append(Cell(good.name, difference, place))
    if not margins:
        return None
    first, *others = margins
    if first.value < 0:
        raise first.error("is negative", "swap chosen and rejected")
    for other in others:
        if not math.isclose(other.value, first.value, rel_tol=1e-6, abs_tol=1e-6):
            fix = f"leave out {first.name} or the ratings"
            raise other.error(f"differs from {first.name}={first.value:g}", fix)
    return first.value
