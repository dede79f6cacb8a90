"""Readers for JSON lines, JSON lists and CSV, plain or gzipped, that say where a bad byte or comma is."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import IO, Any

from rlhf_lite.data.files.fields import Place, require_columns
from rlhf_lite.errors import DataError

Row = tuple[int, Mapping[str, Any] | DataError]

MAX_LINE_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


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


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def first_character(path: Path) -> bytes:
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


# --- Bytes and lines ---------------------------------------------------------


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


def read_json_lines(path: Path) -> Iterator[Row]:
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


def read_json_list(path: Path) -> Iterator[Row]:
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


def read_csv(path: Path, delimiter: str) -> Iterator[Row]:
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
