"""Folders that are complete or absent: built beside their place, renamed into it, listed in a manifest.

A *store* is a folder with a file ``MANIFEST.json`` that names every other file with its size and sha256. The
manifest is written last and the folder is renamed into place afterwards, so a process that is killed leaves
nothing that could be mistaken for a finished folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf_lite.files import atomic_folder, remove_leftovers, write_json

MANIFEST = "MANIFEST.json"


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)


def write_manifest(folder: Path, origin: Mapping[str, Any]) -> None:
    """List every file of ``folder`` (size, sha256) and where they came from, as ``MANIFEST.json``."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in _files(folder)
    }
    write_json(folder / MANIFEST, {"files": files, "origin": dict(origin)})


def problem(folder: Path, origin: Mapping[str, Any], *, full: bool = False) -> str | None:
    """What is wrong with a store, in words, or None if it is complete.

    Args:
        folder: the store.
        origin: what its manifest must say it was made from.
        full: also compare the sha256 of every file. Without it only names and sizes are compared, which takes
            less than a millisecond and notices missing and cut-off files, but not flipped bits.
    """
    if not folder.is_dir():
        return "is not there"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = {str(name): (int(f["size"]), str(f["sha256"])) for name, f in manifest["files"].items()}
        found_origin = manifest["origin"]
    except FileNotFoundError:
        return f"has no {MANIFEST}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"has a {MANIFEST} that cannot be read ({type(error).__name__}: {error})"
    if found_origin != dict(origin):
        return f"was made from something else: {found_origin}, wanted {dict(origin)}"
    for name, (size, digest) in listed.items():
        path = folder / name
        if not path.is_file():
            return f"lacks the file {name}"
        if path.stat().st_size != size:
            return f"has a file {name} of {path.stat().st_size} bytes, expected {size}"
        if full and sha256_of(path) != digest:
            return f"has a file {name} whose content has changed (sha256 differs)"
    return None


def build(folder: Path, origin: Mapping[str, Any], fill: Callable[[Path], None]) -> None:
    """Make the store ``folder``: ``fill`` writes into a temporary neighbour, which then takes its place.

    The caller holds the lock. What was at ``folder`` before is replaced; leftovers of killed builds are
    removed.
    """
    remove_leftovers(folder.parent, folder.name)
    with atomic_folder(folder) as fresh:
        fill(fresh)
        write_manifest(fresh, origin)
