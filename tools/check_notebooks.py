"""Static checks of notebooks and pages: what a reader in Colab, a grader and a reviewer rely on.

    python tools/check_notebooks.py

Nothing is executed. ``executed_problems`` looks at the copies that ``tools/execute.py`` has made.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rlhf_lite.teaching.interactive import is_sentence
from tools import setup_cell, state
from tools.make_student import BEGIN, MarkerError, student_copy

# Numbers that may be typed into prose: a Python version, the usual level of an interval.
ALLOWED_NUMBERS = {"3.11", "3.12", "3.13", "95 %", "95%", "100 %", "100%", "50 %", "50%"}
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?:\s?%)?(?![\w.]*\d)|(?<![\w.])\d+\s?%")
MYST = {
    "a MyST role": re.compile(r"(?<!`)\{[a-zA-Z][\w:+-]*\}`[^`\n]"),
    "a MyST directive": re.compile(r"^\s*(```|~~~)\{", re.MULTILINE),
    "a colon fence": re.compile(r"^\s*:::", re.MULTILINE),
    "a MyST label": re.compile(r"^\([\w:-]+\)=\s*$", re.MULTILINE),
    "a substitution": re.compile(r"\{\{.*?\}\}"),
}
CODE_WIDTH = 88  # characters of code that a page shows beside its navigation; the rest is cut off
ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})", re.IGNORECASE)
PLOTS = re.compile(r"\bplt\.show\(|\bdisplay\(fig|\bshow_figure\(|\bpicture\(|\bslider\(")
EFFORT = re.compile(r"Difficulty: (\w+)\. Time: (\d+) minutes?\.")
CHECK_CALL = re.compile(r"""\bcheck\(\s*["'](\w+)["']\s*,\s*\w+""")
SOLUTION = {"grade": False, "solution": True, "locked": False, "schema_version": 3}
TEST = {"grade": True, "solution": False, "locked": True, "schema_version": 3}


def source_problems(notebook: Path, root: Path) -> list[str]:
    """What is wrong with one notebook in the sources, one sentence each."""
    import nbformat

    try:
        book = nbformat.read(notebook, as_version=4)
        nbformat.validate(book)
    except Exception as error:  # nbformat raises many kinds for a broken file
        return [f"is not a valid notebook: {error}"]
    problems = [*_frame(book), *_stripped(book), *_prose(book, root), *_figures(book), *_width(book)]
    try:
        student_copy(book)
    except MarkerError as error:
        return [*problems, str(error)]
    return [*problems, *_exercises(book, notebook.stem)]


def page_problems(page: Path) -> list[str]:
    """Numbers that are typed into a Markdown page of the book instead of being quoted from a run."""
    return typed_numbers(page.read_text(encoding="utf-8"))


def executed_problems(root: Path, notebook: Path) -> list[str]:
    """What is wrong with the outputs of an executed notebook: figures without alt text, widgets."""
    import nbformat

    if state.read_record(root, notebook) is None:
        return ["has no executed copy; run python tools/execute.py"]
    problems = []
    for cell in nbformat.read(state.executed_copy(root, notebook), as_version=4).cells:
        if cell.cell_type != "code":
            continue
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        if any(kind.startswith("image/") for kind in kinds) and not is_sentence(_alt(cell)):
            problems.append(
                f"cell {cell.id} shows a figure, but mystnb.image.alt is {_alt(cell)!r}, not a sentence"
            )
        if any("widget" in kind for kind in kinds):
            problems.append(f"cell {cell.id} shows a widget, which needs a content network")
    return problems


def typed_numbers(markdown: str) -> list[str]:
    """Decimals and percentages in prose; code, maths, links and front matter do not count."""
    text = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)
    text = re.sub(r"^(```|~~~).*?^\1\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|(?<!\\)\$[^$\n]+\$|\]\([^)]*\)|https?://\S+|CC BY 4\.0|Apache-2\.0", "", text)
    found = [match.group().strip() for match in NUMBER.finditer(text)]
    return [
        f"{number!r} is typed into the text; let code print it"
        for number in found
        if number not in ALLOWED_NUMBERS
    ]


def _frame(book: Any) -> list[str]:
    problems = []
    if (book.nbformat, book.nbformat_minor) != (4, 5):
        problems.append(
            f"has format {book.nbformat}.{book.nbformat_minor}; save it as 4.5, so that cells have ids"
        )
    kernel = book.metadata.get("kernelspec", {})
    if (kernel.get("name"), kernel.get("language")) != ("python3", "python"):
        problems.append(f"names the kernel {dict(kernel)}; use name 'python3', language 'python'")
    ids = [cell.get("id") for cell in book.cells]
    if len(set(ids)) != len(ids):
        problems.append("has two cells with one id")
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    if not code or code[0].source != setup_cell.SOURCE or code[0].metadata.get("tags") != setup_cell.TAGS:
        problems.append("does not begin with the set-up cell; python tools/setup_cell.py prints it (tags: "
                        f"{', '.join(setup_cell.TAGS)})")  # fmt: skip
    return problems


def _stripped(book: Any) -> list[str]:
    problems = []
    for cell in book.cells:
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None):
            problems.append(f"cell {cell.id} holds outputs; run nbstripout --keep-id")
        if "execution" in cell.metadata:
            problems.append(f"cell {cell.id} holds execution times; run nbstripout --keep-id")
    if "widgets" in book.metadata:
        problems.append("holds the state of widgets; run nbstripout --keep-id")
    return problems


def _prose(book: Any, root: Path) -> list[str]:
    known = set(re.findall(r"\d{4}\.\d{4,5}", (root / "book" / "references.bib").read_text(encoding="utf-8")))
    problems = []
    for cell in book.cells:
        if cell.cell_type != "markdown":
            continue
        for what, pattern in MYST.items():
            if match := pattern.search(_without_maths(cell.source)):
                problems.append(
                    f"cell {cell.id} holds {what} ({match.group().strip()!r}), which Colab shows raw"
                )
        problems += [f"cell {cell.id}: {text}" for text in typed_numbers(cell.source)]
        for paper in sorted(set(ARXIV.findall(cell.source)) - known):
            problems.append(f"cell {cell.id} links arXiv:{paper}, which is not in book/references.bib")
    return problems


def _without_maths(text: str) -> str:
    return re.sub(r"\$\$.*?\$\$|(?<!\\)\$[^$\n]+\$", "", text, flags=re.DOTALL)


def _figures(book: Any) -> list[str]:
    problems = []
    for cell in book.cells:
        draws = cell.cell_type == "code" and PLOTS.search(cell.source)
        if (draws or _alt(cell)) and not is_sentence(_alt(cell)):
            problems.append(
                f"cell {cell.id} draws a figure, but mystnb.image.alt is {_alt(cell)!r}, not a sentence"
            )
    return problems


def _width(book: Any) -> list[str]:
    problems = []
    for cell in book.cells:
        if cell.cell_type != "code" or cell.source == setup_cell.SOURCE:  # that cell is folded away
            continue
        long = [line.strip() for line in cell.source.split("\n") if len(line) > CODE_WIDTH]
        if long:
            problems.append(
                f"cell {cell.id} has {len(long)} lines of more than {CODE_WIDTH} characters, which the page "
                f"cuts off, first {long[0][:40]!r}"
            )
    return problems


def _alt(cell: Any) -> str:
    return str(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", ""))


def _exercises(book: Any, chapter: str) -> list[str]:
    """Solution cell after its text with difficulty and minutes, and before its locked, graded check."""
    from rlhf_lite.teaching.exercises import exercise_names, get_exercise

    problems: list[str] = []
    seen: list[str] = []
    known = [name for name in exercise_names() if get_exercise(name).chapter == chapter]
    marked = [cell.metadata["nbgrader"]["grade_id"] for cell in book.cells if "nbgrader" in cell.metadata]
    if len(set(marked)) != len(marked):
        problems.append(f"uses one nbgrader grade_id twice: {marked}")
    for before, cell, after in zip(book.cells, book.cells[1:], [*book.cells[2:], None], strict=False):
        if cell.cell_type != "code" or BEGIN not in cell.source:
            continue
        call = CHECK_CALL.search(after.source) if after is not None and after.cell_type == "code" else None
        if call is None or not _has(after, TEST) or after.metadata["nbgrader"].get("points", 0) <= 0:
            problems.append(
                f"cell {cell.id} is not followed by a locked nbgrader test with points that calls check()"
            )
            continue
        name = call.group(1)
        seen.append(name)
        if not _has(cell, SOLUTION):
            problems.append(f"cell {cell.id} lacks the nbgrader metadata of a solution, {SOLUTION}")
        if name not in known:
            problems.append(
                f"cell {after.id} checks {name!r}, which is not an exercise of {chapter}: {known}"
            )
            continue
        exercise, effort = get_exercise(name), EFFORT.search(before.source)
        wanted = f"Difficulty: {exercise.difficulty}. Time: {exercise.minutes} minutes."
        if (
            before.cell_type != "markdown"
            or effort is None
            or effort.group().replace("minute.", "minutes.") != wanted
        ):
            problems.append(f"the text before cell {cell.id} must say {wanted!r}")
    problems += [f"lacks the exercise {name!r} of this chapter" for name in known if name not in seen]
    return problems


def _has(cell: Any, wanted: dict[str, Any]) -> bool:
    found = cell.metadata.get("nbgrader", {})
    return "grade_id" in found and all(found.get(key) == value for key, value in wanted.items())


def main() -> None:
    """Command line: exit code 1 if there is a problem."""
    parser = argparse.ArgumentParser(description="Check notebooks and pages without executing anything.")
    parser.add_argument("--root", type=Path, default=state.REPOSITORY, help="the repository")
    root = parser.parse_args().root.resolve()
    problems = [
        f"{notebook.relative_to(root)}: {text}"
        for notebook in state.notebooks(root)
        for text in source_problems(notebook, root)
    ]
    problems += [
        f"{p.relative_to(root)}: {text}"
        for p in sorted((root / "book").glob("*.md"))
        for text in page_problems(p)
    ]
    print("\n".join(problems) if problems else "Notebooks and pages are in order.")
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
