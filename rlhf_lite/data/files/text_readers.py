"""Readers for JSON lines, JSON lists and CSV, plain or gzipped, that say where a bad byte or comma is."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from rlhf_lite.data.files.fields import Place, require_columns
from rlhf_lite.errors import DataError

Row = tuple[int, Mapping[str, Any] | DataError]

MAX_LINE_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class _Repeated(dict[str, Any]):
    """A JSON object in which a key occurs twice."""

    key: str = ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    marked, seen = _Repeated(result), set()
    for key, _ in pairs:
        if key in seen:
            marked.key = key
            break
        seen.add(key)
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


_BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


def _gzip_error(path: Path, row: int, error: BaseException) -> DataError:
    cut_off = isinstance(error, EOFError)
    problem = "the gzip stream ends too early" if cut_off else f"the gzip stream is damaged ({error})"
    fix = "copy or download the file again; only the rows before this one can be read"
    return DataError(problem, file=path.name, row=row, fix=fix)


def _lines(path: Path) -> Iterator[tuple[int, str | DataError]]:
    """Decoded lines with their numbers; undecodable and overlong ones as errors."""
    number = 0
    with _open(path) as handle:
        while True:
            number += 1
            try:
                raw = handle.readline(MAX_LINE_BYTES + 1)
                too_long = len(raw) > MAX_LINE_BYTES
                rest = raw
                while too_long and not rest.endswith(b"\n"):
                    rest = handle.readline(MAX_LINE_BYTES)
                    if not rest:
                        break
            except _BROKEN_GZIP as error:
                yield number, _gzip_error(path, number, error)
                return
            if not raw:
                return
            if number == 1:
                _refuse_utf16(path.name, raw)
                raw = raw.removeprefix(_BOM)
            if too_long:
                problem = f"is longer than {MAX_LINE_BYTES / 2**20:g} MB"
                fix = "check for missing line ends: JSON lines have one record per line"
                yield (
                    number,
                    DataError("line " + problem, file=path.name, row=number, value=raw[:60], fix=fix),
                )
                continue
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                yield number, _encoding_error(path.name, number, raw, error)


def _refuse_utf16(name: str, start: bytes) -> None:
    """UTF-16 and UTF-32 have a mark at the start, or zero bytes between the characters of plain English."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start[:64]:
        fix = f"convert it: iconv -f UTF-16 -t UTF-8 {name} > utf8-{name}"
        raise DataError("is not UTF-8 but looks like UTF-16", file=name, row=1, value=start[:16], fix=fix)


def _encoding_error(name: str, row: int, raw: bytes, error: UnicodeDecodeError) -> DataError:
    around = raw[max(0, error.start - 15) : error.start + 15]
    problem = f"byte {raw[error.start]:#04x} at position {error.start + 1} of the line is not UTF-8"
    fix = f"convert the file, which is probably latin-1: iconv -f WINDOWS-1252 -t UTF-8 {name} > utf8-{name}"
    return DataError(problem, file=name, row=row, value=around, fix=fix)


def read_json_lines(path: Path) -> Iterator[Row]:
    """One JSON object per line. Blank lines are passed over, but counted in the row numbers."""
    for number, line in _lines(path):
        if isinstance(line, DataError):
            yield number, line
        elif line.strip():
            yield number, _json_object(line, Place(path.name, number))


def _json_object(line: str, place: Place) -> Mapping[str, Any] | DataError:
    try:
        value = json.loads(line, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        text = line.strip()
        if text.endswith(","):
            return place.error(
                "ends with a comma", value=text[-40:], fix="JSON lines have no commas between records"
            )
        around = line[max(0, error.pos - 20) : error.pos + 20]
        fix = "correct the line: one complete JSON object per line"
        return place.error(
            f"is not valid JSON: {error.msg} at character {error.pos + 1}", value=around, fix=fix
        )
    except (RecursionError, ValueError) as error:
        fix = "correct the line: one JSON object of text fields per line"
        return place.error(f"is not usable JSON: {error}", value=line, fix=fix)
    return _checked(value, place)


def _checked(value: Any, place: Place) -> Mapping[str, Any] | DataError:
    """A JSON value if it is an object without repeated keys (at its top or in a turn of a conversation)."""
    if not isinstance(value, dict):
        kind = type(value).__name__
        fix = "write one object with 'chosen' and 'rejected' per record"
        return place.error(f"is of type {kind}, expected an object", value=value, fix=fix)
    turns = [turn for field in value.values() if isinstance(field, list) for turn in field]
    for part in (value, *value.values(), *turns):
        if isinstance(part, _Repeated):
            return place.error(
                "occurs twice", field=part.key, value=part[part.key], fix="keep one of the two"
            )
    return value


def read_json_list(path: Path) -> Iterator[Row]:
    """A file that is one JSON list of objects. It is read whole, so a syntax error concerns all of it."""
    name = path.name
    try:
        with _open(path) as handle:
            raw = handle.read()
    except _BROKEN_GZIP as error:
        raise _gzip_error(path, 1, error) from None
    _refuse_utf16(name, raw)
    try:
        values = json.loads(raw.removeprefix(_BOM).decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        line_start = raw.rfind(b"\n", 0, error.start) + 1
        local = UnicodeDecodeError(
            "utf-8", raw[line_start:], error.start - line_start, error.end, error.reason
        )
        raise _encoding_error(name, raw.count(b"\n", 0, error.start) + 1, raw[line_start:], local) from None
    except json.JSONDecodeError as error:
        around = error.doc[max(0, error.pos - 20) : error.pos + 20]
        comma = error.doc[: error.pos].rstrip().endswith(",") or error.msg.startswith(
            "Illegal trailing comma"
        )
        fix = "remove the comma before the closing bracket" if comma else "correct the file at that place"
        problem = f"is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise DataError(problem, file=name, row=error.lineno, value=around, fix=fix) from None
    except (RecursionError, ValueError) as error:
        raise DataError(
            f"is not usable JSON: {error}", file=name, fix="write a list of flat objects"
        ) from None
    for number, value in enumerate(values, start=1):
        yield number, _checked(value, Place(name, number))


def read_csv(path: Path, delimiter: str) -> Iterator[Row]:
    """CSV with a header line. A row's number is the line on which it starts; fields may span lines."""
    csv.field_size_limit(MAX_LINE_BYTES)
    failure: list[DataError] = []

    def decoded() -> Iterator[str]:
        # A record may span lines, so a line that cannot be read makes an unknown part of the file unreadable.
        for _, line in _lines(path):
            if isinstance(line, DataError):
                failure.append(line)
                return
            yield line

    reader = csv.reader(decoded(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            fix = "quote fields with commas, quotes or line ends, and double the quotes within"
            raise (
                failure[0]
                if failure
                else DataError(f"is not valid CSV: {error}", file=path.name, row=start, fix=fix)
            ) from None
        if record is None or failure:
            break
        if header is None:
            header = _header([cell.strip() for cell in record], path.name)
        elif any(cell.strip() for cell in record):
            yield start, _csv_row(header, record, Place(path.name, start))
        start = reader.line_num + 1
    if failure:
        raise failure[0]


def _header(names: list[str], file: str) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                "occurs twice in the header", file=file, row=1, field=name, fix="rename one column"
            )
    require_columns(dict.fromkeys(names), Place(file, 1))
    return names


def _csv_row(header: list[str], record: list[str], place: Place) -> Mapping[str, Any] | DataError:
    if len(record) != len(header):
        fix = "quote fields that hold the separator"
        return place.error(f"has {len(record)} columns, the header has {len(header)}", value=record, fix=fix)
    return dict(zip(header, record, strict=True))
