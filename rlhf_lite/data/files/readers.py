"""From files to rows: every reader yields ``(row number, mapping or DataError)``.

A yielded DataError concerns one row and may be skipped; a raised one concerns the whole file. Row numbers are
line numbers for JSON lines and CSV, and count rows from 1 otherwise. The text formats may be gzipped.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import IO, Any

from rlhf_lite.data.files.formats import Place, require_columns
from rlhf_lite.errors import DataError
from rlhf_lite.files import at_home

Row = tuple[int, Mapping[str, Any] | DataError]

MAX_LINE_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)
EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read_rows(source: str | Path, *, split: str | None = None) -> Iterator[Row]:
    """Rows of a preference file, a ``datasets`` folder or a Hub data set.

    Args:
        source: a path, or a Hub id such as ``Anthropic/hh-rlhf``.
        split: for data sets only; ``train`` by default.

    Raises:
        DataError: the source as a whole cannot be read.
    """
    path = Path(at_home(source))
    name = path.name or str(path)
    if path.is_dir():
        return _dataset_folder(path, split)
    if not path.exists():
        if _HUB_ID.fullmatch(str(source)) and not str(source).endswith((*EXTENSIONS, ".gz")):
            return _hub(str(source), split)
        raise DataError("does not exist", file=str(source), fix="check the path")
    if split is not None:
        fix = "leave split out, or give a data set folder or Hub id"
        raise DataError("is a single file and has no splits", file=name, field="split", value=split, fix=fix)
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    kind = kind.lower()
    if kind not in EXTENSIONS or (kind == ".parquet" and path.suffix == ".gz"):
        known = ", ".join(EXTENSIONS)
        fix = f"use one of {known} (text formats also with .gz), a datasets folder or a Hub id"
        raise DataError("has an unknown extension", file=name, value="".join(path.suffixes[-2:]), fix=fix)
    if path.stat().st_size == 0:
        raise DataError("is empty (0 bytes)", file=name, fix="check how the file was made or copied")
    if kind == ".parquet":
        return _parquet(path)
    if kind in (".csv", ".tsv"):
        return _read_csv(path, "," if kind == ".csv" else "\t")
    if kind == ".json" and _first_character(path) == b"[":
        return _read_json_list(path)
    return _read_json_lines(path)


# --- Bytes and lines ---------------------------------------------------------


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _first_character(path: Path) -> bytes:
    """The first byte of a file that is not white space or a byte order mark."""
    try:
        with _open(path) as handle:
            start = handle.read(len(_BOM)).removeprefix(_BOM).lstrip()
            # Byte by byte, since reading on to the end of a small gzip would already meet a wrong checksum.
            while not start and (start := handle.read(1)):
                start = start.lstrip()
            return start[:1]
    except (OSError, EOFError, zlib.error):
        return b""  # the reader meets the same trouble and reports it


def _gzip_error(place: Place, error: BaseException) -> DataError:
    cut_off = isinstance(error, EOFError)
    problem = "the gzip stream ends too early" if cut_off else f"the gzip stream is damaged ({error})"
    return place.error(problem, "copy or download the file again; only the rows before this one can be read")


def _lines(path: Path) -> Iterator[tuple[Place, bytes | DataError]]:
    """Lines with their places, an overlong one cut; a broken gzip stream ends with its error."""
    with _open(path) as handle:
        for number in count(1):
            place = Place(path.name, number)
            try:
                raw = rest = handle.readline(MAX_LINE_BYTES + 1)
                while len(raw) > MAX_LINE_BYTES and rest and not rest.endswith(b"\n"):
                    rest = handle.readline(MAX_LINE_BYTES)
            except _BROKEN_GZIP as error:
                yield place, _gzip_error(place, error)
                return
            if not raw:
                return
            if number == 1:
                _refuse_utf16(path.name, raw)
                raw = raw.removeprefix(_BOM)
            yield place, raw


def _refuse_utf16(name: str, start: bytes) -> None:
    """UTF-16 and UTF-32 have a mark at the start, or zero bytes between the characters of plain English."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start[:64]:
        fix = f"convert it: iconv -f UTF-16 -t UTF-8 {name} > utf8-{name}"
        raise DataError("is not UTF-8 but looks like UTF-16", file=name, row=1, value=start[:16], fix=fix)


def _line_text(raw: bytes, place: Place) -> str:
    """A line as text, if it is not overlong."""
    if len(raw) > MAX_LINE_BYTES:
        fix = "check for missing line ends: JSON lines have one record per line"
        raise place.error(f"line is longer than {MAX_LINE_BYTES / 2**20:g} MB", fix, value=raw[:60])
    return _decoded(raw, place)


def _decoded(raw: bytes, start: Place) -> str:
    """Bytes as text. The error names the line of the first bad byte, counted from ``start``."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line_start = raw.rfind(b"\n", 0, error.start) + 1
        place = Place(start.file, (start.row or 1) + raw.count(b"\n", 0, error.start))
        position = error.start - line_start + 1
        problem = f"byte {raw[error.start]:#04x} at position {position} of the line is not UTF-8"
        convert = f"iconv -f WINDOWS-1252 -t UTF-8 {place.file} > utf8-{place.file}"
        fix = f"convert the file, which is probably latin-1: {convert}"
        around = raw[max(line_start, error.start - 15) : error.start + 15]
        raise place.error(problem, fix, value=around) from None


def _or_error(parse: Callable[..., Mapping[str, Any]], *given: Any) -> Mapping[str, Any] | DataError:
    """What ``parse`` makes of one row, or its error, which concerns that row only and may be skipped."""
    try:
        return parse(*given)
    except DataError as error:
        return error


# --- JSON --------------------------------------------------------------------


class _Repeated(dict[str, Any]):
    """A JSON object in which a key occurs twice."""

    key: str = ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    marked, keys = _Repeated(result), [key for key, _ in pairs]
    marked.key = next(key for place, key in enumerate(keys) if key in keys[:place])
    return marked


def _read_json_lines(path: Path) -> Iterator[Row]:
    """One JSON object per line. Blank lines are passed over, but counted in the row numbers."""
    for place, raw in _lines(path):
        if isinstance(raw, DataError):
            yield place.row, raw
        elif raw.strip():
            yield place.row, _or_error(_json_object, raw, place)


def _json_object(raw: bytes, place: Place) -> Mapping[str, Any]:
    line = _line_text(raw, place)
    try:
        value = json.loads(line, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        text = line.strip()
        if text.endswith(","):
            fix = "JSON lines have no commas between records"
            raise place.error("ends with a comma", fix, value=text[-40:]) from None
        problem = f"is not valid JSON: {error.msg} at character {error.pos + 1}"
        fix = "correct the line: one complete JSON object per line"
        raise place.error(problem, fix, value=line[max(0, error.pos - 20) : error.pos + 20]) from None
    except (RecursionError, ValueError) as error:
        fix = "correct the line: one JSON object of text fields per line"
        raise place.error(f"is not usable JSON: {error}", fix, value=line) from None
    return _checked(value, place)


def _checked(value: Any, place: Place) -> Mapping[str, Any]:
    """A JSON value if it is an object without repeated keys (at its top or in a turn of a conversation)."""
    if not isinstance(value, dict):
        problem = f"is of type {type(value).__name__}, expected an object"
        raise place.error(problem, "write one object with 'chosen' and 'rejected' per record", value=value)
    turns = [turn for field in value.values() if isinstance(field, list) for turn in field]
    for part in (value, *value.values(), *turns):
        if isinstance(part, _Repeated):
            fix = "keep one of the two"
            raise place.error("occurs twice", fix, field=part.key, value=part[part.key])
    return value


def _read_json_list(path: Path) -> Iterator[Row]:
    """A file that is one JSON list of objects. It is read whole, so a syntax error concerns all of it."""
    start = Place(path.name, 1)
    try:
        with _open(path) as handle:
            raw = handle.read()
    except _BROKEN_GZIP as error:
        raise _gzip_error(start, error) from None
    _refuse_utf16(path.name, raw)
    text = _decoded(raw.removeprefix(_BOM), start)
    try:
        values = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        before, after = error.doc[: error.pos], error.doc[error.pos :]
        comma = before.rstrip().endswith(",") or error.msg.startswith("Illegal trailing comma")
        fix = "remove the comma before the closing bracket" if comma else "correct the file at that place"
        problem = f"is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise Place(path.name, error.lineno).error(problem, fix, value=before[-20:] + after[:20]) from None
    except (RecursionError, ValueError) as error:
        fix = "write a list of flat objects"
        raise Place(path.name, None).error(f"is not usable JSON: {error}", fix) from None
    for number, value in enumerate(values, start=1):
        yield number, _or_error(_checked, value, Place(path.name, number))


# --- CSV ---------------------------------------------------------------------


def _read_csv(path: Path, delimiter: str) -> Iterator[Row]:
    """CSV with a header line. A row's number is the line on which it starts; fields may span lines.

    Since a record may span lines, a line that cannot be read makes the rest of the file unreadable.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(map(_csv_line, _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        place = Place(path.name, reader.line_num + 1)
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fix = "quote fields with commas, quotes or line ends, and double the quotes within"
            raise place.error(f"is not valid CSV: {error}", fix) from None
        if header is None:
            header = _header([cell.strip() for cell in record], place)
        elif any(cell.strip() for cell in record):
            yield place.row, _or_error(_csv_row, header, record, place)


def _csv_line(numbered: tuple[Place, bytes | DataError]) -> str:
    place, raw = numbered
    if isinstance(raw, DataError):
        raise raw
    return _line_text(raw, place)


def _header(names: list[str], place: Place) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise place.error("occurs twice in the header", "rename one column", field=name)
    require_columns(dict.fromkeys(names), place)
    return names


def _csv_row(header: list[str], record: list[str], place: Place) -> Mapping[str, Any]:
    if len(record) != len(header):
        problem = f"has {len(record)} columns, the header has {len(header)}"
        raise place.error(problem, "quote fields that hold the separator", value=record)
    return dict(zip(header, record, strict=True))


# --- Parquet and data sets ---------------------------------------------------


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
        require_columns(dict.fromkeys(file.schema_arrow.names), Place(path.name, None))
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        fix = "copy or download the file again"
        raise DataError(f"cannot be read as Parquet: {error}", file=path.name, fix=fix) from error


def _dataset_folder(path: Path, split: str | None) -> Iterator[Row]:
    names = {p.name for p in path.iterdir()}
    if not names & {"dataset_info.json", "dataset_dict.json", "state.json"}:
        files = sorted(name for name in names if name.endswith((*EXTENSIONS, ".gz")))
        fix = "give the file itself" if files else "give a folder that Dataset.save_to_disk made, or a file"
        raise DataError("is not a datasets folder", file=path.name, value=files or sorted(names), fix=fix)
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:
        fix = "save it again with Dataset.save_to_disk"
        raise DataError(f"cannot be read as a datasets folder: {error}", file=path.name, fix=fix) from error
    return _dataset_rows(data, path.name, split)


def _hub(name: str, split: str | None) -> Iterator[Row]:
    import datasets

    try:
        data = datasets.load_dataset(name)
    except Exception as error:
        problem = ("is no file here, and cannot be had from the Hugging Face Hub "
                   f"({type(error).__name__}: {error})")
        fix = "check path, id and network, or fetch a file of the data set yourself and give its path"
        raise DataError(problem, file=name, fix=fix) from error
    return _dataset_rows(data, name, split)


def _dataset_rows(data: Any, name: str, split: str | None) -> Iterator[Row]:
    if isinstance(data, Mapping):
        split = split or "train"
        if split not in data:
            fix = f"use one of {list(data)}"
            raise DataError("has no such split", file=name, field="split", value=split, fix=fix)
        data = data[split]
    elif split is not None:
        raise DataError("has no splits", file=name, field="split", value=split, fix="leave split out")
    require_columns(dict.fromkeys(data.column_names), Place(name, None))
    return enumerate(data, start=1)
