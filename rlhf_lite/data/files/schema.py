"""Preference files: read in whatever form they come, validated into one schema, written as JSON lines."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf_lite.data.files.formats import Place, is_plain_rendering, preference_from_row
from rlhf_lite.data.files.readers import Row, read_rows
from rlhf_lite.errors import DataError
from rlhf_lite.files import atomic_file
from rlhf_lite.types import Preference

OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class LoadReport:
    """What happened while a file was read.

    Attributes:
        source: the file or data set.
        read: number of rows looked at.
        kept: number of preferences that came of them.
        skipped: one error per row that was left out (with ``on_error="skip"``).
        repeated: rows among the kept ones that repeat an earlier row's three texts.
    """

    source: str
    read: int
    kept: int
    skipped: tuple[DataError, ...] = ()
    repeated: int = 0

    def summary(self, lines: int = 20) -> str:
        """Counts, and the first ``lines`` skipped rows with their reasons."""
        text = f"{self.source}: {self.kept} of {self.read} rows kept, {len(self.skipped)} skipped"
        if self.repeated:
            text += f", {self.repeated} of the kept ones repeat an earlier row"
        listed = [f"  skipped {error}" for error in self.skipped[:lines]]
        more = len(self.skipped) - len(listed)
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
                     limit: int | None = None) -> PreferenceData:
    """Read preferences from a file, a ``datasets`` folder or the Hub. ``data.files.formats`` lists the forms.

    Args:
        source: ``.jsonl``, ``.ndjson``, ``.json`` (a list, or lines), ``.csv``, ``.tsv`` (each also with
            ``.gz``), ``.parquet``, a folder made by ``Dataset.save_to_disk``, or a Hub id such as
            ``Anthropic/hh-rlhf``.
        on_error: ``raise`` stops at the first bad row; ``skip`` leaves bad rows out and lists them in the
            report.
        split: of a data set; ``train`` by default.
        limit: stop after this many preferences.

    Raises:
        DataError: naming file, row, field, the value received and the fix. With ``skip`` too, when the file
            as a whole cannot be read or no row of it is usable.
    """
    name = Path(source).name if Path(source).exists() else str(source)
    text_only = Path(source).name.lower().removesuffix(".gz").endswith((".csv", ".tsv"))
    rows = read_rows(source, split=split)
    return _collect(rows, name, on_error=on_error, limit=limit, text_only=text_only)


def preferences_from_rows(rows: Iterable[Mapping[str, Any]], *, name: str = "rows",
                          on_error: OnError = "raise", limit: int | None = None) -> PreferenceData:
    """The same for rows in memory, counted from 1: a list of dicts, or a ``datasets.Dataset``."""
    return _collect(enumerate(rows, start=1), name, on_error=on_error, limit=limit)


def _collect(rows: Iterable[Row], name: str, *, on_error: OnError, limit: int | None,
             text_only: bool = False) -> PreferenceData:
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    records: list[Preference] = []
    skipped: list[DataError] = []
    seen: set[int] = set()
    read = 0
    for number, row in rows:
        read += 1
        try:
            if isinstance(row, DataError):
                raise row
            record = preference_from_row(row, Place(name, number), text_only=text_only)
        except DataError as error:
            if on_error == "raise":
                raise
            skipped.append(error)
            continue
        records.append(record)
        seen.add(hash((record.prompt, record.chosen, record.rejected)))
        if len(records) == limit:
            break
    report = LoadReport(name, read, len(records), tuple(skipped), len(records) - len(seen))
    if not records:
        what = "holds no rows" if read == 0 else f"has no usable row among {read}"
        reasons = "; ".join(str(error) for error in skipped[:3])
        fix = f"see the first reasons: {reasons}" if reasons else "check how the file was made"
        raise DataError(what, file=name, fix=fix.rstrip("."))
    return PreferenceData(records, report)


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
