"""Files and folders that appear complete or not at all.

Everything is written under a hidden name beside its place and renamed into it, so a reader never sees half a
file, and a kill leaves the old content, or none, and a leftover that :func:`remove_leftovers` clears. Two
folders cannot change places in one step, so a kill may come when the old one has a hidden name and the new
one not yet its own: the next writer, and :func:`remove_leftovers`, put the old one back.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The folder that a new one was about to replace.
_REPLACED = re.compile(r"\.(.+)\.[0-9a-f]{8}\.old")


def at_home(text: str | os.PathLike[str]) -> str:
    """What a user typed for a path, or for a path or Hub id, with ``~`` as the home folder.

    No shell expands it after ``--output=`` or in a settings file.
    """
    return os.path.expanduser(text)


def absolute(value: Any, home: Path | None = None) -> Any:
    """A text that names a file or folder, from here or ``home`` upwards, as absolute path; else the text."""
    if not isinstance(value, str):
        return value
    homes = () if home is None else (home.absolute(), *home.absolute().parents)
    places = (folder / at_home(value) for folder in (Path.cwd(), *homes))
    return next((os.path.abspath(place) for place in places if place.exists()), value)


def _beside(target: Path) -> Path:
    """A hidden name next to ``target`` that no other process uses; the folder around it is made if needed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A name beside ``path``; the file written there takes its place when the block ends without an error."""
    temporary = _beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target`` that takes its place when the block ends without an error."""
    temporary = _beside(target)
    temporary.mkdir()
    try:
        yield temporary
        _put_back(target.parent, target.name)
        if target.exists():
            old = temporary.with_suffix(".old")
            try:
                os.replace(target, old)
                os.replace(temporary, target)
            finally:
                _put_back(target.parent, target.name)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_back(folder: Path, name: str = "*") -> None:
    """Give folders their names back that were to be replaced, when what should replace them never came."""
    for old in folder.glob(f".{name}.*.old"):
        match = _REPLACED.fullmatch(old.name)
        if match and not (place := folder / match[1]).exists():
            os.replace(old, place)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete what a killed process left in ``folder``, of one file or folder called ``name`` or of all.

    A folder whose replacement was cut off between its two renames comes back first.
    """
    _put_back(folder, name)
    for leftover in [*folder.glob(f".{name}.*.tmp"), *folder.glob(f".{name}.*.old")]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN must have been turned into None before."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, such as JSON lines. Only a line feed ends one.

    ``str.splitlines`` also breaks at U+2028, U+0085 and others, which need no escape in JSON.
    """
    text = path.read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n") if text else []


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON object a line, atomically; NaN must have been turned into None before."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(content: Any) -> str:
    """A short hash of anything JSON can hold, for telling settings and models apart."""
    canonical = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
