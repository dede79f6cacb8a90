"""What a notebook's results depend on, and where executed copies are kept.

The *state* of a notebook is a hash of its own file, the package, the configurations and recorded runs that
chapters may replay, the lock and the budget. An executed copy is fresh as long as its state is the present
one. Executed copies live in ``.cache/executed`` and failed ones in ``.cache/failed``; both are git-ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_SOURCES = ("rlhf_lite", "configs", "results", "requirements.lock")
SKIPPED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}


def notebooks(root: Path) -> list[Path]:
    """The notebooks of the book, in order of their names."""
    folder = root / "notebooks"
    return sorted(path for path in folder.rglob("*.ipynb") if not SKIPPED_FOLDERS & set(path.parts))


def budget() -> str:
    """The budget that notebooks run under; the rules are those of ``rlhf_lite.teaching.notebook.budget``."""
    value = os.environ.get("RLHF_LITE_BUDGET", "") or "fast"
    if value not in ("fast", "full"):
        raise SystemExit(f"RLHF_LITE_BUDGET is {value!r}; use 'fast' or 'full'")
    return value


def shared_state(root: Path) -> str:
    """Hash of everything but the notebook itself."""
    digest = hashlib.sha256()
    digest.update(f"budget={budget()} python={platform.python_version()}\n".encode())
    for path in _files(root):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def notebook_state(notebook: Path, shared: str) -> str:
    """Hash of a notebook's file together with what it depends on."""
    return hashlib.sha256(shared.encode() + notebook.read_bytes()).hexdigest()


def executed_copy(root: Path, notebook: Path) -> Path:
    """Where the executed copy of a notebook is kept."""
    return root / ".cache" / "executed" / notebook.relative_to(root / "notebooks")


def failed_copy(root: Path, notebook: Path) -> Path:
    """Where the copy of a failed execution is kept, for reading."""
    return root / ".cache" / "failed" / notebook.relative_to(root / "notebooks")


def read_record(root: Path, notebook: Path) -> dict[str, Any] | None:
    """The record beside an executed copy: state, seconds, machine. None if it is missing or broken."""
    path = executed_copy(root, notebook)
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        whole = record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def is_fresh(root: Path, notebook: Path, shared: str | None = None) -> bool:
    """Whether the executed copy belongs to the present state of the sources."""
    record = read_record(root, notebook)
    if record is None:
        return False
    shared = shared_state(root) if shared is None else shared
    return bool(record["state"] == notebook_state(notebook, shared))


def failed_before(root: Path, notebook: Path) -> bool:
    """Whether an execution of the present state of the sources has failed."""
    try:
        record = json.loads(failed_copy(root, notebook).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(record.get("state") == notebook_state(notebook, shared_state(root)))


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _files(root: Path) -> Iterator[Path]:
    for name in SHARED_SOURCES:
        path = root / name
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and _counts(p.relative_to(root)))


def _counts(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and not SKIPPED_FOLDERS & set(path.parts) and path.suffix != ".pyc"
