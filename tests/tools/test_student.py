"""Student copies: no solutions, no outputs, the same stub and rules as nbgrader."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import nbformat
import pytest

from tests.tools.conftest import SOLUTION, make_notebook, write_notebook
from tools.make_student import MarkerError, make_student, replace_solution, student_copy


def test_solution_is_replaced_by_the_stub_at_its_indent() -> None:
    assert replace_solution(SOLUTION) == (
        "def bradley_terry(score_a, score_b):\n"
        '    """The probability that a is preferred to b."""\n'
        "    # YOUR CODE HERE\n"
        "    raise NotImplementedError()"
    )
    assert replace_solution("x = 1") is None


@pytest.mark.parametrize(
    "source",
    [
        "### BEGIN SOLUTION\n1",
        "1\n### END SOLUTION",
        "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION\n### END SOLUTION",
    ],
    ids=["no end", "no beginning", "nested"],
)
def test_bad_markers_are_errors(source: str) -> None:
    with pytest.raises(MarkerError):
        replace_solution(source)


def test_same_as_nbgrader() -> None:
    """The stub and its place must be those that nbgrader itself would make."""
    nbgrader = pytest.importorskip(
        "nbgrader.preprocessors", reason="nbgrader is not installed (extra 'teach')"
    )
    sources = [
        SOLUTION,
        "a = 1\n### BEGIN SOLUTION\nb = 2\n### END SOLUTION\nc = 3",
        "if True:\n\t### BEGIN SOLUTION\n\tx\n\t### END SOLUTION",
    ]
    for source in sources:
        book = make_notebook(exercise=True)
        book.cells[-2].source = source
        theirs, _ = nbgrader.ClearSolutions().preprocess(book, {})
        assert replace_solution(source) == theirs.cells[-2].source


ANSWERS = [
    "Why?\n\n### BEGIN SOLUTION\nBecause 42.\n### END SOLUTION\n\nGo on.",
    "Why?\n\n<!-- BEGIN SOLUTION -->\nBecause 42.\n<!-- END SOLUTION -->",
]


@pytest.mark.parametrize("source", ANSWERS)
def test_a_written_solution_is_replaced_too(source: str) -> None:
    book = make_notebook(exercise=True)
    answer = nbformat.v4.new_markdown_cell(source, metadata=dict(book.cells[-2].metadata))
    answer.metadata["nbgrader"] = {**answer.metadata["nbgrader"], "grade_id": "why"}
    book.cells.append(answer)
    text = student_copy(book).cells[-1].source
    assert "42" not in text and "SOLUTION" not in text and "YOUR ANSWER HERE" in text
    nbgrader = pytest.importorskip(
        "nbgrader.preprocessors", reason="nbgrader is not installed (extra 'teach')"
    )
    assert nbgrader.ClearSolutions().preprocess(deepcopy(book), {})[0].cells[-1].source == text
    del answer.metadata["nbgrader"]
    with pytest.raises(MarkerError, match="lacks nbgrader metadata"):
        student_copy(book)


def test_metadata_and_markers_must_agree() -> None:
    book = make_notebook(exercise=True)
    del book.cells[-2].metadata["nbgrader"]
    with pytest.raises(MarkerError, match="lacks nbgrader metadata"):
        student_copy(book)
    book = make_notebook(exercise=True)
    book.cells[-2].source = "pass"
    with pytest.raises(MarkerError, match="holds none"):
        student_copy(book)


def test_copies_are_written_without_outputs_and_without_solutions(tiny_repo: Path) -> None:
    book = make_notebook("print(1)", exercise=True)
    book.cells[2].outputs = [nbformat.v4.new_output("stream", text="secret result")]
    book.cells[2].execution_count = 5
    source = write_notebook(tiny_repo / "notebooks" / "part" / "two.ipynb", book)
    before = source.read_bytes()
    written = make_student(tiny_repo)
    copy = tiny_repo / "build" / "student" / "notebooks" / "part" / "two.ipynb"
    assert copy in written
    text = copy.read_text()
    assert "secret result" not in text and "sigmoid" not in text and "SOLUTION" not in text
    assert "raise NotImplementedError()" in text
    assert source.read_bytes() == before
    assert [c.id for c in nbformat.read(copy, as_version=4).cells] == [c.id for c in book.cells]

    source.unlink()
    make_student(tiny_repo)
    assert not copy.exists(), "the copy of a removed notebook is removed"
