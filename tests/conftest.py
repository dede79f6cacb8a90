"""What holds for every test: no network, no window, quick tests first."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

# Before anything imports the libraries that read them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One thread in each process: `make test` starts a process per core. Sums come out the same everywhere, too.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

TESTS = Path(__file__).parent
LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}
# Start to end. In one process what is quick comes first; the site needs what the notebooks made.
IN_TURN = ("", "slow", "notebooks", "site")
# With a process per core what takes long begins first, so that none is left working at the end. The slow
# tests lie between the chapters and the site, so that all chapters have ended when the site is built.
SIDE_BY_SIDE = ("notebooks", "slow", "site", "")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What ``-n auto`` means."""
    from tools import schedule

    return schedule.workers()


@pytest.hookimpl(tryfirst=True)  # pytest-xdist writes the groups into the names of the tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests, and with pytest-xdist group them.

    A group runs in one process, in order. Unless a test names another group, its file is its group, so that
    what the file shares is made once.
    """
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: the name differs between processes; give ids by hand")
    if not hasattr(config, "workerinput"):
        items.sort(key=lambda item: IN_TURN.index(kind(item)))
        return
    ranks: dict[str, int] = {}
    groups: list[str] = []
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        group = str(mark.args[0]) if mark else item.path.relative_to(TESTS.parent).as_posix()
        if mark is None:
            item.add_marker(pytest.mark.xdist_group(group))
        groups.append(group)
        ranks[group] = min(ranks.get(group, len(SIDE_BY_SIDE)), SIDE_BY_SIDE.index(kind(item)))
    ordered = sorted(zip(groups, items, strict=True), key=lambda pair: ranks[pair[0]])
    items[:] = [item for _, item in ordered]


def pytest_report_header(config: pytest.Config) -> str:
    """What is run, and how."""
    what = config.getoption("markexpr") or "units, parity, mutations, chapters, site"
    processes = len(config.getoption("tx", None) or []) or 1
    return f"tests: {what}; {processes} at a time, with one thread each"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The seconds of each chapter, as ``make book`` prints them."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, [])]
    chapters = [value for report in reports for key, value in report.user_properties if key == "chapter"]
    if chapters:
        from tools.execute import Execution, print_table

        print_table(sorted((Execution(*chapter) for chapter in chapters), key=lambda result: result.name))


def kind(item: pytest.Item) -> str:
    """The marker that decides when a test runs; empty for a quick one."""
    return next((name for name in SIDE_BY_SIDE if name and item.get_closest_marker(name)), "")


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """A connection to another machine is an error: a test that needs one cannot be repeated."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> Any:
        remote = isinstance(address, tuple) and address[0] not in LOCAL
        if remote and self.type == socket.SOCK_STREAM:
            raise RuntimeError(f"a test tried to reach {address[0]}:{address[1]}; tests use no network")
        return real(self, address)

    with mock.patch.object(socket.socket, "connect", connect):
        yield
