"""From files to rows: every reader yields ``(row number, mapping or DataError)``.

A yielded DataError concerns one row and may be skipped; a raised one concerns the whole file. Row numbers are
line numbers for JSON lines and CSV, and count rows from 1 otherwise. The text formats may be gzipped.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import IO, Any

from rlhf_lite.data.files.cells import Cell, Place, is_conversation
from rlhf_lite.data.files.columns import listed, require_answers
from rlhf_lite.data.files.kinds import EXTENSIONS, check_start, is_packed, kind_of
from rlhf_lite.data.files.tables import Needs, Row, Rows, read_folder, read_hub, read_parquet, repeated
from rlhf_lite.errors import DataError
from rlhf_lite.files import at_home

MAX_LINE_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SEPARATORS = ",;\t|"
_OLD_MAC = "turn old Mac line ends into new ones: tr '\\r' '\\n' < {0} > new-{0}"
_SHOWN = {"\t": "tabs", ",": "commas"}


def read_rows(source: str | Path, *, split: str | None = None, needs: Needs = require_answers) -> Rows:
    """Rows of a file, a ``datasets`` folder or a Hub data set.

    Args:
        source: a path, or a Hub id such as ``Anthropic/hh-rlhf``; the split of a data set may follow behind
            a colon (``HuggingFaceH4/ultrafeedback_binarized:train_prefs``).
        split: for data sets only; ``train`` by default.
        needs: raises if the columns, where the file lists them, lack one that is needed.

    Raises:
        DataError: the source as a whole cannot be read.
    """
    path = Path(at_home(source))
    before, _, behind = str(source).rpartition(":")
    if split is None and before and not os.path.exists(path) and (
            os.path.isdir(at_home(before)) or _HUB_ID.fullmatch(before)):
        return read_rows(before, split=behind, needs=needs)
    name = path.name or str(path)
    if os.path.isdir(path):
        return read_folder(path, split, needs)
    if not os.path.exists(path):  # False also for what can be no path: too long, or with a zero byte
        if _HUB_ID.fullmatch(str(source)) and not str(source).endswith((*EXTENSIONS, ".gz")):
            return read_hub(str(source), split, needs)
        raise DataError("does not exist", file=str(source), fix="check the path")
    if split is not None:
        fix = "leave split out, or give a data set folder or Hub id"
        raise DataError("is a single file and has no splits", file=name, field="split", value=split, fix=fix)
    kind = kind_of(path)
    if kind not in EXTENSIONS or (kind == ".parquet" and is_packed(path)):
        known = ", ".join(EXTENSIONS)
        fix = f"use one of {known} (text formats also with .gz), a datasets folder or a Hub id"
        raise DataError("has an unknown extension", file=name, value="".join(path.suffixes[-2:]), fix=fix)
    check_start(path)
    if kind == ".parquet":
        return read_parquet(path, needs)
    if kind in (".csv", ".tsv"):
        return _read_csv(path, "," if kind == ".csv" else "\t", needs)
    if kind == ".json" and not _is_json_lines(path):
        return _read_json_whole(path, needs)
    return Rows(name, _read_json_lines(path), "JSON lines")


# --- Bytes and lines ---------------------------------------------------------


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if is_packed(path) else path.open("rb")


def _gzip_error(place: Place, error: BaseException) -> DataError:
    cut_off = isinstance(error, EOFError)
    problem = "the gzip stream ends too early" if cut_off else f"the gzip stream is damaged ({error})"
    return place.error(problem, "copy or download the file again; only the rows before this one can be read")


def lines_of(path: Path) -> Iterator[tuple[Place, bytes | DataError]]:
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
                raw = raw.removeprefix(_BOM)
            yield place, raw


def line_text(raw: bytes, place: Place) -> str:
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


def or_error(parse: Callable[..., Mapping[str, Any]], *given: Any) -> Mapping[str, Any] | DataError:
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
    marked = _Repeated(result)
    marked.key = repeated(key for key, _ in pairs) or ""
    return marked


def _read_json_lines(path: Path) -> Iterator[Row]:
    """One JSON object per line. Blank lines are passed over, but counted in the row numbers."""
    for place, raw in lines_of(path):
        if isinstance(raw, DataError):
            yield place.row, raw
        elif raw.strip():
            yield place.row, or_error(_json_object, raw, place)


def _json_object(raw: bytes, place: Place) -> Mapping[str, Any]:
    line = line_text(raw, place)
    try:
        value = json.loads(line, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        text = line.strip()
        if text.endswith(","):
            fix = "JSON lines have no commas between records"
            raise place.error("ends with a comma", fix, value=text[-40:]) from None
        problem = f"is not valid JSON: {error.msg} at character {error.pos + 1}"
        fix = _more_than_one(error, place) or _other_ending(text, place)
        raise place.error(problem, fix, value=line[max(0, error.pos - 20) : error.pos + 20]) from None
    except (RecursionError, ValueError) as error:
        fix = "correct the line: one JSON object of text fields per line"
        raise place.error(f"is not usable JSON: {error}", fix, value=line) from None
    return _checked(value, place)


def _more_than_one(error: json.JSONDecodeError, place: Place) -> str | None:
    """What to do with records that follow each other without a line end."""
    before, after = error.doc[: error.pos], error.doc[error.pos :]
    if error.msg != "Extra data" or before.rstrip()[-1:] != "}" or not after.startswith("{"):
        return None
    if before.endswith("\r"):
        return _OLD_MAC.format(place.file)
    return f"write each record into a line of its own, for example: jq -c . {place.file} > lines.jsonl"


def _other_ending(text: str, place: Place) -> str:
    """What to do with a line that is no JSON object."""
    fix = "correct the line: one complete JSON object per line"
    if place.row == 1 and text in ("[", "{", "[{"):
        return f"{fix}; if the file is JSON over several lines, let its name end in .json"
    if place.row == 1 and "{" not in text and any(separator in text for separator in _SEPARATORS):
        return f"{fix}; if the file is a table, let its name end in .csv"
    return fix


def _checked(value: Any, place: Place) -> Mapping[str, Any]:
    """A JSON value if it is an object without repeated keys (at its top or in a turn of a conversation)."""
    if not isinstance(value, dict):
        problem = f"is of type {type(value).__name__}, expected an object"
        fix = "write one object with 'chosen' and 'rejected' per record"
        if place.row == 1 and isinstance(value, list) and value and isinstance(value[0], dict):
            fix += "; if the file is one list, let its name end in .json"
        raise place.error(problem, fix, value=value)
    turns = [turn for field in value.values() if isinstance(field, list) for turn in field]
    for part in (value, *value.values(), *turns):
        if isinstance(part, _Repeated):
            fix = "keep one of the two"
            raise place.error("occurs twice", fix, field=part.key, value=part[part.key])
    return value


def _is_json_lines(path: Path) -> bool:
    """Whether a ``.json`` file holds an object per line, rather than one list or object in all."""
    filled = (line for _, line in lines_of(path) if isinstance(line, DataError) or line.strip())
    first, second = [*islice(filled, 2), None, None][:2]
    if not isinstance(first, bytes):
        return True  # nothing in it, or nothing to be read: the reader of lines says so
    text = first.strip()
    if len(first) > MAX_LINE_BYTES:
        return False  # no row is as long, but a whole file may be
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return not text.startswith(b"[") and text[-1:] not in b"{[,:"  # an object goes on in the next line
    return not isinstance(value, list) and (second is not None or not isinstance(value, dict))


def _meets(needs: Needs, names: Iterable[object], place: Place) -> bool:
    try:
        needs(names, place)
    except DataError:
        return False
    return True


def _read_json_whole(path: Path, needs: Needs) -> Rows:
    """A file that is one JSON list of objects, or an object that wraps one.

    It is read whole, so a syntax error concerns all of it.
    """
    start = Place(path.name, 1)
    try:
        with _open(path) as handle:
            raw = handle.read()
    except _BROKEN_GZIP as error:
        raise _gzip_error(start, error) from None
    text = _decoded(raw.removeprefix(_BOM), start)
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        before, after = error.doc[: error.pos], error.doc[error.pos :]
        comma = before.rstrip().endswith(",") or error.msg.startswith("Illegal trailing comma")
        fix = "remove the comma before the closing bracket" if comma else "correct the file at that place"
        fix = _more_than_one(error, start) or fix
        problem = f"is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise Place(path.name, error.lineno).error(problem, fix, value=before[-20:] + after[:20]) from None
    except (RecursionError, ValueError) as error:
        fix = "write a list of flat objects"
        raise Place(path.name, None).error(f"is not usable JSON: {error}", fix) from None
    values, form = (value, "JSON list") if isinstance(value, list) else _unwrapped(value, path.name, needs)
    rows = ((number, or_error(_checked, one, Place(path.name, number)))
            for number, one in enumerate(values, start=1))
    return Rows(path.name, rows, form)


def _unwrapped(value: Any, name: str, needs: Needs) -> tuple[list[Any], str]:
    """The records of an object: itself, or those of the one list of objects that it holds."""
    place = Place(name, None)
    if not isinstance(value, dict):
        return [value], "JSON"
    if isinstance(value, _Repeated):
        raise place.error("occurs twice", "keep one of the two", field=value.key)
    if _meets(needs, value, place) or not any(isinstance(held, list | dict) for held in value.values()):
        cells = [Cell(str(key), held, place).opened().value for key, held in value.items()]
        if cells and all(isinstance(held, list | dict) and not is_conversation(held) for held in cells):
            fix = "write a row per record; in pandas: to_json(FILE, orient='records', lines=True)"
            raise place.error(f"is a table by columns: {listed(value)}", fix)
        return [value], "a JSON object"
    lists = [key for key, held in value.items()
             if isinstance(held, list) and held and all(isinstance(one, dict) for one in held)]
    if len(lists) == 1:
        return value[lists[0]], f"JSON list under {lists[0]!r}"
    fix = ("write one of these lists into a file of its own" if lists
           else "write a list of objects, one per record; in pandas: to_json(FILE, orient='records')")
    raise place.error(f"is an object and no list of records; it holds {listed(lists or value)}", fix)


# --- CSV ---------------------------------------------------------------------


def _read_csv(path: Path, usual: str, needs: Needs) -> Rows:
    """CSV with a header line, whichever character separates its columns."""
    csv.field_size_limit(MAX_LINE_BYTES)
    separator, named = _separator(path, usual, needs)
    shown = _SHOWN.get(separator, repr(separator))
    lines = map(_csv_line, islice(lines_of(path), int(named), None))
    rows = _csv_rows(path, lines, separator, int(named), needs)
    return Rows(path.name, rows, f"CSV with {shown} between columns", text_only=True)


def _separator(path: Path, usual: str, needs: Needs) -> tuple[str, bool]:
    """What separates the columns, and whether a line of its own (``sep=;``, for Excel) says so.

    A header that lacks columns with the usual separator, and has them with another one, decides for that.
    """
    _, first = next(lines_of(path), (None, b""))
    text = b"" if isinstance(first, DataError) else first[:MAX_LINE_BYTES].rstrip(b"\r\n")
    header = text.decode("utf-8", "replace")
    if named := re.fullmatch(r'"?sep=(.)"?', header, re.IGNORECASE):
        return named[1], True
    for separator in (usual, *_SEPARATORS):
        try:
            names = next(csv.reader([header], delimiter=separator), [])
        except csv.Error:
            continue
        if _meets(needs, [name.strip() for name in names], Place(path.name, 1)):
            return separator, False
    return usual, False


def _csv_rows(path: Path, lines: Iterator[str], separator: str, before: int, needs: Needs) -> Iterator[Row]:
    """Rows by the line on which each starts, ``before`` lines being left out; fields may span lines.

    Since a record may span lines, a line that cannot be read makes the rest of the file unreadable.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        place = Place(path.name, before + reader.line_num + 1)
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fix = "quote fields with commas, quotes or line ends, and double the quotes within"
            if "new-line character" in str(error):
                fix = _OLD_MAC.format(path.name)
            raise place.error(f"is not valid CSV: {error}", fix) from None
        if header is None:
            header = _header([cell.strip() for cell in record], place, needs)
        elif any(cell.strip() for cell in record):
            yield place.row, or_error(_csv_row, header, record, place)


def _csv_line(numbered: tuple[Place, bytes | DataError]) -> str:
    place, raw = numbered
    if isinstance(raw, DataError):
        raise raw
    return line_text(raw, place)


def _header(names: list[str], place: Place, needs: Needs) -> list[str]:
    if (twice := repeated(names)) is not None:
        raise place.error("occurs twice in the header", "rename one column", field=twice)
    needs(names, place)
    return names


def _csv_row(header: list[str], record: list[str], place: Place) -> Mapping[str, Any]:
    if len(record) != len(header):
        problem = f"has {len(record)} columns, the header has {len(header)}"
        raise place.error(problem, "quote fields that hold the separator", value=record)
    if [cell.strip() for cell in record] == header:
        raise place.error("repeats the header, as files do that were put together", "take the line out")
    return dict(zip(header, record, strict=True))
