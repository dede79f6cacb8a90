"""Which column of a row is what: prompt, answers, system text, ratings; and what is not understood.

Names count whatever their capitals, with ``-`` or a space for ``_``. Each stands in the files of somebody:

======================================  ==============================================================
``prompt``, ``chosen``, ``rejected``    TRL, Anthropic/hh-rlhf, HuggingFaceH4/ultrafeedback_binarized
``question``, ``system``                Intel/orca_dpo_pairs
``instruction``, ``input``              rasbt/LLMs-from-scratch, LLaMA-Factory
``query``                               ms-swift, with the answers ``response`` and ``rejected_response``
``conversations``, ``messages``         llamafactory/DPO-En-Zh-20k; HuggingFaceH4/ultrafeedback_binarized
``input.messages``                      OpenAI's preference files, with ``preferred_output``
``chosen_response`` ...                 argilla/ultrafeedback-binarized-preferences
``response_chosen`` ...                 shibing624/DPO-En-Zh-20k-Preference
``response_j`` (better), ``response_k`` lvwerra/stack-exchange-paired
======================================  ==============================================================

A model's or judge's scores (``score_chosen``, ``reward_chosen``, ...) are no ratings: taken as such, every
pair that the judge sees otherwise would be a broken row, and skipping these makes any accuracy 1. They stay
in ``meta``, as all other fields do, and the report says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from rlhf_lite.data.files.cells import Cell, Place, is_conversation
from rlhf_lite.data.files.shapes import other_shape
from rlhf_lite.types import Message

ANSWERS = (("chosen", "rejected"), ("chosen_response", "rejected_response"),
           ("response_chosen", "response_rejected"), ("preferred_output", "non_preferred_output"),
           ("response_j", "response_k"), ("response", "rejected_response"))
CONVERSATIONS = ("conversations", "messages")
PROMPTS = ("prompt", "question", "instruction", "query", "input", *CONVERSATIONS)
SYSTEMS = ("system", "system_prompt")
RATINGS = ("chosen_rating", "rejected_rating")
SCORES = ("score_chosen", "score_rejected")
_APART = "take the one that is not the prompt out of the file"


@lru_cache
def plain_name(name: object) -> str:
    """The name of a column without capitals and with ``_`` between its words."""
    return re.sub(r"[\s_-]+", "_", str(name).strip()).lower()


def require_answers(names: Iterable[object], place: Place) -> None:
    """Both answers have to be there, whatever the form.

    Raises:
        DataError: naming the missing fields and those that are there.
    """
    names = list(names)
    plain = {plain_name(name) for name in names}
    if not any(plain.issuperset(pair) for pair in ANSWERS):
        missing = [repr(name) for name in ANSWERS[0] if name not in plain]
        fix = "rename the fields with the preferred and the other answer to 'chosen' and 'rejected'"
        if len(missing) == len(ANSWERS[0]):
            fix = other_shape({plain_name(name): str(name) for name in names}) or fix
        raise place.error(f"missing {' and '.join(missing)}; the fields are {listed(names)}", fix)


def require_prompt(names: Iterable[object], place: Place) -> None:
    """A column with the prompt has to be there, or answers that may begin with it.

    Raises:
        DataError: naming the fields that are there.
    """
    names = list(names)
    plain = {plain_name(name) for name in names}
    if plain.isdisjoint(PROMPTS) and not any(plain.issuperset(pair) for pair in ANSWERS):
        fix = "name the field with the opening words 'prompt'"
        raise place.error(f"is missing; the fields are {listed(names)}", fix, field="prompt")


def listed(names: Iterable[object]) -> str:
    """Names of columns for a message."""
    return ", ".join(repr(str(name)) for name in list(names)[:12]) or "none"


def _filled(value: object) -> bool:
    return value is not None and value != "" and value != []


class Columns:
    """The columns of one row. Each one that is asked for counts as used.

    Args:
        row: column name -> value.
        place: for errors.

    Raises:
        DataError: two columns have one name but for capitals, and differ.
    """

    def __init__(self, row: Mapping[str, Any], place: Place) -> None:
        self.row, self.place = row, place
        self.used: dict[str, str] = {}
        self._names: dict[str, str] = {}
        for name in row:
            first = self._names.setdefault(plain_name(name), name)
            if first != name and row[first] != row[name]:
                raise place.error(f"and {first!r} are one column but for capitals, and differ",
                                  "take one of them out of the file", field=name, value=row[name])
        for name in (*PROMPTS, *SYSTEMS, "history"):  # understood, whether or not this row fills it
            if name in self and not _filled(self.row[self._names[name]]):
                self.take(name, "prompt" if name in PROMPTS else name)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def take(self, name: str, role: str | None = None) -> Cell:
        """The column of this plain name, used for ``role``; its value is None if there is no such column."""
        own = self._names.get(name)
        if own is None:
            return Cell(name, None, self.place)
        self.used[own] = role or name
        return Cell(own, self.row[own], self.place)

    def _filled_names(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name in self and _filled(self.row[self._names[name]])]

    def answers(self) -> tuple[Cell, Cell]:
        """The preferred and the other answer."""
        require_answers(self.row, self.place)
        good, bad = next(pair for pair in ANSWERS if all(name in self for name in pair))
        return self.take(good, "chosen").opened(), self.take(bad, "rejected").opened()

    def prompt(self, chosen: Cell | None = None) -> Cell | None:
        """What the answers answer, or None where no column holds it.

        Args:
            chosen: the preferred answer. ``messages`` that are the same do not hold the prompt alone.

        Raises:
            DataError: two columns could be the prompt and differ; or a conversation ends with an answer.
        """
        names = self._filled_names(PROMPTS)
        if "instruction" in names and "input" in names:
            names.remove("input")
        cells = [Cell(self._names[name], self.row[self._names[name]], self.place).opened() for name in names]
        if chosen is not None:
            cells = [cell for name, cell in zip(names, cells, strict=True)
                     if name not in CONVERSATIONS or cell.value != chosen.value]
        if not cells:
            present = next((name for name in PROMPTS if name in self and name not in names), None)
            return None if present is None else self.take(present, "prompt")
        first, *others = cells
        for other in others:
            if not _holds(first, other):
                raise other.error(f"and {first.name!r} could both be the prompt, and differ", _APART)
        self.used[first.name] = "prompt"
        plain = plain_name(first.name)
        if plain == "instruction" and self._filled_names(["input"]):
            text = self.take("input", "prompt").text()
            return Cell(first.name, f"{first.text()}\n\n{text}", self.place)
        if plain in CONVERSATIONS and is_conversation(first.value):
            role = first.messages()[-1].role
            if role == "assistant":
                fix = "let it end with the turn that is answered, or rename it if it is not the prompt"
                raise Cell(first.name, role, self.place).error("ends with an answer", fix)
        return first

    def opening(self) -> tuple[Message, ...]:
        """The system turn, where the system text stands in a column of its own.

        Raises:
            DataError: there are earlier turns in ``history``, which has no one form.
        """
        for name in self._filled_names(["history"]):
            fix = "put the turns before the prompt into a list of messages called 'prompt'"
            raise self.take(name).error("holds turns in a form that is not understood", fix)
        return tuple(Message("system", self.take(name).filled("is blank", "fill it in, or leave it empty"))
                     for name in self._filled_names(SYSTEMS)[:1])

    def is_chat(self, prompt: Cell) -> bool:
        """Whether the columns' names say that a prompt given as text is a question and not an opening."""
        return plain_name(prompt.name) != "prompt" or any(name in self for name in SYSTEMS)

    def refuse_questions(self) -> None:
        """Without a prompt, no other column may look like one.

        Raises:
            DataError: with the columns.
        """
        known = {*self.used, *(self._names.get(name) for name in (*RATINGS, *SCORES, "margin", "meta"))}
        for name, value in self.row.items():
            if name not in known and may_be_question(value):
                problem = f"may be the prompt, but no column says so; the fields are {listed(self.row)}"
                fix = "call the prompt's column 'prompt'; take out others, or put them into 'meta'"
                raise self.place.error(problem, fix, field=name, value=value)

    def margin(self, text_only: bool) -> float | None:
        """The margin from ``margin`` or from two ratings; they have to be finite, in order, and agree."""
        margins = []
        if "margin" in self:
            cell = self.take("margin")
            margins.append(Cell(cell.name, cell.number(text_only), self.place))
        if any(name in self for name in RATINGS):
            for name in RATINGS:
                if name not in self:
                    raise self.place.error("is missing", "give both ratings, or neither", field=name)
            good, bad = (self.take(name) for name in RATINGS)
            difference = good.number(text_only) - bad.number(text_only)
            if difference < 0:
                fix = "swap chosen and rejected, or correct the rating"
                raise good.error(f"is below {bad.name}={bad.value!r}", fix)
            if math.isinf(difference):
                raise good.error("is too far from the other rating", "give both ratings on one scale")
            margins.append(Cell(good.name, difference, self.place))
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

    @property
    def unused(self) -> tuple[str, ...]:
        """The columns that nothing asked for."""
        return tuple(str(name) for name in self.row if name not in self.used)

    def meta(self) -> dict[str, Any]:
        """All columns that were not used, and what stands in ``meta``."""
        extra = self.take("meta").value
        meta = {name: value for name, value in self.row.items() if name not in self.used}
        if isinstance(extra, Mapping):
            meta.update(extra)
        elif extra is not None:
            meta["meta"] = extra
        return meta


def _contents(value: Any) -> list[str]:
    turns = value if isinstance(value, list) else [value]
    return [str(turn.get("content", turn.get("value"))) if isinstance(turn, Mapping) else str(turn)
            for turn in turns]


def _holds(one: Cell, other: Cell) -> bool:
    """Whether all that a second candidate for the prompt says stands in the first one."""
    whole = _contents(one.value)
    return all(any(text.strip() in held for held in whole) for text in _contents(other.value))


def may_be_question(value: object) -> bool:
    """A conversation, or text that is no mere name: three words, a question mark, another script."""
    if isinstance(value, str):
        return len(value.split()) > 2 or "?" in value or "？" in value or (
            len(value) > 8 and not value.isascii())
    return is_conversation(value)
