"""Every chapter and page of the book: static checks, and one execution that `make book` then renders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tools import check_notebooks, state
from tools.execute import Execution, execute_all
from tools.make_student import make_student

ROOT = state.REPOSITORY
CHAPTERS = state.notebooks(ROOT)
PAGES = sorted((ROOT / "book").glob("*.md"))


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


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_student_copy_holds_no_solution(chapter: Path, tmp_path: Path) -> None:
    make_student(ROOT, tmp_path)
    text = (tmp_path / chapter.relative_to(ROOT)).read_text(encoding="utf-8")
    assert "BEGIN SOLUTION" not in text
    assert '"outputs": []' in text


@pytest.fixture(scope="module")
def executed() -> dict[str, Execution]:
    """Each chapter, executed now unless an execution of the present sources exists."""
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in CHAPTERS}
    results = {result.name: result for result in execute_all(ROOT)}
    after = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in CHAPTERS}
    assert before == after, "an execution wrote to a source"
    return results


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_runs(chapter: Path, executed: dict[str, Execution]) -> None:
    result = executed[chapter.relative_to(ROOT / "notebooks").as_posix()]
    assert not result.error, result.error
    assert check_notebooks.executed_problems(ROOT, chapter) == []
