"""The order of the tests: with a process per core, long groups first, and the site after all chapters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest as ordering


class Item:
    """What the hook asks of a test."""

    def __init__(self, nodeid: str, *marks: Any) -> None:
        self.nodeid, self.path = nodeid, ordering.TESTS.parent / nodeid.partition("::")[0]
        self.marks = {mark.mark.name: mark.mark for mark in marks}

    def get_closest_marker(self, name: str) -> Any:
        return self.marks.get(name)

    def add_marker(self, mark: Any) -> None:
        self.marks[mark.mark.name] = mark.mark


def in_order(processes: bool) -> tuple[list[str], list[Item]]:
    mark = pytest.mark
    items = [
        Item("tests/a/test_a.py::quick"),
        Item("tests/b/test_site.py::site", mark.site),
        Item("tests/c/test_c.py::before"),
        Item("tests/c/test_c.py::slow", mark.slow),
        Item("tests/d/test_d.py::static"),
        Item("tests/d/test_d.py::chapter3", mark.notebooks, mark.xdist_group("in-turn")),
        Item("tests/d/test_d.py::chapter1", mark.notebooks, mark.xdist_group("one")),
        Item("tests/d/test_d.py::chapter5", mark.notebooks, mark.xdist_group("in-turn")),
    ]
    config = SimpleNamespace(workerinput={}) if processes else SimpleNamespace()
    ordering.pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]  # stand-ins
    return [item.nodeid.partition("::")[2] for item in items], items


def test_in_one_process_what_is_quick_comes_first() -> None:
    names, items = in_order(processes=False)
    assert names[:3] == ["quick", "before", "static"]
    assert names[3:] == ["slow", "chapter3", "chapter1", "chapter5", "site"]


def test_with_a_process_per_core_what_takes_long_begins_first() -> None:
    names, items = in_order(processes=True)
    assert names == ["chapter3", "chapter1", "chapter5", "before", "slow", "site", "quick", "static"]
    groups = [str(item.marks["xdist_group"].args[0]) for item in items]
    assert groups == ["in-turn", "one", "in-turn", *["tests/c/test_c.py"] * 2, "tests/b/test_site.py",
                      "tests/a/test_a.py", "tests/d/test_d.py"]  # fmt: skip


def test_a_name_that_differs_between_processes_is_refused() -> None:
    item = Item("tests/a/test_a.py::test[<object object at 0x7f00>]")
    with pytest.raises(pytest.UsageError, match="give ids"):
        ordering.pytest_collection_modifyitems(SimpleNamespace(), [item])  # type: ignore[arg-type, list-item]  # stand-ins
