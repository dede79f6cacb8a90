"""Write the student copies: every notebook without solutions and without outputs.

    python tools/make_student.py            # to build/student/notebooks

A solution between ``### BEGIN SOLUTION`` and ``### END SOLUTION`` is replaced by the stub that nbgrader uses,
in code and in text, under the same rules: regions may not be nested, must end, and must stand in a cell that
is marked as a solution. The copies are what the Colab buttons open. They are generated, never committed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import state

# Like nbgrader, whatever comment sign stands before them: in text, <!-- and --> hide them.
BEGIN, END = "BEGIN SOLUTION", "END SOLUTION"
STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")
TEXT_STUB = ("YOUR ANSWER HERE",)


class MarkerError(ValueError):
    """The solution markers of a cell do not fit together."""


def replace_solution(source: str, stub: tuple[str, ...] = STUB) -> str | None:
    """The source with its solution replaced by the stub, or None if it holds no solution.

    Raises:
        MarkerError: if regions are nested, do not end, or end without a beginning.
    """
    lines: list[str] = []
    inside = found = False
    for line in source.split("\n"):
        if BEGIN in line:
            if inside:
                raise MarkerError(f"a second {BEGIN!r} inside a solution; add {END!r} before it")
            inside = found = True
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + part for part in stub]
        elif END in line:
            if not inside:
                raise MarkerError(f"{END!r} without {BEGIN!r} before it")
            inside = False
        elif not inside:
            lines.append(line)
    if inside:
        raise MarkerError(f"{BEGIN!r} without {END!r} after it")
    return "\n".join(lines) if found else None


def student_copy(book: Any) -> Any:
    """The notebook without solutions, outputs and execution traces.

    Raises:
        MarkerError: for bad markers, a solution in a cell that is not marked as one, or a marked cell
            without a solution.
    """
    import copy

    book = copy.deepcopy(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
            cell.metadata.pop("execution", None)
        marked = bool(cell.metadata.get("nbgrader", {}).get("solution"))
        try:
            stub = replace_solution(cell.source, STUB if cell.cell_type == "code" else TEXT_STUB)
        except MarkerError as error:
            raise MarkerError(f"cell {cell.id}: {error}") from None
        if marked != (stub is not None):
            what = (
                "is marked as a solution but holds none"
                if marked
                else "holds a solution but lacks nbgrader metadata"
            )
            raise MarkerError(f"cell {cell.id}: {what}")
        if stub is not None:
            cell.source = stub
    book.metadata.pop("widgets", None)
    return book


def make_student(root: Path = state.REPOSITORY, target: Path | None = None) -> list[Path]:
    """Write all student copies below ``target`` (default ``build/student``) and return their paths."""
    import nbformat

    target = target or root / "build" / "student"
    written: list[Path] = []
    for notebook in state.notebooks(root):
        try:
            book = student_copy(nbformat.read(notebook, as_version=4))
        except MarkerError as error:
            raise SystemExit(f"{notebook.relative_to(root)}: {error}") from None
        path = target / notebook.relative_to(root)
        state.write_atomically(path, nbformat.writes(book).encode() + b"\n")
        written.append(path)
    for path in sorted((target / "notebooks").rglob("*.ipynb")):
        if path not in written:
            path.unlink()
    return written


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write notebooks without solutions and outputs.")
    parser.add_argument("--root", type=Path, default=state.REPOSITORY, help="the repository")
    parser.add_argument("--output", type=Path, help="where to (default: build/student)")
    arguments = parser.parse_args()
    for path in make_student(arguments.root.resolve(), arguments.output):
        print(path)


if __name__ == "__main__":
    main()
