"""Progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class PhaseProgress:
    """One phase's progress: call it with the number of finished steps and a short status line."""

    def __init__(self, name: str, total: int, progress: Progress | None) -> None:
        self._name, self._total, self._progress = name, total, progress
        self._started, self._first = time.monotonic(), None
        self._task = None if progress is None else progress.add_task(name, total=total, status="")

    def __call__(self, done: int, status: str = "") -> None:
        """Show that ``done`` steps are finished."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, status=status)
            return
        if self._first is None:
            self._first = done - 1
        if done == self._total or done % max(1, self._total // 10) == 0:
            elapsed = time.monotonic() - self._started
            left = elapsed / max(1, done - self._first) * (self._total - done)
            print(
                f"{self._name:<12} {done:>4}/{self._total}  {elapsed:5.0f} s, {left:4.0f} s left  {status}",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def bar(name: str, total: int, *, visible: bool = True) -> Iterator[PhaseProgress]:
    """A bar with elapsed and remaining time for ``total`` steps of the phase ``name``."""
    console = Console(stderr=True)
    if not visible:
        yield PhaseProgress(name, total + 1, Progress(disable=True))
    elif not console.is_terminal:
        yield PhaseProgress(name, total, None)
    else:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        with Progress(*columns, console=console) as progress:
            yield PhaseProgress(name, total, progress)
