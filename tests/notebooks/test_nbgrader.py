"""nbgrader grades the book's exercises: each earns its points by its own solution, and by nothing else.

All exercises of all chapters are graded as one assignment, for starting nbgrader takes longer than they do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tools import setup_cell, state

pytest.importorskip("nbgrader", reason="nbgrader is not installed (extra 'teach')")

CHAPTERS = state.notebooks(state.REPOSITORY)
# A well-known wrong answer: no probability, but who has won.
WRONG = "def bradley_terry(score_a, score_b):\n    return 1.0 if score_a > score_b else 0.0"


def all_exercises() -> nbformat.NotebookNode:
    """One notebook with the exercises of all chapters; names of one chapter are unknown in the next."""
    new = nbformat.v4
    cells = [new.new_code_cell(setup_cell.SOURCE)]
    for chapter in CHAPTERS:
        book = nbformat.read(chapter, as_version=4)
        for cell in book.cells:
            if "nbgrader" in cell.metadata:
                cell.id = f"{chapter.stem[:2]}-{cell.id}"
                cells.append(cell)
        cells.append(new.new_code_cell("%reset -f"))
    return new.new_notebook(cells=cells, metadata=book.metadata)


def solutions(book: nbformat.NotebookNode) -> dict[str, str]:
    """Sources of the solution cells by grade id, in order."""
    return {cell.metadata.nbgrader.grade_id: cell.source for cell in marked(book, "solution")}


def marked(book: nbformat.NotebookNode, kind: str) -> Iterator[nbformat.NotebookNode]:
    yield from (cell for cell in book.cells if cell.metadata.get("nbgrader", {}).get(kind))


def handed_in(released: Path, answers: dict[str, str]) -> nbformat.NotebookNode:
    """The released copy with answers written into its gaps."""
    book = nbformat.read(released, as_version=4)
    for cell in marked(book, "solution"):
        assert "raise NotImplementedError()" in cell.source
        cell.source = answers.get(cell.metadata.nbgrader.grade_id, cell.source)
    return book


@pytest.fixture
def this_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(state.REPOSITORY))
    # nbgrader calls `alembic` by name: it must be found where the environment was not activated, too.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.delenv("RLHF_LITE_EXERCISES", raising=False)


@pytest.mark.slow
def test_every_exercise_earns_its_points_by_its_own_solution(tmp_path: Path, this_clone: None) -> None:
    """One student solves every second exercise, another one the others: each counts once and fails once."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    book = all_exercises()
    answers = solutions(book)
    exercises, checks = list(answers), [cell.metadata.nbgrader for cell in marked(book, "grade")]
    assert len(exercises) == len(checks) >= 60, "each exercise has one check"
    possible = {check.grade_id: float(check.points) for check in checks}
    assert min(possible.values()) > 0

    solved = {"odd": set(exercises[::2]), "even": set(exercises[1::2])}
    work = {student: {name: answers[name] for name in names} for student, names in solved.items()}
    assert "bradley_terry" in solved["odd"]
    work["even"]["bradley_terry"] = WRONG

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
        for student, answer in work.items():
            path = course / "submitted" / student / "ps1" / "ps1.ipynb"
            path.parent.mkdir(parents=True)
            nbformat.write(handed_in(released, answer), path)
            report = api.autograde("ps1", student)
            assert report["success"], report.get("log", report)
        with api.gradebook as gradebook:
            for student, names in solved.items():
                grades = gradebook.find_submission_notebook("ps1", "ps1", student).grades
                earned = {grade.cell.name: grade.score for grade in grades}
                wanted = {
                    check.grade_id: possible[check.grade_id] if name in names else 0.0
                    for name, check in zip(exercises, checks, strict=True)
                }
                assert earned == wanted, student
    finally:
        os.chdir(here)
