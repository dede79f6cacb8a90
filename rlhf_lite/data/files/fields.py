"""Checks of single fields of a preference row; every complaint is a DataError that knows its place."""

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

    def error(self, problem: str, *, fix: str, field: str | None = None, value: object = None) -> DataError:
        """The error about something in this row."""
        return DataError(problem, file=self.file, row=self.row, field=field, value=value, fix=fix)


def require_columns(row: Mapping[str, Any], place: Place) -> None:
    """Both answers have to be there, whatever the form.

    Raises:
        DataError: naming the missing fields and those that are there.
    """
    missing = [name for name in ("chosen", "rejected") if name not in row]
    if missing:
        raise place.error(
            f"missing {' and '.join(repr(name) for name in missing)}; the fields are "
            + (", ".join(repr(str(name)) for name in list(row)[:12]) or "none"),
            fix="rename the fields with the preferred and the other answer to 'chosen' and 'rejected'",
        )


def text_of(value: Any, field: str, place: Place) -> str:
    """The value if it is text that can be stored as UTF-8; it may be empty."""
    if value is None:
        raise place.error("has no value", field=field, fix="fill it in, or take the row out")
    if not isinstance(value, str):
        fix = "make it text, or a list of {'role', 'content'} for a conversation"
        raise place.error(
            f"is of type {type(value).__name__}, expected text", field=field, value=value, fix=fix
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        fix = "write the file again from its source as UTF-8"
        raise place.error("holds half of a surrogate pair", field=field, value=value, fix=fix) from None
    return value


def answer_of(value: Any, field: str, place: Place) -> str:
    """The value if it is text with more in it than white space."""
    text = text_of(value, field, place)
    if not text.strip():
        raise place.error("is empty", field=field, value=text, fix="write the answer, or take the row out")
    return text


def messages_of(value: list[Any], field: str, place: Place) -> tuple[Message, ...]:
    """Turns of a conversation, none of them empty. Turns with ``from`` and ``value`` are understood too."""
    if not value:
        raise place.error(
            "is an empty list", field=field, value=value, fix="add the turns, or take the row out"
        )
    messages = []
    for number, turn in enumerate(value):
        name = f"{field}[{number}]"
        if not isinstance(turn, Mapping):
            fix = "make it {'role': ..., 'content': ...}"
            raise place.error(
                f"is of type {type(turn).__name__}, expected a turn", field=name, value=turn, fix=fix
            )
        keys = ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
        role = text_of(turn.get(keys[0]), f"{name}.{keys[0]}", place)
        content = text_of(turn.get(keys[1]), f"{name}.{keys[1]}", place)
        if not role.strip():
            fix = "name the speaker: system, user or assistant"
            raise place.error("is empty", field=f"{name}.{keys[0]}", value=role, fix=fix)
        if not content.strip():
            fix = "fill the turn, or take the row out"
            raise place.error("is an empty turn", field=f"{name}.{keys[1]}", value=content, fix=fix)
        messages.append(Message(ROLE_ALIASES.get(role, role), content))
    return tuple(messages)


def margin_of(row: Mapping[str, Any], place: Place, text_only: bool) -> float | None:
    """The margin from ``margin`` or from two ratings; they have to be finite, in order, and agree."""
    found: list[tuple[str, float]] = []
    if "margin" in row:
        found.append(("margin", _number(row["margin"], "margin", place, text_only)))
    for good, bad in RATING_FIELDS:
        if good not in row and bad not in row:
            continue
        for name in (good, bad):
            if name not in row:
                raise place.error("is missing", field=name, fix="give both ratings, or neither")
        difference = _number(row[good], good, place, text_only) - _number(row[bad], bad, place, text_only)
        if difference < 0:
            fix = "swap chosen and rejected, or correct the rating"
            raise place.error(f"is below {bad}={row[bad]!r}", field=good, value=row[good], fix=fix)
        found.append((good, difference))
    if not found:
        return None
    name, margin = found[0]
    if margin < 0:
        raise place.error("is negative", field=name, value=margin, fix="swap chosen and rejected")
    for other, value in found[1:]:
        if not math.isclose(value, margin, rel_tol=1e-6, abs_tol=1e-6):
            fix = f"leave out {name} or the ratings"
            raise place.error(f"differs from {name}={margin:g}", field=other, value=value, fix=fix)
    return margin


def _number(value: Any, field: str, place: Place, text_only: bool) -> float:
    fix = "give a finite number, or leave the field out of the file"
    if value is None or (text_only and isinstance(value, str) and not value.strip()):
        raise place.error("has no value", field=field, fix=fix)
    number = value
    if text_only and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise place.error("is not a number", field=field, value=value, fix=fix) from None
    if isinstance(number, bool) or not isinstance(number, int | float):
        problem = f"is of type {type(value).__name__}, expected a number"
        raise place.error(problem, field=field, value=value, fix=fix)
    if not math.isfinite(number):
        raise place.error("is not finite", field=field, value=value, fix=fix)
    return float(number)
