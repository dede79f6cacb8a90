"""Build the site: execute what changed, stage, build with every warning an error.

    python tools/build_book.py              # to _build/html/index.html

Works offline. Any failure, a warning included, gives exit code 1 and leaves no page that looks finished.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import state
from tools.execute import STRICT_TIME, Execution, add_strict_time, execute_all, print_table
from tools.stage import stage
from tools.website.slim import slim

# MathJax comes in many variants (24 MB); the pages load this one, which carries its own input and output.
MATHJAX_KEPT = ("tex-chtml.js", "output/chtml/fonts/woff-v2")
STAMP = "build-state.txt"


class BuildFailed(SystemExit):
    """The site could not be built; the message says why."""


def build(root: Path = state.REPOSITORY, *, show: bool = True) -> Path:
    """Build the site and return the path of its first page.

    Raises:
        BuildFailed: if a notebook failed or the build printed a warning.
    """
    results = execute_all(root, show=show, table=False)
    failed = [result for result in results if result.error]
    if failed:
        details = "\n\n".join(f"{result.name}:\n{result.error}" for result in failed)
        raise BuildFailed(f"the book was not built, because these chapters failed:\n\n{details}")
    staged = stage(root, only_fresh=False)
    _write_timings(root, staged, results)
    _run_sphinx(root, staged)
    site = root / "_build" / "html"
    _prune_mathjax(site / "_static" / "mathjax")
    slim(site)
    _write_entry(site)
    state.write_atomically(root / "_build" / STAMP, _stamp(root, staged).encode())
    if show:
        _report(site, results)
    return site / "index.html"


def is_current(root: Path = state.REPOSITORY) -> bool:
    """Whether the built site belongs to the present sources."""
    shared = state.shared_state(root)
    if not all(state.is_fresh(root, notebook, shared) for notebook in state.notebooks(root)):
        return False
    stamp = root / "_build" / STAMP
    page = root / "_build" / "html" / "index.html"
    return stamp.is_file() and page.is_file() and stamp.read_text() == _stamp(root, stage(root))


def _stamp(root: Path, staged: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in staged.rglob("*") if p.is_file()):
        digest.update(
            f"{path.relative_to(root).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest()
        )
    for source in (Path(__file__), Path(slim.__code__.co_filename)):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _run_sphinx(root: Path, staged: Path) -> None:
    page = root / "_build" / "html" / "index.html"
    page.unlink(missing_ok=True)  # a failed build must not leave yesterday's entry page
    (root / "_build" / STAMP).unlink(missing_ok=True)
    call = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", call, "build", str(staged), "--path-output", str(root)]
    command += ["-n", "-W", "--keep-going", "-q"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    # Jupyter Book has had releases that returned 0 after a warning, so its words are read as well.
    lines = [line for line in (run.stdout + run.stderr).splitlines() if "WARNING" in line or "ERROR" in line]
    if run.returncode != 0 or lines or not page.is_file():
        page.unlink(missing_ok=True)
        # Sphinx reads a page once and keeps it: a second build would not warn of it again, and would pass.
        shutil.rmtree(root / "_build" / ".doctrees", ignore_errors=True)
        output = (run.stdout + run.stderr).strip()
        raise BuildFailed(
            f"{output}\n\nthe site was not built: {len(lines)} warnings or errors (exit {run.returncode})"
        )


def _write_entry(site: Path) -> None:
    """The page at the root, which leads to the welcome page.

    Jupyter Book writes a bare redirect there. Without an icon of its own, a browser asks the server for
    ``/favicon.ico``, which does not exist; without a link, a browser that does not follow is stuck.
    """
    entry = site / "index.html"
    if "book/index.html" not in entry.read_text(encoding="utf-8"):
        raise BuildFailed(f"{entry} does not lead to book/index.html: see root in _toc.yml")
    icon = '<link rel="icon" href="_static/favicon.svg">' if (site / "_static/favicon.svg").is_file() else ""
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="0; url=book/index.html">
<title>Welcome</title>
{icon}
</head>
<body><p><a href="book/index.html">To the first page</a></p></body>
</html>
"""
    state.write_atomically(entry, page.encode())


def _prune_mathjax(folder: Path) -> None:
    keep = [folder / name for name in MATHJAX_KEPT]
    for path in keep:
        if not path.exists():
            raise BuildFailed(
                f"MathJax is not where it was expected: {path} is missing; see sphinx-mathjax-offline"
            )
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and not any(path == kept or kept in path.parents for kept in keep):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _write_timings(root: Path, staged: Path, results: list[Execution]) -> None:
    """The page with the measured seconds of each chapter."""
    rows, machines = [], set()
    for notebook, result in zip(state.notebooks(root), results, strict=True):
        record = state.read_record(root, notebook)
        assert record is not None
        page = notebook.relative_to(root).with_suffix("").as_posix()
        slowest, cells = record["slowest_cell_seconds"], record["cells"]
        rows.append(
            f"| {{doc}}`../{page}` | {result.seconds:.0f} | {result.cpu_seconds:.0f} | {slowest:.0f} "
            f"| {cells} | {record['budget']} |"
        )
        at = record["machine"]
        machines.add(
            f"- {at['cores']} cores of {at['processor']}, Python {at['python']}, torch {at['torch']}"
        )
    lines = [
        "# Timings",
        "",
        "Seconds that each chapter took when this site was built, from the notebooks' own records. Each ran",
        "with one thread, beside another one on the next core: with both cores to itself it takes less.",
        "",
        "| chapter | seconds | of the processor | slowest cell | cells run | budget |",
        "|---|---:|---:|---:|---:|---|",
        *rows,
        "",
        f"Together: {sum(result.seconds for result in results):.0f} seconds. Measured on:",
        "",
        *sorted(machines),
        "",
    ]
    path = staged / "book" / "timings.md"
    text = "\n".join(lines)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        state.write_atomically(path, text.encode())


def _report(site: Path, results: list[Execution]) -> None:
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    print_table(results)
    print(f"\nThe book is built ({size / 1e6:.1f} MB). Open {site / 'index.html'}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the book into _build/html.")
    parser.add_argument("--root", type=Path, default=state.REPOSITORY, help="the repository")
    parser.add_argument("--clean", action="store_true", help="remove stage/ and _build/ first")
    add_strict_time(parser)
    arguments = parser.parse_args()
    if arguments.strict_time:
        os.environ[STRICT_TIME] = "1"
    root = arguments.root.resolve()
    if arguments.clean:
        for name in ("stage", "_build"):
            shutil.rmtree(root / name, ignore_errors=True)
    started = time.perf_counter()
    build(root)
    print(f"This call took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
