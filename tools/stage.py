"""Copy the book's sources to ``stage/``, the folder in which the site is built.

    python tools/stage.py

Notebooks are staged as their executed copies where these are fresh, with the gap of each exercise shown above
its folded solution. Files that did not change keep their time stamp, so that a second build is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import state
from tools.make_student import BEGIN, END, replace_solution
from tools.measured import lab_page, speed_page
from tools.own_data import own_data_parts
from tools.recorded import recorded_page

SOURCES = ("_config.yml", "_toc.yml", "book", "notebooks")
PAGES = {"recorded": recorded_page, "optimum": lab_page, "speed": speed_page}


def stage(root: Path = state.REPOSITORY, *, only_fresh: bool = True) -> Path:
    """Bring ``root/stage`` up to date with the sources, and return its path.

    Args:
        root: the repository.
        only_fresh: stage an executed copy only if it belongs to the present sources. The build passes
            False right after executing: an edit made in between must not leave a chapter without results.
    """
    target = root / "stage"
    wanted: set[Path] = {target / "book" / "timings.md"}  # the build writes it
    for source in _sources(root):
        copy = target / source.relative_to(root)
        wanted.add(copy)
        _write_if_changed(copy, source.read_bytes())
    shared = state.shared_state(root)
    for notebook in state.notebooks(root):
        copy = target / notebook.relative_to(root)
        wanted.add(copy)
        _write_if_changed(copy, _site_copy(root, notebook, shared, only_fresh))
    made = {f"book/{name}.md": page(root) for name, page in PAGES.items()} | own_data_parts(root)
    for name, text in made.items():
        wanted.add(target / name)
        _write_if_changed(target / name, text.encode())
    for path in sorted(target.rglob("*")):
        if path.is_file() and path not in wanted:
            path.unlink()
    return target


def _sources(root: Path) -> list[Path]:
    found: list[Path] = []
    for name in SOURCES:
        path = root / name
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            found += [
                p
                for p in sorted(path.rglob("*"))
                if p.is_file() and p.suffix != ".ipynb" and _counts(p, root)
            ]
        else:
            raise SystemExit(f"stage: {name} is missing in {root}; run this from a clone of the repository")
    return found


def _counts(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return not any(part.startswith(".") or part in state.SKIPPED_FOLDERS for part in parts)


def _site_copy(root: Path, notebook: Path, shared: str, only_fresh: bool) -> bytes:
    import nbformat

    usable = state.is_fresh(root, notebook, shared) if only_fresh else state.read_record(root, notebook)
    source = state.executed_copy(root, notebook) if usable else notebook
    book = nbformat.read(source, as_version=4)
    book.cells = [part for cell in book.cells for part in _with_stub(cell)]
    return nbformat.writes(book).encode()


def _with_stub(cell: Any) -> list[Any]:
    """A solution cell becomes its gap, as plain text, and the folded solution; other cells stay."""
    import nbformat

    stub = replace_solution(cell.source) if cell.cell_type == "code" else None
    if stub is None:
        return [cell]
    text = f"Your turn: fill the gap.\n\n```python\n{stub}\n```"
    gap = nbformat.v4.new_markdown_cell(text, id=f"gap-{cell.id}"[:64])
    cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), "hide-input"})
    cell.metadata.setdefault("mystnb", {})["code_prompt_show"] = "Show the solution"
    cell.metadata["mystnb"]["code_prompt_hide"] = "Hide the solution"
    cell.source = _without_markers(cell.source)
    return [gap, cell]


def _without_markers(source: str) -> str:
    return "\n".join(line for line in source.split("\n") if BEGIN not in line and END not in line)


def _write_if_changed(path: Path, data: bytes) -> None:
    if not path.is_file() or path.read_bytes() != data:
        state.write_atomically(path, data)


if __name__ == "__main__":
    print(stage())
