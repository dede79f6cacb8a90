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

TESTS = Path(__file__).parent
LAST = ("notebooks", "site")  # these folders take minutes, and the second uses what the first made
LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and put the slow folders at the end."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder not in LAST:
            return 0
        item.add_marker(getattr(pytest.mark, folder))
        return 1 + LAST.index(folder)

    items.sort(key=rank)


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
