"""Places that a user names: checked before any work, with ``~`` as the home folder, and one message each."""

from __future__ import annotations

import errno
import io
import os
import sys
import types
from pathlib import Path

import pytest

from rlhf_lite import cli
from rlhf_lite.errors import PhaseError


@pytest.fixture
def call(command_line, tmp_path):
    """``call("reward", ...)`` types a command in an empty folder: (exit code, what it said on stderr)."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "settings.yaml").write_text("seed: 1\n")
    (tmp_path / "sweep.yaml").write_text("phases: [sft]\nseeds: [0]\narms: {a: []}\n")

    def typed(*arguments: str) -> tuple[int, str]:
        code, _, err = command_line(*arguments)
        return code, err

    return typed


INTO_A_FOLDER = {
    "quickstart": [],
    "pipeline": ["-c", "settings.yaml"],
    "dpo": [],
    "cai": [],
    "sweep": ["sweep.yaml"],
    "reward": ["--data", "no-such-file.jsonl"],
    "eval": ["no-such-model", "--prompts", "reviews"],
}
INTO_A_FILE = {"lab": ["best_of_n", "--quick"], "score": ["no-such-run", "no-such-file.jsonl"]}


@pytest.mark.parametrize("command", INTO_A_FOLDER)
@pytest.mark.parametrize(
    ("place", "said"),
    [("file", "is not a folder"), ("file/below/it", "not a folder"), ("shut/x", "closed to")],
)
def test_a_folder_is_checked_before_any_work(call, monkeypatch, tmp_path, command, place, said):
    (tmp_path / "shut").mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "shut" and real(path, mode))
    before = sorted(tmp_path.rglob("*"))
    code, err = call(command, *INTO_A_FOLDER[command], "--output", place)
    assert code == 2 and said in err and "--output" in err and place.split("/")[0] in err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", INTO_A_FILE)
@pytest.mark.parametrize(
    ("place", "said"),
    [("folder", "is a folder"), ("file/x.json", "not a folder"), (os.devnull, "not an ordinary file")],
)
def test_a_file_is_checked_before_any_work(call, tmp_path, command, place, said):
    before = sorted(tmp_path.rglob("*"))
    code, err = call(command, *INTO_A_FILE[command], "--output", place)
    assert code == 2 and said in err and "--output" in err
    assert sorted(tmp_path.rglob("*")) == before


# --- ~ is the home folder

EVAL = ["eval", "m", "--prompts=p"]


@pytest.mark.parametrize(
    ("command", "module", "function"),
    [
        (["quickstart", "--output=~/x"], "rlhf_lite.pipeline", "run_pipeline"),
        (["quickstart", "output=~/x"], "rlhf_lite.pipeline", "run_pipeline"),
        (["pipeline", "-c", "tilde.yaml"], "rlhf_lite.pipeline", "run_pipeline"),
        (["pipeline", "-c", "~/tilde.yaml"], "rlhf_lite.pipeline", "run_pipeline"),
        (["cai", "--output=~/x"], "rlhf_lite.pipeline.cai.run", "run_cai"),
        (["reward", "--data=d.jsonl", "--output=~/x"], "rlhf_lite.pipeline", "train_reward_file"),
        (["score", "~/x", "d.jsonl"], "rlhf_lite.pipeline", "score_file"),
        (["score", "run", "d.jsonl", "--output=~/x"], "rlhf_lite.pipeline", "score_file"),
        (["sweep", "sweep.yaml", "--output=~/x"], "rlhf_lite.pipeline.sweep", "run_sweep"),
        ([*EVAL, "-o", "~/x"], "rlhf_lite.pipeline.compare", "evaluate_models"),
        ([*EVAL, "-o", "o", "--reward=~/x"], "rlhf_lite.pipeline.compare", "evaluate_models"),
    ],
)
def test_a_tilde_is_the_home_folder(call, monkeypatch, tmp_path, command, module, function):
    home = tmp_path / "home"
    home.mkdir()
    for place in (tmp_path, home):
        (place / "tilde.yaml").write_text("output: ~/x\n")
    monkeypatch.setenv("HOME", str(home))
    seen = []
    fake = types.ModuleType(module)

    def record(*args, **options):
        seen.extend([*args, *options.values()])
        raise PhaseError("seen")

    setattr(fake, function, record)
    monkeypatch.setitem(sys.modules, module, fake)
    code, err = call(*command)
    assert seen, err
    outputs = [getattr(one, "output", one) for one in seen]
    assert home / "x" in seen or str(home / "x") in outputs, seen
    assert not [entry for entry in tmp_path.rglob("~*")]


def test_a_tilde_in_the_name_of_a_model_or_data(monkeypatch, tmp_path):
    from rlhf_lite.config import load_config
    from rlhf_lite.models.policy import resolve_model
    from rlhf_lite.pipeline.cai.config import load_cai_config
    from rlhf_lite.pipeline.commands import locate_policy

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    config = load_config(None, ["model.name=~/m", "data.source=~/d.jsonl"])
    assert (config.model.name, config.data.source) == (str(tmp_path / "m"), str(tmp_path / "d.jsonl"))
    cai = load_cai_config(None, ["data.prompts=~/p", "data.constitution=~/c", "feedback.judge=~/m"])
    home = [str(tmp_path / name) for name in "pcm"]
    assert [cai.data.prompts, cai.data.constitution, cai.feedback.judge] == home
    assert resolve_model("~/m") == locate_policy("~/m").base == str(tmp_path / "m")
    assert load_config(None, ["model.name=org/name"]).model.name == "org/name"


def test_resume_takes_up_the_quickstart_that_was_stopped(call, monkeypatch, tmp_path):
    """The folder was chosen by the program, so the advice to add --resume must find it again."""
    seen = []
    fake = types.ModuleType("rlhf_lite.pipeline")
    fake.run_pipeline = lambda _, *, output, **__: seen.append(output.as_posix()) or {}
    monkeypatch.setitem(sys.modules, "rlhf_lite.pipeline", fake)
    for name, done in (("quickstart", True), ("quickstart-2", False), ("quickstart-3", True)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
        if done:
            (tmp_path / "runs" / name / "metrics.json").touch()
    call("quickstart")
    call("quickstart", "--resume")
    (tmp_path / "runs" / "quickstart-2" / "metrics.json").touch()
    call("quickstart", "--resume")
    assert seen == ["runs/quickstart-4", "runs/quickstart-2", "runs/quickstart-3"]


# --- What the machine refuses


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.ENOSPC, "Make room"), (errno.EACCES, "open to this user"), (errno.EIO, "Input/output error")],
)
def test_what_the_system_refuses_is_one_message(call, monkeypatch, code, said):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code), "runs/x/config.yaml")

    fake = types.ModuleType("rlhf_lite.pipeline")
    fake.run_pipeline = fail
    monkeypatch.setitem(sys.modules, "rlhf_lite.pipeline", fake)
    exit_code, err = call("quickstart")
    assert exit_code == 1 and said in err and "runs/x/config.yaml" in err and err.count("\n") == 1


def test_letters_that_the_system_cannot_read_are_one_message(call):
    """As Python hands on the bytes of a name in UTF-8 where the encoding is ASCII."""
    code, err = call("quickstart", "--output", "caf\udcc3\udca9")
    assert code == 2 and "PYTHONUTF8=1" in err and r"'caf\udcc3\udca9'" in err


def test_a_name_is_not_read_as_markup(capsys, monkeypatch):
    from rlhf_lite.cli.printing import show_numbers
    from rlhf_lite.pipeline.context import bar

    show_numbers({"n": 1}, "Reward model in runs/[/b][red]x")
    assert "runs/[/b][red]x" in "".join(capsys.readouterr().out.split())  # in the table's narrow title
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    with bar("eval", 2) as show:
        show(1, "a policy called [/b]")
    assert "[/b]" in capsys.readouterr().err


def test_a_text_that_the_terminal_cannot_show_is_printed_all_the_same(monkeypatch, capsys):
    fake = types.ModuleType("rlhf_lite.pipeline")
    fake.generate_text = lambda *_, **__: ["a film \U0001f600", "na\xefve"]
    monkeypatch.setitem(sys.modules, "rlhf_lite.pipeline", fake)
    windows = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", windows)
    monkeypatch.setattr(sys, "argv", ["rlhf-lite", "generate", "run", "a film"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    windows.flush()
    assert not stop.value.code
    assert windows.buffer.getvalue().split(b"\n")[:2] == [b"a film \\U0001f600", b"na\xefve"]
