"""Execute every notebook once per state of its sources, with nbmake, as many at a time as there are cores.

    python tools/execute.py
    python tools/execute.py --jobs 1
    python tools/execute.py --strict-time

A notebook whose executed copy is fresh is not run again (see ``tools/state.py``). The others are copied to
working folders, run there, and kept in ``.cache/executed`` with their timings. A notebook that fails is never
fresh: its copy goes to ``.cache/failed``. Sources are never written to.

Each kernel has one thread, on every machine: two such kernels get more done on two cores than one with two
threads, and sums of floats come out the same wherever the book is made. ``tools/schedule.py`` says which
notebooks wait for which.

A chapter's budget is a target for the processor seconds of its one thread, starting included: other work on
the machine changes them little, while it may double the seconds of the clock. A slow machine still gets its
book, and a warning. With ``--strict-time``, or ``RLHF_LITE_STRICT_TIME=1`` for a test or
a build, a notebook that needs three times its budget has failed: that is for those who keep the budgets.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filelock import FileLock

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import schedule, state

# Processor seconds of one thread. Run alone with two threads, chapters took 0.72 to 0.83 of them by the clock
# (eight chapters, median 0.78), so that these 115 are a reader's 90 seconds.
BUDGET_SECONDS = {"fast": 115.0, "full": 5 * 3600.0}
BOOK_BUDGET_SECONDS = 20 * 60.0
HARD_FACTOR = 3  # with strict time
# A cell that is still running after so many seconds is taken to hang.
HANGING_SECONDS = {"fast": 2 * 3600, "full": 24 * 3600}
STRICT_TIME = "RLHF_LITE_STRICT_TIME"


@dataclass(frozen=True)
class Execution:
    """What became of one notebook.

    Attributes:
        name: below ``notebooks/``.
        executed: now, and not at an earlier time.
        seconds: sum over its cells, by the clock.
        cpu_seconds: of the processor, for everything.
        error: what went wrong.
    """

    name: str
    executed: bool
    seconds: float
    cpu_seconds: float
    error: str = ""


class Kernels:
    """The processes that execute notebooks now, so that all of them can be ended at once."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock, self._stopped = threading.Lock(), False

    def run(self, command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str, float]:
        """Run a command to its end; returns its exit code, what it printed, and its processor seconds.

        Raises:
            KeyboardInterrupt: if ``stop`` was called: the end of the command says nothing then.
        """
        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            self._running.add(process)
        assert process.stdout is not None
        try:
            output = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)  # with those of the kernel, which it has waited for
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            process.stdout.close()
            process.kill()  # nothing, if it has ended; a kernel ends itself when its parent is gone
            with self._lock:
                self._running.discard(process)
        if self._stopped:
            raise KeyboardInterrupt
        return process.returncode, output, used.ru_utime + used.ru_stime

    def stop(self) -> None:
        """End all of them, and start no more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()


def execute_all(
    root: Path = state.REPOSITORY, *, show: bool = True, table: bool = True, jobs: int | None = None
) -> list[Execution]:
    """Execute the notebooks that are not fresh, side by side where they do not need each other's results.

    Two processes may call this at once: the second waits, and then finds everything fresh.

    Args:
        root: the repository.
        show: print what is being executed, and failures.
        table: with ``show``, print the seconds of each chapter at the end.
        jobs: how many notebooks run at a time; None: see ``schedule.workers``.

    Returns:
        One result for each notebook; a failed one has its ``error`` set.
    """
    notebooks, kernels = state.notebooks(root), Kernels()
    started = time.perf_counter()
    with _lock(root, "all"):
        results = schedule.side_by_side(
            lambda notebook: _execute_if_stale(root, notebook, show, kernels),
            schedule.needs(notebooks),
            _seconds_before(root, notebooks),
            jobs or schedule.workers(),
            kernels.stop,
        )
    if show and table:
        print_table(list(results.values()), time.perf_counter() - started)
    return list(results.values())


def execute_one(root: Path, notebook: Path) -> Execution:
    """Execute one notebook if it is not fresh, and before it what it needs.

    Any number of processes may do this at the same time, each with a notebook of its own.
    """
    kernels = Kernels()
    for earlier in schedule.needs(state.notebooks(root))[notebook]:
        if not state.failed_before(root, earlier):  # it is tried again for its own sake only
            execute_one(root, earlier)
    return _execute_if_stale(root, notebook, True, kernels)


def print_table(results: list[Execution], wall: float | None = None) -> None:
    """Print seconds for each chapter, and warnings about budgets; ``wall`` is the time of the whole call."""
    limit = BUDGET_SECONDS[state.budget()]
    width = max([len(result.name) for result in results] + [7])
    print(f"\n{'chapter':<{width}}  seconds  processor seconds, of {limit:.0f} ({state.budget()})")
    for result in results:
        how = "failed" if result.error else "executed now" if result.executed else "unchanged, not run again"
        slow = "  ABOVE BUDGET" if result.cpu_seconds > limit else ""
        print(f"{result.name:<{width}}  {result.seconds:7.1f}  {result.cpu_seconds:7.1f}  {how}{slow}")
    total, cpu = sum(r.seconds for r in results), sum(r.cpu_seconds for r in results)
    print(f"{'total':<{width}}  {total:7.1f}  {cpu:7.1f}")
    if wall is not None and any(result.executed for result in results):
        print(f"{'side by side':<{width}}  {wall:7.1f}")
        if state.budget() == "fast" and wall > BOOK_BUDGET_SECONDS:
            print(f"warning: the book took {wall:.0f} s; its budget is {BOOK_BUDGET_SECONDS:.0f} s")


def _seconds_before(root: Path, notebooks: list[Path]) -> dict[Path, float]:
    """What notebooks took when they last ran here, in whatever state."""
    records = {notebook: state.read_record(root, notebook) for notebook in notebooks}
    return {notebook: float(record["seconds"]) for notebook, record in records.items() if record}


def _lock(root: Path, name: str) -> FileLock:
    from filelock import FileLock

    folder = root / ".cache" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(str(folder / f"{name}.lock"))


def _execute_if_stale(root: Path, notebook: Path, show: bool, kernels: Kernels) -> Execution:
    name = notebook.relative_to(root / "notebooks").as_posix()
    with _lock(root, name.replace("/", "-")):
        shared = state.shared_state(root)
        if state.is_fresh(root, notebook, shared):
            record = state.read_record(root, notebook)
            assert record is not None
            seconds = float(record["seconds"])
            return Execution(name, False, seconds, float(record.get("cpu_seconds", seconds)))
        if show:
            print(f"executing {name} ...", flush=True)
        # The state from before the run: an edit during the run leaves the result stale, as it should.
        result = _execute(root, notebook, state.notebook_state(notebook, shared), kernels)
    if result.error and show:
        print(f"{name} FAILED; the copy is {state.failed_copy(root, notebook)}\n{result.error}")
    return result


def _execute(root: Path, notebook: Path, before: str, kernels: Kernels) -> Execution:
    name = notebook.relative_to(root / "notebooks")
    folder = root / ".cache" / "work" / name.with_suffix("")
    working = _working_copy(root, notebook, folder)
    started = time.perf_counter()
    try:
        code, output, cpu = kernels.run(_nbmake(working), working.parent, _environment(root))
        wall = time.perf_counter() - started
        cells = _cell_seconds(working)
        error = (output.strip() or f"exit code {code}") if code else _too_slow(cpu)
        if error:
            _keep_failure(root, notebook, working, before, output)
        else:
            _keep_result(root, notebook, working, before, cells, (wall, cpu))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Execution(name.as_posix(), True, sum(cells), cpu, error)


def _working_copy(root: Path, notebook: Path, folder: Path) -> Path:
    """A copy of what a notebook may read, so that it finds its neighbours and cannot touch the sources."""
    target = folder / "notebooks"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("configs", "results"):
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name)
    shutil.copytree(
        root / "notebooks", target, ignore=shutil.ignore_patterns("*.ipynb", *state.SKIPPED_FOLDERS)
    )
    working = target / notebook.relative_to(root / "notebooks")
    working.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(notebook, working)
    return working


def _nbmake(working: Path) -> list[str]:
    timeout = HANGING_SECONDS[state.budget()]
    command = [sys.executable, "-m", "pytest", "-p", "nbmake.pytest_plugin", "--nbmake", "--overwrite"]
    command += [f"--nbmake-timeout={timeout}", "-q", "--no-header", "--color=no", "--noconftest"]
    command += ["-p", "no:cacheprovider", "-c", os.devnull]
    return [*command, "--rootdir", str(working.parent), str(working)]


def _environment(root: Path) -> dict[str, str]:
    """The same surroundings for a notebook, whether a test, the build or a person started its execution."""
    # MPLBACKEND would hide the figures; the others change how pytest and the exercises behave.
    unwanted = ("PYTEST_", "NBGRADER_", "MPLBACKEND", "RLHF_LITE_EXERCISES")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    # This clone's package, whichever one is installed; and nothing may wait for a model hub.
    path = os.environ.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = os.pathsep.join([str(root), path] if path else [str(root)])
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # nbmake is all that is needed; others cost seconds
    environment["RLHF_LITE_BUDGET"] = state.budget()
    environment["HF_HUB_OFFLINE"] = "1"
    environment["TOKENIZERS_PARALLELISM"] = "false"
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return environment


def _cell_seconds(working: Path) -> list[float]:
    """Seconds of each code cell, from the times that the notebook client wrote down."""
    book = json.loads(working.read_text(encoding="utf-8"))
    seconds: list[float] = []
    for cell in book["cells"]:
        times = cell["metadata"].get("execution", {})
        if "iopub.execute_input" in times and "shell.execute_reply" in times:
            span = _moment(times["shell.execute_reply"]) - _moment(times["iopub.execute_input"])
            seconds.append(max(0.0, span.total_seconds()))
    return seconds


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _too_slow(seconds: float) -> str:
    limit = BUDGET_SECONDS[state.budget()] * HARD_FACTOR
    if os.environ.get(STRICT_TIME, "") in ("", "0") or seconds <= limit:
        return ""
    return (f"it took {seconds:.0f} processor seconds, and {HARD_FACTOR} times its budget are {limit:.0f}: "
            "shorten it, or leave --strict-time (RLHF_LITE_STRICT_TIME) out on a slow machine")


def _keep_failure(root: Path, notebook: Path, working: Path, before: str, log: str) -> None:
    kept = state.failed_copy(root, notebook)
    state.write_atomically(kept, working.read_bytes())
    state.write_atomically(kept.with_suffix(".log"), log.encode())
    state.write_atomically(kept.with_suffix(".json"), json.dumps({"state": before}).encode())


def _keep_result(
    root: Path, notebook: Path, working: Path, before: str, cells: list[float], whole: tuple[float, float]
) -> None:
    """Keep an executed copy and its record; ``whole`` are the seconds in all, by clock and by processor."""
    data = _cleaned(working)
    kept = state.executed_copy(root, notebook)
    record: dict[str, Any] = {
        "state": before,
        "sha256": hashlib.sha256(data).hexdigest(),
        "seconds": round(sum(cells), 2),
        "wall_seconds": round(whole[0], 2),
        "cpu_seconds": round(whole[1], 2),
        "slowest_cell_seconds": round(max(cells, default=0.0), 2),
        "cells": len(cells),
        "budget": state.budget(),
        "machine": machine(),
    }
    state.write_atomically(kept, data)
    state.write_atomically(kept.with_suffix(".json"), json.dumps(record, indent=2).encode() + b"\n")
    for suffix in (".ipynb", ".log", ".json"):
        state.failed_copy(root, notebook).with_suffix(suffix).unlink(missing_ok=True)


def _cleaned(working: Path) -> bytes:
    """The executed notebook without progress-bar widgets, which would load scripts from a content network."""
    import nbformat

    book = nbformat.read(working, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                o for o in cell.outputs if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})
            ]
    book.metadata.pop("widgets", None)
    return nbformat.writes(book).encode() + b"\n"


def machine() -> dict[str, Any]:
    """What a timing has to be read with: processor, cores, versions."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "not installed"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": processor, "cores": cores, "python": platform.python_version(), "torch": torch}


def add_strict_time(parser: argparse.ArgumentParser) -> None:
    """The option of the two commands that execute notebooks."""
    text = "a notebook that needs three times its budget fails"
    parser.add_argument("--strict-time", action="store_true", help=text)


def main() -> None:
    """Command line: exit code 1 if a notebook failed."""
    parser = argparse.ArgumentParser(description="Execute the notebooks whose sources changed.")
    parser.add_argument("--root", type=Path, default=state.REPOSITORY, help="the repository")
    parser.add_argument("--jobs", type=int, help="notebooks at a time (default: one per core)")
    add_strict_time(parser)
    arguments = parser.parse_args()
    if arguments.strict_time:
        os.environ[STRICT_TIME] = "1"
    results = execute_all(arguments.root.resolve(), jobs=arguments.jobs)
    failed = [result.name for result in results if result.error]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
