"""A tiny repository with its own package and one notebook, to try the book's tools on."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest

from tools import execute, setup_cell, state

KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
GRADED = {"schema_version": 3, "task": False}
SOLUTION = """\
def bradley_terry(score_a, score_b):
    \"\"\"The probability that a is preferred to b.\"\"\"
    ### BEGIN SOLUTION
    import torch

    return torch.sigmoid(torch.tensor(score_a - score_b, dtype=torch.float64))
    ### END SOLUTION"""
CHECK = """\
from rlhf_lite.teaching.exercises import check

check("bradley_terry", bradley_terry)"""


def make_notebook(
    *code: str, exercise: bool = False, text: str = "# A chapter\n\nSome words."
) -> nbformat.NotebookNode:
    """A notebook of the book's form: a head, the set-up cell, the given code cells, and an exercise."""
    new = nbformat.v4
    cells = [new.new_markdown_cell(text, id="head"), new.new_code_cell(setup_cell.SOURCE, id="setup")]
    cells[1].metadata["tags"] = list(setup_cell.TAGS)
    cells += [new.new_code_cell(source, id=f"code-{i}") for i, source in enumerate(code)]
    if exercise:
        effort = "## Exercise\n\n*Difficulty: easy. Time: 5 minutes.*"
        solution, check = new.new_code_cell(SOLUTION, id="solution"), new.new_code_cell(CHECK, id="check")
        solution.metadata["nbgrader"] = GRADED | dict(grade=False, solution=True, locked=False, grade_id="bt")
        check.metadata["nbgrader"] = GRADED | dict(
            grade=True, solution=False, locked=True, points=3, grade_id="check-bt"
        )
        cells += [new.new_markdown_cell(effort, id="exercise"), solution, check]
    return new.new_notebook(cells=cells, metadata=KERNEL)


def write_notebook(path: Path, book: nbformat.NotebookNode) -> Path:
    """Write a notebook as it would be committed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


def record_by_hand(root: Path, notebook: Path) -> None:
    """An executed copy of the present state, without running anything."""
    working = root / "by_hand.ipynb"
    working.write_bytes(notebook.read_bytes())
    before = state.notebook_state(notebook, state.shared_state(root))
    execute._keep_result(root, notebook, working, before, [1.0], (1.0, 1.0))


@pytest.fixture
def tiny_repo(tmp_path: Path) -> Path:
    """A repository whose package says what the answer is, and whose notebook prints it."""
    root = tmp_path / "repo"
    (root / "book" / "_static").mkdir(parents=True)
    # All of it, for the notebook helpers: which modules they import is their own business.
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(state.REPOSITORY / "rlhf_lite", root / "rlhf_lite", ignore=ignored)
    (root / "rlhf_lite" / "__init__.py").write_text("ANSWER = 41\n")
    (root / "requirements.lock").write_text("torch==2.13.0\n")
    shutil.copy(state.REPOSITORY / "_config.yml", root)
    shutil.copytree(state.REPOSITORY / "book" / "_static", root / "book" / "_static", dirs_exist_ok=True)
    shutil.copy(state.REPOSITORY / "book" / "references.bib", root / "book")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n  - file: notebooks/one\n  - file: book/timings\n"
    )
    (root / "book" / "index.md").write_text(
        "# Tiny\n\nThe answer is {glue:text}`../notebooks/one.ipynb::answer:d`.\n\n"
        "See {cite:t}`hutto2014`, and $a^2$.\n\n```{bibliography}\n```\n"
    )
    code = "from rlhf_lite import ANSWER\n"
    code += "from rlhf_lite.teaching.notebook import record\n\nrecord('answer', ANSWER)"
    write_notebook(root / "notebooks" / "one.ipynb", make_notebook(code))
    return root
