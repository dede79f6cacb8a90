"""Preference files: read in whatever form they come, validated into one schema, written as JSON lines."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from rlhf_lite.data.files.cells import Place
from rlhf_lite.data.files.columns import SCORES, plain_name
from rlhf_lite.data.files.formats import is_plain_rendering, read_row
from rlhf_lite.data.files.readers import read_rows
from rlhf_lite.data.files.tables import Rows
from rlhf_lite.errors import DataError
from rlhf_lite.files import atomic_file
from rlhf_lite.types import Preference

OnError = Literal["raise", "skip"]
T = TypeVar("T")
_SKIP = 'on_error="skip"'


@dataclass(frozen=True)
class LoadReport:
    """What happened while a file was read.

    Attributes:
        source: the file or data set.
        read: number of rows looked at.
        kept: number of preferences that came of them.
        skipped: one error per row that was left out (with ``on_error="skip"``).
        repeated: rows among the kept ones that repeat an earlier row's three texts.
        format: of the file, such as ``JSON lines`` or ``CSV with ';' between columns``.
        forms: how many kept rows had each form of ``data.files.formats``.
        used: columns that were understood, each with what it was taken for.
        unused: columns that were not; they are kept in ``meta``.
    """

    source: str
    read: int
    kept: int
    skipped: tuple[DataError, ...] = ()
    repeated: int = 0
    format: str = "rows"
    forms: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the file should know before training on it, a sentence each."""
        scores = [name for name in self.unused if plain_name(name) in SCORES]
        notes = []
        if scores:
            notes.append(f"{' and '.join(scores)} are a judge's scores, not people's ratings, and give no "
                         "margin; if people gave them, call them chosen_rating and rejected_rating")
        return tuple(notes)

    def understood(self) -> str:
        """One line: the format, what each column was taken for, and what was not used."""
        parts = [self.format, *(f"{count} {form}" for form, count in self.forms.items())]
        columns = [name if name == role else f"{name} as {role}" for name, role in self.used.items()]
        text = f"{', '.join(parts)}; columns: {', '.join(columns)}"
        return text + (f"; kept, but not used: {', '.join(self.unused)}" if self.unused else "")

    def summary(self, lines: int = 20) -> str:
        """Counts, what was understood, and the first ``lines`` skipped rows with their reasons."""
        text = f"{self.source}: {self.kept} of {self.read} rows kept, {len(self.skipped)} skipped"
        if self.repeated:
            text += f", {self.repeated} of the kept ones repeat an earlier row"
        listed = [f"  {self.understood()}", *(f"  note: {note}" for note in self.notes)]
        listed += [f"  skipped {error}" for error in self.skipped[:lines]]
        more = len(self.skipped) - min(len(self.skipped), lines)
        return "\n".join([text, *listed, *([f"  and {more} more"] if more > 0 else [])])


@dataclass(frozen=True)
class PreferenceData:
    """Preferences with the report of how they were read. Iterates over the preferences."""

    records: list[Preference]
    report: LoadReport

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Preference]:
        return iter(self.records)

    def __getitem__(self, index: int) -> Preference:
        return self.records[index]


def load_preferences(source: str | Path, *, on_error: OnError = "raise", split: str | None = None,
                     limit: int | None = None, skip_with: str | None = _SKIP) -> PreferenceData:
    """Read preferences from a file, a ``datasets`` folder or the Hub. ``data.files.formats`` lists the forms.

    Args:
        source: ``.jsonl``, ``.ndjson``, ``.json`` (a list, an object that wraps one, or lines), ``.csv``,
            ``.tsv`` (with any separator; each also with ``.gz``), ``.parquet``, a folder made by
            ``Dataset.save_to_disk``, or a Hub id such as ``Anthropic/hh-rlhf``.
        on_error: ``raise`` stops at the first bad row; ``skip`` leaves bad rows out and lists them in the
            report.
        split: of a data set; ``train`` by default.
        limit: stop after this many preferences.
        skip_with: what the user types for ``skip``, for the error; None where nobody can.

    Raises:
        DataError: naming file, row, field, the value received and the fix. With ``skip`` too, when the file
            as a whole cannot be read or no row of it is usable.
    """
    return _preferences(read_rows(source, split=split), on_error, limit, skip_with)


def preferences_from_rows(rows: Iterable[Mapping[str, Any]], *, name: str = "rows",
                          on_error: OnError = "raise", limit: int | None = None) -> PreferenceData:
    """The same for rows in memory, counted from 1: a list of dicts, or a ``datasets.Dataset``."""
    return _preferences(Rows(name, iter(enumerate(rows, start=1)), "rows"), on_error, limit, _SKIP)


def _preferences(source: Rows, on_error: OnError, limit: int | None,
                 skip_with: str | None) -> PreferenceData:
    forms: Counter[str] = Counter()
    used: dict[str, str] = {}
    unused: dict[str, None] = {}

    def parse(row: Mapping[str, Any], place: Place) -> Preference:
        preference, form, columns = read_row(row, place, text_only=source.text_only)
        forms[form] += 1
        used.update(columns.used)
        unused.update(dict.fromkeys(columns.unused))
        return preference

    records, skipped, total = each_row(source, parse, on_error=on_error, limit=limit, skip_with=skip_with)
    different = {hash((record.prompt, record.chosen, record.rejected)) for record in records}
    report = LoadReport(source.name, total, len(records), tuple(skipped), len(records) - len(different),
                        source.format, forms, used, tuple(name for name in unused if name not in used))
    return PreferenceData(records, report)


def each_row(source: Rows, parse: Callable[[Mapping[str, Any], Place], T], *, on_error: OnError,
             limit: int | None = None, skip_with: str | None = _SKIP) -> tuple[list[T], list[DataError], int]:
    """What ``parse`` makes of every row, the errors of those that were left out, and the number of all.

    Raises:
        DataError: of the first bad row, unless ``on_error`` is "skip"; or if no row is usable.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    kept: list[T] = []
    skipped: list[DataError] = []
    total = 0
    for number, row in source.rows:
        total += 1
        try:
            if isinstance(row, DataError):
                raise row
            kept.append(parse(row, Place(source.name, number)))
        except DataError as error:
            if on_error == "raise":
                raise (error if skip_with is None else error.or_skip(skip_with)) from None
            skipped.append(error)
        if len(kept) == limit:
            break
    if not kept:
        what = "holds no rows" if total == 0 else f"has no usable row among {total}"
        first = list({(error.field, error.problem): error for error in reversed(skipped)}.values())[::-1]
        if len(first) == 1:
            raise first[0].of_all(total)
        reasons = "; ".join(str(error) for error in first[:3])
        fix = f"see the first reasons: {reasons}" if reasons else "check how the file was made"
        raise DataError(what, file=source.name, fix=fix.rstrip("."))
    return kept, skipped, total


def save_preferences(path: str | Path, records: Iterable[Preference]) -> Path:
    """Write preferences as JSON lines that ``load_preferences`` reads back as equal records.

    The file appears complete or not at all. The same records give the same bytes.

    Args:
        path: ending in ``.jsonl`` or ``.jsonl.gz``.
        records: what to write; ``meta`` must hold what JSON can hold.

    Raises:
        ValueError: another extension, or a ``meta`` value that JSON cannot hold.
    """
    path = Path(path)
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError("preferences are written as .jsonl or .jsonl.gz, got "
                         f"{path.name!r}: change the extension")
    with atomic_file(path) as temporary, temporary.open("wb") as raw:
        # No name and no time in the gzip header, so that equal content gives equal bytes.
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        for number, record in enumerate(records, start=1):
            packed.write((_line(record, number) + "\n").encode("utf-8"))
        if packed is not raw:
            packed.close()
    return path


def _line(record: Preference, number: int) -> str:
    row: dict[str, Any] = {"prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}
    if is_plain_rendering(record):
        assert record.dialogue is not None
        row = {"prompt": [asdict(turn) for turn in record.dialogue.prompt],
               "chosen": [asdict(record.dialogue.chosen)],
               "rejected": [asdict(record.dialogue.rejected)]}
    if record.margin is not None:
        row["margin"] = record.margin
    if record.meta:
        row["meta"] = dict(record.meta)
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"record {number} cannot be written as JSON "
                         f"({error}): change its meta or margin") from error
