"""Which chapters run side by side, and in which order.

Chapters share runs in the cache: 3 trains the SFT model, 5 the reward model, 9 PPO, 12 DPO, 15 the
constitutional policies. A chapter that uses a part runs after the one that makes it, so that what a chapter
prints does not depend on the schedule, and one process at a time writes to a shared run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

# Number of a chapter -> the chapters whose parts of a shared run it reads or replaces.
# tests/tools/test_schedule.py compares this with what the notebooks say.
NEEDS: dict[str, tuple[str, ...]] = {
    "05": ("03",),
    "09": ("03", "05"),
    "12": ("03", "05", "09"),
    "13": ("03",),
    "17": ("03", "05", "09", "12", "15"),
}
# What a kernel with the model, its optimiser and a judge takes at most.
GIGABYTES_EACH = 4.0
USUAL_SECONDS = 60.0  # of a chapter whose time was never measured here

Result = TypeVar("Result")


def workers() -> int:
    """How many processes of one thread each this machine holds: one per core, as far as memory goes."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(psutil.virtual_memory().available / (GIGABYTES_EACH * 1e9))))


def needs(notebooks: Iterable[Path]) -> dict[Path, list[Path]]:
    """For each notebook, those of the given ones that must have been executed before it."""
    books = list(notebooks)
    return {
        path: [other for other in books if _number(other) in NEEDS.get(_number(path), ())] for path in books
    }


def urgency(needed: Mapping[Path, Iterable[Path]], seconds: Mapping[Path, float]) -> dict[Path, float]:
    """Seconds from the start of each notebook to the end of the last one that has to wait for it."""
    known: dict[Path, float] = {}

    def of(path: Path) -> float:
        if path not in known:
            later = [other for other, earlier in needed.items() if path in earlier]
            known[path] = seconds.get(path, USUAL_SECONDS) + max(map(of, later), default=0.0)
        return known[path]

    return {path: of(path) for path in needed}


def longest_chain(notebooks: Iterable[Path]) -> list[Path]:
    """The notebooks that can only run one after the other: the way through ``NEEDS`` that takes longest."""
    needed = needs(notebooks)
    until_end = urgency(needed, {})
    chain: list[Path] = []
    candidates = list(needed)
    while candidates:
        chain.append(max(candidates, key=lambda path: (until_end[path], path)))
        candidates = [path for path, earlier in needed.items() if chain[-1] in earlier]
    return chain


def side_by_side(
    work: Callable[[Path], Result],
    needed: Mapping[Path, Iterable[Path]],
    seconds: Mapping[Path, float],
    jobs: int,
    stop: Callable[[], None],
) -> dict[Path, Result]:
    """Do all pieces of work, ``jobs`` at a time, what others wait for longest first.

    Args:
        work: called in a thread of its own for each key of ``needed``.
        needed: piece of work -> those that have to be done before.
        seconds: how long pieces took last time.
        jobs: how many at a time.
        stop: called when the wait is broken off, by Ctrl-C for example; must make running work return.

    Returns:
        What ``work`` returned, in the order of ``needed``.
    """
    until_end = urgency(needed, seconds)
    waiting = sorted(needed, key=lambda path: -until_end[path])
    running: dict[Future[Result], Path] = {}
    results: dict[Path, Result] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                ready = [path for path in waiting if all(other in results for other in needed[path])]
                for path in ready[: jobs - len(running)]:
                    waiting.remove(path)
                    running[pool.submit(work, path)] = path
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    results[running.pop(done)] = done.result()
        except BaseException:
            stop()
            raise
    return {path: results[path] for path in needed}


def _number(notebook: Path) -> str:
    return notebook.stem.partition("_")[0]
