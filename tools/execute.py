"""Execute every notebook once per state of its sources, with nbmake.

    python tools/execute.py

A notebook whose executed copy is fresh is not run again (see ``tools/state.py``). The others are copied to a
working folder, run there, and kept in ``.cache/executed`` with their timings. A notebook that fails, or that
takes more than three times its budget, is never fresh: its copy goes to ``.cache/failed``. Sources are never
written to.
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
import time
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import state

BUDGET_SECONDS = {"fast": 90.0, "full": 4 * 3600.0}
BOOK_BUDGET_SECONDS = 20 * 60.0
HARD_FACTOR = 3  # a slow machine must not fail; a notebook that is far beyond its budget must


@dataclass(frozen=True)
class Execution:
    """What became of one notebook."""

    name: str
    executed: bool
    seconds: float
    error: str = ""


def execute_all(root: Path = state.REPOSITORY, *, show: bool = True, table: bool = True) -> list[Execution]:
    """Execute the notebooks that are not fresh, one after the other.

    Two processes may call this at once: the second waits, and then finds everything fresh.

    Args:
        root: the repository.
        show: print what is being executed, and failures.
        table: with ``show``, print the seconds of each chapter at the end.

    Returns:
        One result for each notebook; a failed one has its ``error`` set.
    """
    from filelock import FileLock

    cache = root / ".cache"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(str(cache / "execute.lock")):
        results = [_execute_if_stale(root, notebook, show) for notebook in state.notebooks(root)]
    if show and table:
        print_table(results)
    return results


def print_table(results: list[Execution]) -> None:
    """Print seconds for each chapter, and warnings about budgets."""
    limit = BUDGET_SECONDS[state.budget()]
    width = max([len(result.name) for result in results] + [7])
    print(f"\n{'chapter':<{width}}  seconds  of {limit:.0f} s ({state.budget()})")
    for result in results:
        how = "failed" if result.error else "executed now" if result.executed else "unchanged, not run again"
        slow = "  ABOVE BUDGET" if result.seconds > limit else ""
        print(f"{result.name:<{width}}  {result.seconds:7.1f}  {how}{slow}")
    total = sum(result.seconds for result in results)
    print(f"{'total':<{width}}  {total:7.1f}")
    if state.budget() == "fast" and total > BOOK_BUDGET_SECONDS:
        print(f"warning: the book takes {total:.0f} s; its budget is {BOOK_BUDGET_SECONDS:.0f} s")


def _execute_if_stale(root: Path, notebook: Path, show: bool) -> Execution:
    name = notebook.relative_to(root / "notebooks").as_posix()
    shared = state.shared_state(root)
    if state.is_fresh(root, notebook, shared):
        record = state.read_record(root, notebook)
        assert record is not None
        return Execution(name, False, float(record["seconds"]))
    if show:
        print(f"executing {name} ...", flush=True)
    # The state from before the run: an edit during the run leaves the result stale, as it should.
    before = state.notebook_state(notebook, shared)
    working = _working_copy(root, notebook)
    started = time.perf_counter()
    run = _run_nbmake(root, working)
    wall = time.perf_counter() - started
    cells = _cell_seconds(working)
    seconds = sum(cells)
    error = _error(root, run, seconds)
    if error:
        _keep_failure(root, notebook, working, run.stdout + run.stderr)
    else:
        _keep_result(root, notebook, working, before, cells, wall)
    shutil.rmtree(root / ".cache" / "work")
    if error and show:
        print(f"{name} FAILED; the copy is {state.failed_copy(root, notebook)}\n{error}")
    return Execution(name, True, seconds, error)


def _working_copy(root: Path, notebook: Path) -> Path:
    """A copy of what a notebook may read, so that it finds its neighbours and cannot touch the sources."""
    target = root / ".cache" / "work" / "notebooks"
    shutil.rmtree(target.parent, ignore_errors=True)
    for name in ("configs", "results"):
        if (root / name).is_dir():
            shutil.copytree(root / name, target.parent / name)
    shutil.copytree(
        root / "notebooks", target, ignore=shutil.ignore_patterns("*.ipynb", *state.SKIPPED_FOLDERS)
    )
    working = target / notebook.relative_to(root / "notebooks")
    working.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(notebook, working)
    return working


def _run_nbmake(root: Path, working: Path) -> subprocess.CompletedProcess[str]:
    timeout = int(BUDGET_SECONDS[state.budget()] * HARD_FACTOR)
    command = [sys.executable, "-m", "pytest", "-p", "nbmake.pytest_plugin", "--nbmake", "--overwrite"]
    command += [f"--nbmake-timeout={timeout}", "-q", "--no-header", "--color=no", "--noconftest"]
    command += ["-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(working.parent), str(working)]
    return subprocess.run(
        command, cwd=working.parent, env=_environment(root), capture_output=True, text=True, check=False
    )


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


def _error(root: Path, run: subprocess.CompletedProcess[str], seconds: float) -> str:
    if run.returncode != 0:
        return (run.stdout + run.stderr).strip()
    limit = BUDGET_SECONDS[state.budget()] * HARD_FACTOR
    if seconds > limit:
        return (
            f"it took {seconds:.0f} s; the limit is {limit:.0f} s, {HARD_FACTOR} times its budget: shorten it"
        )
    return ""


def _keep_failure(root: Path, notebook: Path, working: Path, log: str) -> None:
    kept = state.failed_copy(root, notebook)
    state.write_atomically(kept, working.read_bytes())
    state.write_atomically(kept.with_suffix(".log"), log.encode())


def _keep_result(
    root: Path, notebook: Path, working: Path, before: str, cells: list[float], wall: float
) -> None:
    data = _cleaned(working)
    kept = state.executed_copy(root, notebook)
    record: dict[str, Any] = {
        "state": before,
        "sha256": hashlib.sha256(data).hexdigest(),
        "seconds": round(sum(cells), 2),
        "wall_seconds": round(wall, 2),
        "slowest_cell_seconds": round(max(cells, default=0.0), 2),
        "cells": len(cells),
        "budget": state.budget(),
        "machine": machine(),
    }
    state.write_atomically(kept, data)
    state.write_atomically(kept.with_suffix(".json"), json.dumps(record, indent=2).encode() + b"\n")
    for leftover in (
        state.failed_copy(root, notebook),
        state.failed_copy(root, notebook).with_suffix(".log"),
    ):
        leftover.unlink(missing_ok=True)


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


def main() -> None:
    """Command line: exit code 1 if a notebook failed."""
    parser = argparse.ArgumentParser(description="Execute the notebooks whose sources changed.")
    parser.add_argument("--root", type=Path, default=state.REPOSITORY, help="the repository")
    failed = [result.name for result in execute_all(parser.parse_args().root.resolve()) if result.error]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
