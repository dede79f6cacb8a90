"""Staging and building: what a reader sees comes from an execution, and a warning fails the build."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.tools.conftest import make_notebook, record_by_hand, write_notebook
from tools import state
from tools.build_book import BuildFailed, build, is_current
from tools.stage import stage


@pytest.mark.slow
def test_build_and_its_failures(tiny_repo: Path) -> None:
    """One story, because a build takes seconds: a site, then bad references, then a broken chapter."""
    page = build(tiny_repo, show=False)
    site = page.parent
    assert "41" in (site / "book" / "index.html").read_text()
    assert "notebooks/one.html" in (site / "book" / "timings.html").read_text()
    assert is_current(tiny_repo)
    entry = page.read_text()
    assert "url=book/index.html" in entry and '<a href="book/index.html">' in entry
    assert (site / "_static" / "mathjax" / "tex-chtml.js").is_file()
    assert not (site / "_static" / "mathjax" / "sre").exists()
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 15e6

    index = tiny_repo / "book" / "index.md"
    good = index.read_text()
    index.write_text(good + "\nA {ref}`no-label`, and {glue:text}`../notebooks/one.ipynb::no_key:d`.\n")
    assert not is_current(tiny_repo)
    with pytest.raises(BuildFailed) as failure:
        build(tiny_repo, show=False)
    assert "no-label" in str(failure.value) and "no_key" in str(failure.value)
    assert not page.exists(), "a failed build must not leave a page that looks finished"
    with pytest.raises(BuildFailed, match="no-label"):  # the same again: a warning is not said only once
        build(tiny_repo, show=False)
    index.write_text(good)

    source = write_notebook(tiny_repo / "notebooks" / "one.ipynb", make_notebook("1 / 0")).read_bytes()
    with pytest.raises(BuildFailed, match="ZeroDivisionError"):
        build(tiny_repo, show=False)
    assert (tiny_repo / "notebooks" / "one.ipynb").read_bytes() == source


def test_stage_mirrors_the_sources(tiny_repo: Path) -> None:
    (tiny_repo / "notebooks" / "picture.png").write_bytes(b"png")
    (tiny_repo / "notebooks" / ".ipynb_checkpoints").mkdir()
    (tiny_repo / "notebooks" / ".ipynb_checkpoints" / "one.ipynb").write_text("{}")
    staged = stage(tiny_repo)
    assert (staged / "notebooks" / "picture.png").read_bytes() == b"png"
    assert not (staged / "notebooks" / ".ipynb_checkpoints").exists()
    times = {path: path.stat().st_mtime_ns for path in staged.rglob("*") if path.is_file()}
    (tiny_repo / "notebooks" / "picture.png").unlink()
    stage(tiny_repo)
    assert not (staged / "notebooks" / "picture.png").exists()
    kept = [path for path in times if path.is_file()]
    assert all(path.stat().st_mtime_ns == times[path] for path in kept), (
        "an unchanged file keeps its time stamp"
    )


def test_stage_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"_config\.yml is missing"):
        stage(tmp_path)


def test_exercise_shows_its_gap_above_the_folded_solution(tiny_repo: Path) -> None:
    notebook = write_notebook(tiny_repo / "notebooks" / "one.ipynb", make_notebook(exercise=True))
    record_by_hand(tiny_repo, notebook)
    cells = nbformat.read(stage(tiny_repo) / "notebooks" / "one.ipynb", as_version=4).cells
    gap, solution, check = cells[-3:]
    assert gap.cell_type == "markdown" and "raise NotImplementedError()" in gap.source
    assert "sigmoid" not in gap.source
    assert "hide-input" in solution.metadata.tags
    assert "SOLUTION" not in solution.source and "sigmoid" in solution.source
    assert "check(" in check.source
    assert len({cell.id for cell in cells}) == len(cells)
    assert state.is_fresh(tiny_repo, notebook)
