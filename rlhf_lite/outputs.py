"""Where results go: places that are checked before any work, and folders that one process holds at a time."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rlhf_lite.errors import OutputError
from rlhf_lite.files import write_json


def require_folder(path: Path) -> None:
    """Make sure that results can go into the folder ``path``, which need not be there yet.

    Raises:
        OutputError: if it, or what it lies in, is no folder or may not be written to.
    """
    whole = path.absolute()
    there = next(place for place in (whole, *whole.parents) if os.path.lexists(place))
    if not there.is_dir():
        what = "is not a folder" if there == whole else f"would lie in {there}, which is not a folder"
        raise OutputError(f"{path} {what}: give another place with --output")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: {there} is read-only or closed to this user. "
                          "Give another place with --output")


def require_file(path: Path) -> None:
    """Make sure that a file can be written to ``path``.

    Raises:
        OutputError: if a folder, a device or the like is there, or its folder cannot be written to.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file with --output")
    if path.exists() and not path.is_file():  # it would be replaced: as root, even /dev/null
        raise OutputError(f"{path} is not an ordinary file: give another name with --output")
    require_folder(path.parent)


@contextmanager
def held(name: Path, busy: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold something against other processes until the block ends, by a file ``NAME.lock``.

    The system lets go of the lock when its process ends, however it ends, so none is ever stale.

    Args:
        name: a name in a folder that is there.
        busy: told who holds it, such as "process 17 on laptop", if somebody does. Unless it raises, the block
            begins when it is free.
    """
    lock, holder = FileLock(f"{name}.lock"), Path(f"{name}.holder")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            known = json.loads(holder.read_text(encoding="utf-8"))
            who = f"process {known['process']} on {known['machine']}"
        except (OSError, ValueError, KeyError, TypeError):  # it has not said yet, or lets go just now
            who = "another process"
        if busy is not None:
            busy(who)
        lock.acquire()
    try:
        write_json(holder, {"process": os.getpid(), "machine": platform.node()})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def is_held(name: Path) -> bool:
    """Whether a process, this one included, holds ``name`` just now."""
    lock = FileLock(f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
