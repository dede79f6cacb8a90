"""The schedule of the chapters: what the notebooks say they need comes first, and cores are kept busy."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from rlhf_lite.teaching import book_runs
from tools import schedule, state

CHAPTERS = state.notebooks(state.REPOSITORY)
CALL = re.compile(r"\b(require|remake)\((\w+), ([^)]*)\)")
CAI_RUN = re.compile(r"(\w+) = cai_chapter_run\(\)")


def calls() -> Iterator[tuple[str, str, set[str]]]:
    """Chapter, what it does with parts of a shared run (require, remake), and which parts."""
    for chapter in CHAPTERS:
        cells = nbformat.read(chapter, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        constitutional = CAI_RUN.findall(code)
        for verb, run, parts in CALL.findall(code):
            names = {"cai"} if run in constitutional else set(re.findall(r"\w+", parts))
            yield chapter.stem[:2], verb, names


def test_the_table_says_what_the_notebooks_say() -> None:
    makers = {part: chapter for chapter, verb, parts in calls() if verb == "remake" for part in parts}
    makers["cai"] = "15"  # it requires before the reader's eyes
    assert set(makers) == {*book_runs.BUILT_ON, "cai"}
    needed: dict[str, set[str]] = {}
    for chapter, _, parts in calls():
        needed.setdefault(chapter, set()).update(makers[part] for part in parts)
    wanted = {chapter: others - {chapter} for chapter, others in needed.items() if others - {chapter}}
    assert {chapter: set(others) for chapter, others in schedule.NEEDS.items()} == wanted


def test_who_forgets_a_part_comes_before_who_makes_it() -> None:
    """Chapter 3 replaces SFT, and with it what stands on SFT: nobody may be making that at the time."""
    makers = {part: chapter for chapter, verb, parts in calls() if verb == "remake" for part in parts}
    for part, forgotten in book_runs.BUILT_ON.items():
        for other in forgotten:
            assert makers[part] in schedule.NEEDS[makers[other]]


def test_the_longest_chain_of_this_book() -> None:
    chain = [path.stem[:2] for path in schedule.longest_chain(CHAPTERS)]
    assert chain == ["03", "05", "09", "12", "17"]


def paths(*names: str) -> list[Path]:
    return [Path(f"{name}_x.ipynb") for name in names]


def test_needs_are_known_by_number_and_only_among_the_given() -> None:
    nine, three, other, namesake = paths("09", "03", "one", "03_again")
    assert schedule.needs([nine, three, other, namesake]) == {
        nine: [three, namesake], three: [], other: [], namesake: []
    }  # fmt: skip


def test_what_others_wait_for_starts_first_and_needs_are_done() -> None:
    a, b, c, d = paths("a", "b", "c", "d")
    needed = {a: [], b: [], c: [d], d: []}
    done: list[Path] = []
    lock, now, most = threading.Lock(), set(), 0

    def work(path: Path) -> str:
        nonlocal most
        with lock:
            assert all(other in done for other in needed[path])
            now.add(path)
            most = max(most, len(now))
        time.sleep(0.05)
        with lock:
            now.remove(path)
            done.append(path)
        return path.stem

    seconds = {a: 10.0, b: 30.0, c: 25.0, d: 10.0}
    results = schedule.side_by_side(work, needed, seconds, 1, lambda: None)
    assert done == [d, b, c, a]  # 35 seconds until c has ended, 30, 25, 10
    assert list(results) == [a, b, c, d] and results[a] == "a_x"
    assert most == 1
    done.clear()
    schedule.side_by_side(work, needed, seconds, 3, lambda: None)
    assert most == 3 and set(done) == set(needed)


def test_an_error_stops_the_rest() -> None:
    a, b, c = paths("a", "b", "c")
    stopped = threading.Event()
    begun: list[Path] = []

    def work(path: Path) -> None:
        begun.append(path)
        if path == a:
            raise RuntimeError("broken on purpose")
        assert stopped.wait(30)

    with pytest.raises(RuntimeError, match="on purpose"):
        schedule.side_by_side(work, {a: [], b: [], c: []}, {a: 3.0, b: 2.0, c: 1.0}, 2, stopped.set)
    assert c not in begun


@pytest.mark.parametrize(("cores", "gigabytes", "expected"), [(2, 16, 2), (64, 12.5, 3), (4, 1, 1)])
def test_workers(monkeypatch: pytest.MonkeyPatch, cores: int, gigabytes: float, expected: int) -> None:
    """As many as cores, as far as memory goes, and at least one."""
    memory = type("Memory", (), {"available": gigabytes * 1e9})
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert schedule.workers() == expected
