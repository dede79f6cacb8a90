"""Each notebook is executed once per state of its sources, and a failure is never taken for a result."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from tests.tools.conftest import make_notebook, record_by_hand, write_notebook
from tools import build_book, execute, state


def outputs(path: Path) -> str:
    return json.dumps([cell.get("outputs", []) for cell in nbformat.read(path, as_version=4).cells])


def ran(root: Path) -> dict[str, bool]:
    return {result.name: result.executed for result in execute.execute_all(root, show=False)}


@pytest.fixture(autouse=True)
def fast_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLHF_LITE_BUDGET", raising=False)
    monkeypatch.delenv("RLHF_LITE_STRICT_TIME", raising=False)


@pytest.mark.slow
def test_runs_once_per_state(tiny_repo: Path) -> None:
    notebook = tiny_repo / "notebooks" / "one.ipynb"
    source = notebook.read_bytes()
    assert ran(tiny_repo) == {"one.ipynb": True}
    assert '"41"' in outputs(state.executed_copy(tiny_repo, notebook))
    assert notebook.read_bytes() == source  # the stripped source is never written to

    record = state.read_record(tiny_repo, notebook)
    assert record is not None and record["budget"] == "fast" and record["seconds"] >= 0
    assert 0.5 < record["cpu_seconds"] < 60
    assert ran(tiny_repo) == {"one.ipynb": False}

    # An edit of the package gives a new result, although the notebook's own text is the same.
    (tiny_repo / "rlhf_lite" / "__init__.py").write_text("ANSWER = 42\n")
    assert ran(tiny_repo) == {"one.ipynb": True}
    assert '"42"' in outputs(state.executed_copy(tiny_repo, notebook))


@pytest.mark.parametrize(
    "change",
    [
        "notebook",
        "package",
        "package data",
        "new module",
        "lock",
        "config",
        "recorded run",
        "budget",
        "copy",
        "record",
    ],
)
def test_what_makes_a_result_stale(tiny_repo: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No notebook is run here: a result is written by hand, and then something changes."""
    notebook = tiny_repo / "notebooks" / "one.ipynb"
    record_by_hand(tiny_repo, notebook)
    assert state.is_fresh(tiny_repo, notebook)
    if change == "notebook":
        write_notebook(notebook, make_notebook("print('new')"))
    elif change == "package":
        (tiny_repo / "rlhf_lite" / "__init__.py").write_text("ANSWER = 0\n")
    elif change == "package data":
        (tiny_repo / "rlhf_lite" / "principles.yaml").write_text("- be kind\n")
    elif change == "new module":
        (tiny_repo / "rlhf_lite" / "new.py").touch()
    elif change == "lock":
        (tiny_repo / "requirements.lock").write_text("torch==2.14.0\n")
    elif change in ("config", "recorded run"):
        folder = tiny_repo / ("configs" if change == "config" else "results")
        folder.mkdir()
        (folder / "one.json").write_text("{}")
    elif change == "budget":
        monkeypatch.setenv("RLHF_LITE_BUDGET", "full")
    elif change == "copy":
        state.executed_copy(tiny_repo, notebook).write_text("{")
    elif change == "record":
        state.executed_copy(tiny_repo, notebook).with_suffix(".json").write_text("{")
    assert not state.is_fresh(tiny_repo, notebook)


def test_what_leaves_a_result_fresh(tiny_repo: Path) -> None:
    notebook = tiny_repo / "notebooks" / "one.ipynb"
    record_by_hand(tiny_repo, notebook)
    (tiny_repo / "rlhf_lite" / "__pycache__").mkdir()
    (tiny_repo / "rlhf_lite" / "__pycache__" / "x.pyc").write_bytes(b"1")
    (tiny_repo / "book" / "index.md").write_text("# Another text\n")
    write_notebook(tiny_repo / "notebooks" / "two.ipynb", make_notebook("1"))
    assert state.is_fresh(tiny_repo, notebook)


@pytest.mark.slow
def test_a_failure_is_kept_apart_and_never_fresh(tiny_repo: Path) -> None:
    broken = make_notebook("print('before')\nraise RuntimeError('broken on purpose')")
    notebook = write_notebook(tiny_repo / "notebooks" / "one.ipynb", broken)
    source = notebook.read_bytes()
    [result] = execute.execute_all(tiny_repo, show=False)
    assert "broken on purpose" in result.error
    assert notebook.read_bytes() == source
    assert not state.executed_copy(tiny_repo, notebook).exists()
    failed = state.failed_copy(tiny_repo, notebook)
    assert "before" in outputs(failed)
    assert "broken on purpose" in failed.with_suffix(".log").read_text()
    assert not state.is_fresh(tiny_repo, notebook)
    assert state.failed_before(tiny_repo, notebook)

    record_by_hand(tiny_repo, notebook)  # as after a run that went well
    assert not failed.exists()
    assert not state.failed_before(tiny_repo, notebook)


def test_a_slow_machine_gets_its_book(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who asks for strict time sees a failure, and only far above the budget."""
    assert execute._too_slow(100_000.0) == ""
    monkeypatch.setenv("RLHF_LITE_STRICT_TIME", "0")
    assert execute._too_slow(100_000.0) == ""
    monkeypatch.setenv("RLHF_LITE_STRICT_TIME", "1")
    assert execute._too_slow(200.0) == ""
    message = execute._too_slow(346.0)
    assert "346 processor seconds, and 3 times its budget are 345" in message and "--strict-time" in message


@pytest.mark.slow
def test_strict_time_is_an_option_of_both_commands(tiny_repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(execute.BUDGET_SECONDS, "fast", 0.01)
    (result,) = execute.execute_all(tiny_repo, show=False)
    assert result.executed and not result.error
    state.executed_copy(tiny_repo, tiny_repo / "notebooks" / "one.ipynb").unlink()
    monkeypatch.setenv("RLHF_LITE_STRICT_TIME", "")  # so that what the command sets is undone afterwards
    monkeypatch.setattr(sys, "argv", ["execute.py", "--root", str(tiny_repo), "--strict-time"])
    with pytest.raises(SystemExit, match="failed: one"):
        execute.main()
    monkeypatch.setenv("RLHF_LITE_STRICT_TIME", "")
    monkeypatch.setattr(sys, "argv", ["build_book.py", "--root", str(tiny_repo), "--strict-time"])
    with pytest.raises(SystemExit, match="3 times its budget"):
        build_book.main()


def test_above_the_budget_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    slow = execute.Execution("slow.ipynb", True, 100.0, 160.0)
    results = [slow, execute.Execution("ok.ipynb", False, 200.0, 9.0)]  # it waited for others
    execute.print_table(results, 1000.0)
    out = capsys.readouterr().out
    assert "slow.ipynb" in out and out.count("ABOVE BUDGET") == 1
    assert "not run again" in out and "warning" not in out
    execute.print_table(results, 1300.0)
    assert "the book took 1300 s; its budget is 1200 s" in capsys.readouterr().out


@pytest.mark.slow
def test_the_surroundings_of_a_notebook(tiny_repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees recorded runs but cannot change them; what tests set for themselves does not reach it."""
    (tiny_repo / "results").mkdir()
    run = tiny_repo / "results" / "run.json"
    run.write_text("7")
    monkeypatch.setenv("MPLBACKEND", "Agg")  # would hide the figures
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    monkeypatch.setenv("RLHF_LITE_EXERCISES", "strict")
    code = """\
import os
from pathlib import Path
import matplotlib.pyplot as plt
assert not {"NBGRADER_EXECUTION", "RLHF_LITE_EXERCISES"} & set(os.environ)
assert os.environ["OMP_NUM_THREADS"] == "1"
recorded = Path("../results/run.json")
print("recorded:", recorded.read_text())
recorded.write_text("8")
plt.plot([1, 2])"""
    notebook = write_notebook(tiny_repo / "notebooks" / "one.ipynb", make_notebook(code))
    [result] = execute.execute_all(tiny_repo, show=False)
    assert not result.error
    assert "recorded: 7" in outputs(state.executed_copy(tiny_repo, notebook))
    assert "image/png" in outputs(state.executed_copy(tiny_repo, notebook))
    assert run.read_text() == "7"


def test_bad_budget_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_LITE_BUDGET", "medium")
    with pytest.raises(SystemExit, match="medium"):
        state.budget()


def test_widgets_are_dropped(tmp_path: Path) -> None:
    book = make_notebook("1")
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "bar"}
    book.cells[2].outputs = [nbformat.v4.new_output("display_data", data=data)]
    cleaned = execute._cleaned(write_notebook(tmp_path / "x.ipynb", book))
    assert b"widget" not in cleaned


MEET = """\
import time
from pathlib import Path
Path("{meeting}/{me}").touch()
for _ in range(600):
    if Path("{meeting}/{other}").exists():
        break
    time.sleep(0.1)
else:
    raise TimeoutError("the other notebook does not run")
"""


@pytest.mark.slow
def test_side_by_side_and_once_for_two_callers(tiny_repo: Path, tmp_path: Path) -> None:
    """Each of two notebooks waits for the other, and two callers together run each of them once."""
    for me, other in (("one", "two"), ("two", "one")):
        code = MEET.format(meeting=tmp_path, me=me, other=other)
        write_notebook(tiny_repo / "notebooks" / f"{me}.ipynb", make_notebook(code))
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(execute.execute_all, tiny_repo, show=False, jobs=2) for _ in range(2)]
    results = [result for call in calls for result in call.result()]
    assert not [result.error for result in results if result.error]
    assert sorted(result.name for result in results if result.executed) == ["one.ipynb", "two.ipynb"]


def test_one_notebook_runs_after_what_it_needs(tiny_repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A need that failed is not tried again for another notebook's sake."""
    began: list[str] = []

    def command(working: Path) -> list[str]:
        began.append(working.stem)
        return [sys.executable, "-c", f"raise SystemExit({int('first' in working.stem)})"]

    monkeypatch.setattr(execute, "_nbmake", command)  # a kernel would take seconds
    first = write_notebook(tiny_repo / "notebooks" / "03_first.ipynb", make_notebook("1"))
    second = write_notebook(tiny_repo / "notebooks" / "05_second.ipynb", make_notebook("2"))
    assert execute.execute_one(tiny_repo, second).executed
    assert began == ["03_first", "05_second"]
    assert state.failed_before(tiny_repo, first) and state.is_fresh(tiny_repo, second)
    state.executed_copy(tiny_repo, second).unlink()
    assert execute.execute_one(tiny_repo, second).executed
    assert began == ["03_first", "05_second", "05_second"]
    assert execute.execute_one(tiny_repo, first).executed
    assert began[3:] == ["03_first"]


@pytest.mark.slow
def test_ctrl_c_ends_the_kernels(tiny_repo: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        code = f"import os, time\nopen('{tmp_path}/{name}', 'w').write(str(os.getpid()))\ntime.sleep(300)"
        write_notebook(tiny_repo / "notebooks" / f"{name}.ipynb", make_notebook(code))
    command = [sys.executable, str(Path(execute.__file__)), "--root", str(tiny_repo), "--jobs", "2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # Whoever starts the tests in a shell's background hands on that Ctrl-C is ignored.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, preexec_fn=heard, **quiet)
    try:
        kernels = [_when_written(tmp_path / name) for name in ("one", "two")]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) != 0
        end = time.monotonic() + 120
        while any(map(_runs, kernels)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(map(_runs, kernels))
    finally:
        process.kill()
    assert not list((tiny_repo / ".cache").rglob("*.ipynb")), "half an execution was kept"


def _when_written(path: Path) -> int:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if path.is_file() and path.read_text():
            return int(path.read_text())
        time.sleep(0.1)
    raise TimeoutError(f"{path} was not written")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
