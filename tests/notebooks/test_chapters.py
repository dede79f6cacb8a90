"""Every chapter and page of the book: static checks, and one execution that `make book` then renders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import pytest

from tools import check_notebooks, schedule, state
from tools.execute import execute_one
from tools.make_student import make_student

ROOT = state.REPOSITORY
CHAPTERS = state.notebooks(ROOT)
PAGES = sorted((ROOT / "book").glob("*.md"))
CHAIN = schedule.longest_chain(CHAPTERS)


def test_there_is_a_chapter() -> None:
    assert CHAPTERS, "notebooks/ holds no chapter"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_is_in_order(chapter: Path) -> None:
    assert check_notebooks.source_problems(chapter, ROOT) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_no_number_is_typed_into_a_page(page: Path) -> None:
    assert check_notebooks.page_problems(page) == []


def test_every_chapter_is_in_the_table_of_contents() -> None:
    contents = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    for chapter in CHAPTERS:
        assert chapter.relative_to(ROOT).with_suffix("").as_posix() in contents


@pytest.fixture(scope="module")
def student_copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    make_student(ROOT, folder)
    return folder


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_student_copy_holds_no_solution_and_no_output(chapter: Path, student_copies: Path) -> None:
    text = (student_copies / chapter.relative_to(ROOT)).read_text(encoding="utf-8")
    assert "BEGIN SOLUTION" not in text
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []


def _executions() -> list[object]:
    """The chapters in the order of their start: those that must wait for one another, then the others.

    Each group runs in one process, one after the other; see tests/conftest.py.
    """
    order = [*CHAIN, *sorted(set(CHAPTERS) - set(CHAIN), key=lambda path: (not _is_needed(path), path))]
    return [
        pytest.param(
            chapter,
            id=chapter.stem,
            marks=pytest.mark.xdist_group("chapters-in-turn" if chapter in CHAIN else chapter.stem),
        )
        for chapter in order
    ]


def _is_needed(chapter: Path) -> bool:
    return any(chapter in earlier for earlier in schedule.needs(CHAPTERS).values())


@pytest.mark.notebooks
@pytest.mark.parametrize("chapter", _executions())
def test_chapter_runs(chapter: Path, record_property: Callable[[str, object], None]) -> None:
    """Executed now, unless an execution of the present sources exists."""
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in CHAPTERS}
    result = execute_one(ROOT, chapter)
    record_property("chapter", astuple(result))
    after = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in CHAPTERS}
    assert before == after, "an execution wrote to a source"
    assert not result.error, result.error
    assert check_notebooks.executed_problems(ROOT, chapter) == []
