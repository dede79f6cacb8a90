"""The prompts of a comparison: a text file, any kind of preference file, or openings of unseen reviews."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rlhf_lite.data.files.cells import Place
from rlhf_lite.data.files.columns import require_prompt
from rlhf_lite.data.files.formats import prompt_from_row
from rlhf_lite.data.files.kinds import EXTENSIONS, check_start, kind_of
from rlhf_lite.data.files.readers import line_text, lines_of, or_error, read_rows
from rlhf_lite.data.files.schema import each_row
from rlhf_lite.data.files.tables import Rows
from rlhf_lite.data.formatting import plain_text, prompt_turns
from rlhf_lite.errors import DataError
from rlhf_lite.files import at_home
from rlhf_lite.types import Message

BUILT_IN = "reviews"
TEXT = (".txt", ".md", "")


@dataclass(frozen=True)
class Prompts:
    """Prompts in their order.

    Attributes:
        texts: the prompts.
        source: the file's name, or "reviews".
        skipped: broken rows that were left out, each with its reason.
    """

    texts: list[str]
    source: str
    skipped: list[DataError] = field(default_factory=list)

    @property
    def repeated(self) -> int:
        """How many prompts are copies of an earlier one."""
        return len(self.texts) - len(set(self.texts))


def read_prompts(source: str, *, limit: int | None = None, on_error: Literal["raise", "skip"] = "raise",
                 chat: bool = False) -> Prompts:
    """Prompts from a file, or the openings of test reviews that no training step has seen.

    ``.txt``, ``.md`` and a name without an ending hold one prompt per line. Everything else is read as a
    preference file is, and may be one: its columns are those of ``data.files.columns``, but the answers may
    be missing.

    Args:
        source: a path, or "reviews" for the built-in openings.
        limit: at most this many, spread evenly over the file (the reviews are ordered by rating).
        on_error: what an empty line or a broken row does.
        chat: the prompts are to be answered in a chat, so that a conversation may be one. It is given as the
            plain transcript that `data.formatting.prompt_turns` takes apart again.

    Raises:
        DataError: if the file is missing or holds no prompt, or at the first broken row; with file, row,
            field, value and fix.
        ValueError: if ``limit`` is not positive.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"expected at least one prompt, got {limit}")
    if source == BUILT_IN:
        return Prompts(_thin(_review_prompts(), limit), BUILT_IN)
    path = Path(at_home(source))
    if os.path.isfile(path) and kind_of(path) not in EXTENSIONS:
        rows = _text_lines(path)
    else:
        rows = read_rows(source, needs=require_prompt)
    texts, skipped, _ = each_row(rows, partial(_prompt, chat=chat), on_error=on_error,
                                 skip_with="--on-error skip")
    return Prompts(_thin(texts, limit), rows.name, skipped)


def _thin(rows: Sequence[str], limit: int | None) -> list[str]:
    if limit is None or len(rows) <= limit:
        return list(rows)
    return [rows[i * len(rows) // limit] for i in range(limit)]


def _review_prompts() -> list[str]:
    """Openings of the test split, cut as a run with the default settings cuts them."""
    from rlhf_lite.config import PipelineConfig
    from rlhf_lite.data import load_ratings, split_prompts, split_ratings

    data = PipelineConfig().data
    cut = split_prompts(split_ratings(load_ratings("movie"))["test"], words_min=data.prompt_words_min,
                        words_max=data.prompt_words_max, unique_prompts=True)
    return [prompt for prompt, _ in cut]


def _text_lines(path: Path) -> Rows:
    """The lines of a text file as rows with a prompt."""
    if kind_of(path) not in TEXT:
        fix = f"use .txt for a prompt in each line, or one of {', '.join(EXTENSIONS)}"
        raise DataError("has an unknown ending", file=path.name, value=path.suffix, fix=fix)
    check_start(path)
    rows = ((place.row or 0, raw if isinstance(raw, DataError) else or_error(_text_line, raw, place))
            for place, raw in lines_of(path))
    return Rows(path.name, rows, "text, a prompt in each line")


def _text_line(raw: bytes, place: Place) -> Mapping[str, Any]:
    return {"prompt": line_text(raw, place).rstrip("\r\n")}


def _prompt(row: Mapping[str, Any], place: Place, *, chat: bool) -> str:
    """The prompt of a row as text; a conversation, which only a chat can answer, as its transcript."""
    found = prompt_from_row(row, place)
    text = found if isinstance(found, str) else plain_text(found, True)
    error = partial(place.error, field="prompt", value=text)
    if not chat:
        if isinstance(found, str):
            return found
        raise error("is a conversation", "add --chat, or give the prompts as text")
    try:
        turns = prompt_turns(text)
    except ValueError as problem:
        raise error(str(problem), "complete the conversation") from None
    if not isinstance(found, str) and turns != tuple(Message(m.role, m.content.strip()) for m in found):
        fix = "begin with the user or the system, use no other roles, and write no speaker into a turn"
        raise error("is a conversation that no transcript can hold", fix)
    return text
