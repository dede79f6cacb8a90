"""Whatever is typed ends with an exit code of 0, 1 or 2, and never in a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from itertools import chain
from types import ModuleType
from unittest import mock

import pytest
import typer
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from rlhf_lite import cli
from rlhf_lite.cli.app import app
from rlhf_lite.errors import PhaseError
from rlhf_lite.pipeline import commands, folder, sweep
from rlhf_lite.pipeline.cai import config as cai_config

COMMANDS = typer.main.get_command(app).commands
# Where the work begins.
WORK = {"rlhf_lite.pipeline": ("run_pipeline", "train_reward_file", "score_file", "generate_text",
                               "check_file"),
        "rlhf_lite.pipeline.cai.run": ("run_cai",), "rlhf_lite.pipeline.compare": ("evaluate_models",),
        "rlhf_lite.pipeline.lab.run": ("run_lab",), "rlhf_lite.cli.doctor": ("examine", "show"),
        "rlhf_lite.data.assets.ensure": ("ensure_ratings", "ensure_model")}
VALUES = st.one_of(
    st.text(st.characters(exclude_characters="\0"), max_size=6), st.integers().map(str), st.floats().map(str),
    st.sampled_from(["", "-", "--", "=", "~", "x" * 300, "file", "file/x", "folder", "/dev/null", "sft",
                     "auto", "seed=1", "seed=x", "method=dpo", "dpo.loss=[", "model.name=m", "data.source=d",
                     "reward.eval_min_gap=3", "output=\tx"]))


def stop(*_, **__):
    raise PhaseError("here the work begins")


def fakes() -> dict[str, ModuleType]:
    made = {}
    for name, functions in WORK.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(dict.fromkeys(functions, stop))
    made["rlhf_lite.pipeline"].__path__ = []
    return made | {module.__name__: module for module in (commands, folder, sweep, cai_config)}


def typed(command: str) -> st.SearchStrategy[list[str]]:
    options = [name for option in COMMANDS[command].params for name in option.opts if name.startswith("-")]
    pair = st.tuples(st.sampled_from([*options, "--help", "--nonsense"]), VALUES).map(list)
    words = st.one_of(pair, pair.map(lambda two: [f"{two[0]}={two[1]}"]), VALUES.map(lambda value: [value]))
    return st.lists(words, max_size=5).map(lambda parts: [command, *chain(*parts)])


@pytest.mark.parametrize("command", COMMANDS)
def test_any_command_line_ends_in_an_exit_code(command, monkeypatch):
    @limits(max_examples=8, deadline=None, database=None)
    @given(typed(command))
    def check(arguments: list[str]) -> None:
        out, place = io.StringIO(), os.getcwd()
        with tempfile.TemporaryDirectory() as home, mock.patch.dict(sys.modules, fakes()), \
                mock.patch.object(sys, "argv", ["rlhf-lite", *arguments]), \
                contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            os.chdir(home)
            try:
                os.mkdir("folder")
                open("file", "w").close()
                with pytest.raises(SystemExit) as ended:
                    cli.main()
            finally:
                os.chdir(place)
        assert (ended.value.code or 0) in (0, 1, 2) and "Traceback" not in out.getvalue(), arguments

    check()
