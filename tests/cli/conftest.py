"""The command line, called as a user calls it, with a recorder where the pipeline would work."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from rlhf_lite import cli


@pytest.fixture
def command_line(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """Run ``rlhf-lite ARGUMENTS`` in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/rlhf-lite", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def recorded_command(monkeypatch, command_line) -> Callable[..., Callable[..., Any]]:
    """``recorded_command("cai", module, "run_cai", result)`` calls ``rlhf-lite cai ARGUMENTS``.

    The call returns (exit code, out, err, calls); with ``error=`` the recorder raises it.
    """

    def make(command: str, module: str, function: str, result: Any) -> Callable[..., Any]:
        calls, failure = [], []

        def record(*args, **kwargs):
            calls.append((args, kwargs))
            if failure:
                raise failure[0]
            return result

        fake = types.ModuleType(module)
        setattr(fake, function, record)
        monkeypatch.setitem(sys.modules, module, fake)

        def call(*arguments, error=None):
            failure[:] = [error] if error else []
            return *command_line(command, *arguments), calls

        return call

    return make
