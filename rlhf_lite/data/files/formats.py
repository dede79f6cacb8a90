r"""One row of a preference file, in any of the forms people use, into one ``Preference``.

===================  ===============================================================================
explicit prompt      ``prompt``, ``chosen``, ``rejected`` as text; joined as they are
implicit prompt      ``chosen``, ``rejected`` as text; the prompt is what both begin with, whole words only
conversational       ``chosen``, ``rejected`` as lists of ``{"role", "content"}``, with or without ``prompt``
                     (text or a list); only the last turn may differ
transcript           ``chosen``, ``rejected`` as ``\n\nHuman: ... \n\nAssistant: ...`` (HH-RLHF)
===================  ===============================================================================

Optional numbers: ``margin``, or ``chosen_rating`` and ``rejected_rating`` (also ``score_chosen`` and
``score_rejected``), whose difference becomes the margin. All other fields are kept in ``meta``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_lite.data.formatting import (
    common_length,
    looks_like_transcript,
    parse_transcript,
    plain_text,
    render_dialogue,
    split_transcript,
)
from rlhf_lite.errors import DataError
from rlhf_lite.types import Dialogue, Message, Preference

ROLE_ALIASES = {"human": "user", "gpt": "assistant"}
RATING_FIELDS = (("chosen_rating", "rejected_rating"), ("score_chosen", "score_rejected"))
_KNOWN = {"prompt", "chosen", "rejected", "margin", "meta"}.union(*RATING_FIELDS)
_SAME_PROMPT = "let chosen and rejected differ in the assistant's last turn only"
_COMPLETE = "complete the conversation, or take the row out"
Texts = tuple[str, str, str]


# --- Fields, each with its place for errors ----------------------------------


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
        return tuple(Cell(f"{self.name}[{number}]", turn, self.place).message()
                     for number, turn in enumerate(self.value))

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
    margins = []
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


# --- Rows --------------------------------------------------------------------


def preference_from_row(row: Mapping[str, Any], place: Place, *, text_only: bool = False) -> Preference:
    """Validate a row and bring it into the one schema.

    Args:
        row: field name -> value.
        place: for errors.
        text_only: values come from a format without types (CSV), so numbers may be text.

    Raises:
        DataError: naming file, row, field, the value received and the fix.
    """
    require_columns(row, place)
    margin = margin_of(row, place, text_only)
    meta = {name: value for name, value in row.items() if name not in _KNOWN}
    extra = row.get("meta")
    if isinstance(extra, Mapping):
        meta.update(extra)
    elif extra is not None:
        meta["meta"] = extra
    prompt, chosen, rejected = (
        Cell(name, _unwrap(row.get(name)), place) for name in ("prompt", "chosen", "rejected")
    )
    if isinstance(chosen.value, list) or isinstance(rejected.value, list):
        texts, dialogue = _from_messages(prompt, chosen, rejected)
    elif all([looks_like_transcript(cell.answer()) for cell in (chosen, rejected)]):
        texts, dialogue = _from_transcripts(prompt, chosen, rejected)
    else:
        texts, dialogue = _from_texts(prompt if "prompt" in row else None, chosen, rejected)
    return Preference(*texts, margin, meta, dialogue)


def _unwrap(value: Any) -> Any:
    """``{"messages": [...]}`` as the list it holds."""
    wrapped = isinstance(value, Mapping) and isinstance(value.get("messages"), list)
    return value["messages"] if wrapped else value


def _require_different(chosen: str, rejected: str, place: Place) -> None:
    if chosen.strip() == rejected.strip():
        fix = "take the row out: it says nothing about which is better"
        raise place.error("is identical to chosen", fix, field="rejected", value=rejected)


def _dialogue(prompt: tuple[Message, ...], chosen: str, rejected: str) -> Dialogue:
    return Dialogue(prompt, *(Message("assistant", text.strip()) for text in (chosen, rejected)))


# --- Texts -------------------------------------------------------------------


def _from_texts(given: Cell | None, chosen: Cell, rejected: Cell) -> tuple[Texts, Dialogue | None]:
    """Chosen and rejected as plain texts, with a prompt of any form, or without one."""
    good, bad = chosen.value, rejected.value
    _require_different(good, bad, chosen.place)
    if given is None:
        prompt = common_opening(good, bad)
        return (prompt, good[len(prompt) :], bad[len(prompt) :]), None
    if isinstance(given.value, list):
        dialogue = _dialogue(given.messages(), good, bad)
        return render_dialogue(dialogue), dialogue
    prompt = given.text()
    if prompt and not prompt.strip():
        raise given.error("holds only white space", "write a prompt, or leave it empty")
    if not (looks_like_transcript(prompt) and prompt.rstrip().endswith("\n\nAssistant:")):
        return (prompt, good, bad), None
    try:
        turns = _turns_before_answer(prompt)
    except ValueError as error:
        raise given.error(str(error), _COMPLETE) from None
    return (prompt, good, bad), _dialogue(turns, good, bad)


def common_opening(chosen: str, rejected: str) -> str:
    """What two texts begin with, whole words only, such that something is left of each of them.

    The space after the opening belongs to the continuations.
    """
    for end in range(common_length(chosen, rejected), 0, -1):
        rests = (chosen[end:], rejected[end:])
        if not chosen[end - 1].isspace() and all(rest.strip() and rest[0].isspace() for rest in rests):
            return chosen[:end]
    return ""


# --- Lists of turns ----------------------------------------------------------


def _from_messages(given: Cell, chosen: Cell, rejected: Cell) -> tuple[Texts, Dialogue]:
    """Chosen and rejected as lists of turns: either whole conversations or the answers alone."""
    sides = []
    for cell in (chosen, rejected):
        if not isinstance(cell.value, list):
            problem = f"is of type {type(cell.value).__name__}, expected a list"
            raise cell.error(problem, "write both answers as text, or both as lists of turns")
        turns = cell.messages()
        if turns[-1].role != "assistant":
            last = Cell(cell.name, turns[-1].role, cell.place)
            raise last.error("does not end with the assistant", _SAME_PROMPT)
        sides.append(turns)
    (*prompt, good), (*other_prompt, bad) = sides
    if prompt != other_prompt:
        raise _prompts_differ(prompt, other_prompt, chosen.place)
    before = _given_prompt(given)
    if before and prompt and before not in (prompt, prompt[-1:]):
        # A system turn may precede a prompt given as text; nothing else may differ.
        raise _prompts_differ(before, prompt, chosen.place, field="prompt")
    prompt = prompt or before
    if not prompt:
        fix = "add the user's turn to both lists, or a field 'prompt'"
        raise chosen.error("has no turn before the answer", fix)
    _require_different(good.content, bad.content, chosen.place)
    dialogue = Dialogue(tuple(prompt), good, bad)
    return render_dialogue(dialogue), dialogue


def _given_prompt(given: Cell) -> list[Message]:
    if given.value is None:
        return []
    if isinstance(given.value, list):
        return list(given.messages())
    return [Message("user", given.filled("is empty", "write the prompt, or leave the field out"))]


def _prompts_differ(one: Sequence[Message], other: Sequence[Message], place: Place,
                    field: str = "rejected") -> DataError:
    turn = common_length(one, other)
    received = other[turn].content if turn < len(other) else "no such turn"
    other_side = "the conversation in chosen" if field == "prompt" else "chosen"
    problem = f"has another prompt than {other_side}: turn {turn + 1} differs"
    return place.error(problem, _SAME_PROMPT, field=field, value=received)


# --- Transcripts -------------------------------------------------------------


def _from_transcripts(given: Cell, chosen: Cell, rejected: Cell) -> tuple[Texts, Dialogue]:
    """Chosen and rejected as transcripts that part at the last answer."""
    parts = []
    for cell in (chosen, rejected):
        try:
            parse_transcript(cell.value)
            parts.append(split_transcript(cell.value))
        except ValueError as error:
            raise cell.error(str(error), _COMPLETE) from None
    (prompt, good), (other_prompt, bad) = parts
    turns = _turns_before_answer(prompt)
    if prompt != other_prompt:
        raise _prompts_differ(turns, _turns_before_answer(other_prompt), chosen.place)
    if given.value is not None and given.text().strip() != prompt.strip():
        problem = "is not what chosen and rejected begin with"
        raise given.error(problem, "leave the field out, or make them agree")
    _require_different(good, bad, chosen.place)
    return (prompt, good, bad), _dialogue(turns, good, bad)


def _turns_before_answer(prompt: str) -> tuple[Message, ...]:
    return parse_transcript(prompt[: prompt.rstrip().rfind("\n\n")])


def is_plain_rendering(preference: Preference) -> bool:
    """Whether the texts of a preference are what its messages give, so that the messages suffice."""
    texts = (preference.prompt, preference.chosen, preference.rejected)
    return preference.dialogue is not None and render_dialogue(preference.dialogue, plain_text) == texts
