"""The log of a run, and the record of where its numbers came from."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import rlhf_lite
from rlhf_lite import tracking
from rlhf_lite.tracking import MetricsLog, read_metrics, run_info

# --- MetricsLog --------------------------------------------------------------


def fill(path: Path, *steps: tuple[str, int]) -> None:
    with MetricsLog(path) as log:
        for phase, step in steps:
            log.log(phase, step, {"loss/nats_per_token": step / 10}, seconds=step)


def places(path: Path) -> list[tuple[str, int]]:
    return [(line["phase"], line["step"]) for line in read_metrics(path)]


def test_a_line_has_the_agreed_form(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "run" / "metrics.jsonl") as log:
        log.log("ppo", 3, {"kl/nats_per_seq": 1.25, "length/tokens": 20, "ok": True}, seconds=1.23456)
    text = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert json.loads(text) == {
        "phase": "ppo",
        "step": 3,
        "seconds": 1.235,
        "kl/nats_per_seq": 1.25,
        "length/tokens": 20,
        "ok": True,
    }


def test_nan_and_infinity_become_null_and_valid_json(tmp_path: Path) -> None:
    values = {"a": float("nan"), "b": float("inf"), "c": float("-inf"), "d": None}
    with MetricsLog(tmp_path / "m.jsonl") as log:
        log.log("sft", 1, values, seconds=0)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    line = json.loads((tmp_path / "m.jsonl").read_text(encoding="utf-8"), parse_constant=refuse)
    assert [line[name] for name in "abcd"] == [None] * 4


def test_tensors_and_numpy_scalars_become_plain_numbers(tmp_path: Path) -> None:
    import numpy as np
    import torch

    nan = torch.tensor(float("nan"))
    values = {"a": torch.tensor(0.5), "b": np.float32(0.25), "c": torch.tensor(3), "d": nan}
    with MetricsLog(tmp_path / "m.jsonl") as log:
        log.log("sft", 1, values, seconds=0)
        (line,) = read_metrics(log.path)
    assert [line[name] for name in "abcd"] == [0.5, 0.25, 3, None]


@pytest.mark.parametrize("value", ["text", [1.0], {"a": 1}])
def test_what_is_not_a_number_is_refused_by_name(tmp_path: Path, value: object) -> None:
    with MetricsLog(tmp_path / "m.jsonl") as log:
        with pytest.raises(ValueError, match=r"metric 'loss': got .*expected one number"):
            log.log("sft", 1, {"loss": value}, seconds=0)
        assert read_metrics(log.path) == []


def test_a_tensor_of_many_values_is_refused_by_name(tmp_path: Path) -> None:
    import torch

    log = MetricsLog(tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match="metric 'loss': got a Tensor of many values"):
        log.log("sft", 1, {"loss": torch.zeros(2)}, seconds=0)


@pytest.mark.parametrize("name", ["phase", "step", "seconds"])
def test_reserved_names_are_refused(tmp_path: Path, name: str) -> None:
    with MetricsLog(tmp_path / "m.jsonl") as log, pytest.raises(ValueError, match=f"{name}.* is reserved"):
        log.log("sft", 1, {name: 1}, seconds=0)


def test_each_line_is_on_disk_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.jsonl")
    log.log("sft", 1, {}, seconds=0)
    assert places(tmp_path / "m.jsonl") == [("sft", 1)]
    log.close()
    log.close()


def test_opening_again_appends(tmp_path: Path) -> None:
    fill(tmp_path / "m.jsonl", ("sft", 1))
    fill(tmp_path / "m.jsonl", ("sft", 2))
    assert places(tmp_path / "m.jsonl") == [("sft", 1), ("sft", 2)]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_line_cut_anywhere_is_left_out_and_then_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "m.jsonl"
    fill(path, ("sft", 1), ("sft", 2), ("sft", 3))
    os.truncate(path, path.stat().st_size - cut)
    assert places(path) == [("sft", 1), ("sft", 2)]
    fill(path, ("sft", 3))
    assert places(path) == [("sft", 1), ("sft", 2), ("sft", 3)]


def test_a_line_cut_inside_a_character(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    fill(path, ("sft", 1))
    with path.open("ab") as file:
        file.write('{"phase": "é'.encode()[:-1])
    assert places(path) == [("sft", 1)]
    fill(path, ("sft", 2))
    assert places(path) == [("sft", 1), ("sft", 2)]


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"phase": "sft"}', ""])
def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "m.jsonl"
    fill(path, ("sft", 1))
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    fill(path, ("sft", 2))
    with pytest.raises(ValueError, match=r"m\.jsonl, line 2: got"):
        read_metrics(path)


def test_truncate_after_drops_only_later_steps_of_that_phase(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    fill(path, ("sft", 1), ("sft", 2), ("reward", 9), ("ppo", 1), ("ppo", 2), ("ppo", 3))
    with MetricsLog(path) as log:
        assert log.truncate_after("ppo", 1) == 2
        log.log("ppo", 2, {}, seconds=0)
        assert log.truncate_after("sft", 2) == 0
        assert log.truncate_after("reward", -1) == 1
    assert places(path) == [("sft", 1), ("sft", 2), ("ppo", 1), ("ppo", 2)]
    assert [file.name for file in tmp_path.iterdir()] == ["m.jsonl"]


def test_a_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    code = textwrap.dedent(
        f"""
        import os, signal
        from rlhf_lite.tracking import MetricsLog
        log = MetricsLog({str(path)!r})
        for step in range(1, 8):
            log.log("ppo", step, {{"reward/rm_raw": 0.5}}, seconds=step)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(rlhf_lite.__file__).parents[1], check=False)
    assert done.returncode == -signal.SIGKILL
    assert places(path) == [("ppo", step) for step in range(1, 8)]


# --- run_info ----------------------------------------------------------------


def test_run_info_holds_what_the_contract_of_metrics_json_asks_for() -> None:
    info = run_info(seed=7)
    assert info["seed"] == 7
    assert set(info) == {"seed", "commit", "dirty", "versions", "hardware"}
    assert info["versions"]["python"] == platform.python_version()
    assert info["versions"]["rlhf_lite"] == rlhf_lite.__version__
    for name in ("torch", "transformers", "peft", "accelerate", "datasets"):
        assert info["versions"][name], name
    hardware = info["hardware"]
    assert hardware["cpu"]
    assert 1 <= hardware["logical_cores"] <= (os.cpu_count() or 1)
    assert hardware["physical_cores"] is None or 1 <= hardware["physical_cores"] <= hardware["logical_cores"]
    assert 0.1 < hardware["memory_gb"] < 100_000
    json.dumps(info, allow_nan=False)


def test_a_containers_limit_counts_when_it_is_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(tracking, "CGROUP_LIMITS", (str(tmp_path / "none"), str(limit)))
    unlimited = run_info()["hardware"]["memory_gb"]
    for text, expected in (("200000000\n", 0.2), ("max\n", unlimited), (f"{10**18}\n", unlimited)):
        limit.write_text(text, encoding="ascii")
        assert run_info()["hardware"]["memory_gb"] == expected


def test_without_psutil_cores_and_memory_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    hardware = run_info()["hardware"]
    assert (hardware["physical_cores"], hardware["memory_gb"]) == (None, None)
    assert hardware["logical_cores"] >= 1


def test_run_info_reports_torchs_real_thread_count() -> None:
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert run_info()["hardware"]["torch_threads"] == 1
    finally:
        torch.set_num_threads(before)


def test_run_info_names_no_host_and_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "git_state", lambda: ("0" * 40, False))
    text = json.dumps(run_info(seed=1))
    # A name such as "linux" would be found in the platform by chance.
    if len(socket.gethostname()) > 5:
        assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert platform.release() not in text


def test_missing_libraries_and_torch_do_not_stop_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise tracking.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(tracking.metadata, "version", missing)
    monkeypatch.setitem(sys.modules, "torch", None)
    info = run_info(seed=1)
    assert info["versions"]["torch"] is None
    assert info["hardware"]["torch_threads"] is None
    assert info["hardware"]["gpu"] is None


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with a package in it, taken for the place this package runs from."""
    package = tmp_path / "rlhf_lite"
    package.mkdir()
    for name in ("__init__.py", "tracking.py"):
        (package / name).write_text("", encoding="utf-8")
    monkeypatch.setattr(tracking, "__file__", str(package / "tracking.py"))
    git(tmp_path, "init", "-q")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", *identity, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_and_dirty(checkout: Path) -> None:
    assert tracking.git_state() == (None, None)  # nothing committed yet
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "one")
    head = git(checkout, "rev-parse", "HEAD")
    assert tracking.git_state() == (head, False)
    (checkout / "notes.txt").write_text("unrelated", encoding="utf-8")
    assert tracking.git_state() == (head, False)
    (checkout / "rlhf_lite" / "new.py").write_text("x = 1", encoding="utf-8")
    assert tracking.git_state() == (head, True)


def test_a_hooks_environment_does_not_mislead(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "one")
    monkeypatch.setenv("GIT_DIR", str(checkout / "elsewhere"))
    assert tracking.git_state()[0] == git(checkout, "rev-parse", "HEAD")


def test_a_package_merely_lying_in_another_repository_has_no_commit(checkout: Path) -> None:
    (checkout / "other.txt").write_text("x", encoding="utf-8")
    git(checkout, "add", "other.txt")
    git(checkout, "commit", "-qm", "one")
    assert tracking.git_state() == (None, None)


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert tracking.git_state() == (None, None)
