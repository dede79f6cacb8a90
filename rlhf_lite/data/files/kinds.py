"""What kind of file a file is: by its name, and by its first bytes."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from rlhf_lite.errors import DataError

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_GZIP = b"\x1f\x8b"
# What files of another kind begin with, what they are, and what to do with them.
_STRANGERS = (
    (rb"version https://git-lfs\.", "is the pointer of Git LFS to a file, not the file itself",
     "fetch it with: git lfs pull"),
    (rb"PAR1[\0-\x1f]", "is Parquet", "let its name end in .parquet"),
    (rb"PK\x03\x04", "is a ZIP archive, as Excel's tables are", "unpack it, or save the table as CSV"),
    (rb"BZh\d1AY&SY|\xfd7zXZ|\x28\xb5\x2f\xfd", "is packed with bzip2, xz or zstd",
     "unpack it, or pack it with gzip instead"),
    (rb"(?i)\s*<(!doctype )?html", "is a web page", "download the file itself, not the page about it"))


def is_packed(path: Path) -> bool:
    """Whether the name says that a file is gzipped."""
    return path.suffix.lower() == ".gz"


def kind_of(path: Path) -> str:
    """The ending of a file's name without ``.gz``, in small letters; empty if there is none."""
    return (path.with_suffix("") if is_packed(path) else path).suffix.lower()


def check_start(path: Path) -> None:
    """Refuse a file that begins as another kind of file than its name says.

    Raises:
        DataError: what the file is, and what to do with it.
    """
    with path.open("rb") as handle:
        start = outside = handle.read(64)
    if not start:
        raise DataError("is empty (0 bytes)", file=path.name, fix="check how the file was made or copied")
    if is_packed(path) and start.startswith(_GZIP):
        try:
            with gzip.open(path, "rb") as handle:
                start = handle.read(64)
        except (OSError, EOFError, zlib.error):
            return  # the reader meets the same trouble and reports it
    for mark, problem, fix in _STRANGERS:
        if re.match(mark, start) and not (start.startswith(b"PAR1") and kind_of(path) == ".parquet"):
            raise DataError(problem, file=path.name, fix=fix)
    if start.startswith(_GZIP):
        once = f"unpack it once: gunzip < {path.name} > once-{path.name}"
        twice = is_packed(path)
        problem = "is still gzip when unpacked: it was packed twice" if twice else "is packed with gzip"
        raise DataError(problem, file=path.name, fix=once if twice else "let its name end in .gz")
    if is_packed(path) and start is outside:
        raise DataError("is not gzip, in spite of its name", file=path.name, fix="take .gz off its name")
    if kind_of(path) in (".csv", ".tsv") and re.match(rb'(\xef\xbb\xbf)?\s*(\[\s*)?\{\s*"', start):
        raise DataError("holds JSON and no table", file=path.name, fix="let its name end in .json")
    # UTF-16 and UTF-32 have a mark, or zero bytes between the characters of plain English.
    utf16 = start[:2] in (b"\xff\xfe", b"\xfe\xff") or start.count(0) > len(start) // 3
    if utf16 and kind_of(path) != ".parquet":
        fix = f"convert it: iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}"
        problem = "is not UTF-8 but looks like UTF-16"
        raise DataError(problem, file=path.name, row=1, value=start[:16], fix=fix)
