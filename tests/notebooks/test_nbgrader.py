"""nbgrader grades the book's exercises: full points for the solutions, none for the student copy."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from tests.tools.conftest import make_notebook
from tools import state

pytest.importorskip("nbgrader", reason="nbgrader is not installed (extra 'teach')")

CHAPTERS = state.notebooks(state.REPOSITORY)
WRONG = "    return 1.0 if score_a > score_b else 0.0"


def only_exercises(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The set-up cell and what nbgrader knows about: training a model is not what is graded."""
    first = next(cell for cell in book.cells if cell.cell_type == "code")
    book.cells = [cell for cell in book.cells if cell is first or "nbgrader" in cell.metadata]
    return book


def grade(
    tmp_path: Path, book: nbformat.NotebookNode, answers: dict[str, nbformat.NotebookNode]
) -> dict[str, tuple[float, float]]:
    """Points and possible points of each student, through nbgrader's own commands."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    course = tmp_path / "course"
    source = course / "source" / "ps1" / "ps1.ipynb"
    source.parent.mkdir(parents=True)
    nbformat.write(book, source)
    settings = Config()
    settings.CourseDirectory.root = str(course)
    settings.CourseDirectory.db_url = f"sqlite:///{course / 'gradebook.db'}"
    api = NbGraderAPI(config=settings)
    here = os.getcwd()
    try:
        report = api.generate_assignment("ps1")
        assert report["success"], report.get("log", report)
        released = course / "release" / "ps1" / "ps1.ipynb"
        for student, answer in answers.items():
            handed_in = course / "submitted" / student / "ps1" / "ps1.ipynb"
            handed_in.parent.mkdir(parents=True)
            shutil.copy(released, handed_in)
            _fill_in(handed_in, answer)
            report = api.autograde("ps1", student)
            assert report["success"], report.get("log", report)
        with api.gradebook as gradebook:
            return {
                student: (found.score, found.max_score)
                for student in answers
                for found in [gradebook.find_submission("ps1", student)]
            }
    finally:
        os.chdir(here)


def _fill_in(handed_in: Path, answer: nbformat.NotebookNode) -> None:
    """Write the sources of the solution cells of ``answer`` into the released copy, by grade id."""
    book = nbformat.read(handed_in, as_version=4)
    theirs = {
        cell.metadata["nbgrader"]["grade_id"]: cell.source
        for cell in answer.cells
        if "nbgrader" in cell.metadata
    }
    for cell in book.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            assert "raise NotImplementedError()" in cell.source
            cell.source = theirs.get(cell.metadata["nbgrader"]["grade_id"], cell.source)
    nbformat.write(book, handed_in)


@pytest.fixture(autouse=True)
def this_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(state.REPOSITORY))
    # nbgrader calls `alembic` by name: it must be found where the environment was not activated, too.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.delenv("RLHF_LITE_EXERCISES", raising=False)


def test_solved_wrong_and_unsolved(tmp_path: Path) -> None:
    book = only_exercises(make_notebook(exercise=True))
    wrong = only_exercises(make_notebook(exercise=True))
    wrong.cells[1].source = f"def bradley_terry(score_a, score_b):\n{WRONG}"
    nothing = nbformat.v4.new_notebook()
    points = grade(tmp_path, book, {"solved": book, "wrong": wrong, "unsolved": nothing})
    assert points == {"solved": (3.0, 3.0), "wrong": (0.0, 3.0), "unsolved": (0.0, 3.0)}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_exercises_of_a_chapter(chapter: Path, tmp_path: Path) -> None:
    book = only_exercises(nbformat.read(chapter, as_version=4))
    if len(book.cells) == 1:
        pytest.skip("this chapter has no exercises")
    points = grade(tmp_path, book, {"solved": book, "unsolved": nbformat.v4.new_notebook()})
    possible = sum(cell.metadata.get("nbgrader", {}).get("points", 0) for cell in book.cells)
    assert points == {"solved": (possible, possible), "unsolved": (0.0, possible)}
