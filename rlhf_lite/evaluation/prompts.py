"""The prompts of a comparison: a text file, JSON lines, or the built-in openings of unseen reviews."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rlhf_lite.data.files.cells import Place
from rlhf_lite.errors import DataError
from rlhf_lite.files import at_home

BUILT_IN = "reviews"
_BOTH = "or skip broken rows with --on-error skip"


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


def read_prompts(source: str, *, limit: int | None = None,
                 on_error: Literal["raise", "skip"] = "raise") -> Prompts:
    """Prompts from a file, or the openings of test reviews that no training step has seen.

    ``.txt`` holds one prompt per line. ``.jsonl`` holds one object per line with a text field ``prompt``;
    other fields are passed over, so that a preference file will do. Any other ending is read as text.

    Args:
        source: a path, or "reviews" for the built-in openings.
        limit: at most this many, spread evenly over the file (the reviews are ordered by rating).
        on_error: what an empty line or a broken row does.

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
    if not path.is_file():
        fix = f"give a text file, a .jsonl file, or {BUILT_IN!r} for openings of unseen reviews"
        raise DataError("is not a file" if path.exists() else "is not there", file=str(source), fix=fix)
    parse = _from_json if path.suffix.lower() in (".jsonl", ".ndjson") else _filled
    texts, skipped = [], []
    for number, line in enumerate(_lines(path), start=1):
        try:
            texts.append(parse(line.rstrip("\r"), Place(path.name, number)))
        except DataError as error:
            if on_error == "raise":
                raise
            skipped.append(error)
    if not texts:
        reason = f" ({len(skipped)} broken rows were skipped)" if skipped else ""
        raise DataError(f"holds no prompt{reason}", file=path.name, fix="write one prompt per line")
    return Prompts(_thin(texts, limit), path.name, skipped)


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


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        row = error.object[: error.start].count(b"\n") + 1
        around = error.object[max(0, error.start - 15) : error.start + 15]
        fix = f"convert it: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8-{path.name}"
        raise DataError("is not UTF-8", file=path.name, row=row, value=around, fix=fix) from None
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines  # the end of the last line is no empty line


def _from_json(line: str, place: Place) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        around = line[max(0, error.pos - 20) : error.pos + 20]
        problem = "is empty" if not line.strip() else f"is not valid JSON: {error.msg} at {error.pos + 1}"
        raise place.error(problem, f"write one JSON object per line, {_BOTH}", value=around) from None
    if not isinstance(row, dict):
        fix = f'write an object such as {{"prompt": "The film"}}, {_BOTH}'
        raise place.error(f"is of type {type(row).__name__}, expected an object", fix, value=row)
    if "prompt" not in row:
        known = ", ".join(map(repr, list(row)[:8])) or "none"
        fix = f"name the field with the opening words 'prompt', {_BOTH}"
        raise place.error(f"is missing; the fields are {known}", fix, field="prompt", value=row)
    return _filled(row["prompt"], place)


def _filled(value: object, place: Place) -> str:
    if not isinstance(value, str):
        fix = f"make it text (one message; join the turns of a conversation), {_BOTH}"
        raise place.error(f"is of type {type(value).__name__}, expected text", fix, field="prompt",
                          value=value)
    if not value.strip():
        fix = f"write a prompt or take the line out, {_BOTH}"
        raise place.error("is empty", fix, field="prompt", value=value)
    return value
