"""The command line: what it passes on, what it prints, and its exit codes.

``rlhf_lite.pipeline`` is replaced by a recorder, so that nothing is trained here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rlhf_lite
from rlhf_lite import errors
from rlhf_lite.config import PipelineConfig
from rlhf_lite.errors import AssetError, DataError, PhaseError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Calls of the pipeline's functions; each answers with something small."""
    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    check = {"name": "gold [reward]", "target": ">= 0.85", "value": 0.91234, "passed": True}
    answers = {
        "run_pipeline": {"checks": [check]},
        "train_reward_file": {"accuracy": 0.875, "n_pairs": 400, "ci95": [0.84, 0.91]},
        "score_file": {"accuracy": 0.5},
        "generate_text": ["one story", "two stories"],
    }
    fake = types.ModuleType("rlhf_lite.pipeline")
    for name, answer in answers.items():

        def function(*args: Any, _name: str = name, _answer: Any = answer, **kwargs: Any) -> Any:
            made.append((_name, args, kwargs))
            return _answer

        setattr(fake, name, function)
    monkeypatch.setitem(sys.modules, "rlhf_lite.pipeline", fake)
    return made


@pytest.fixture
def run(command_line: Run) -> Run:
    """The command line under a short name."""
    return command_line


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def function(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(sys.modules["rlhf_lite.pipeline"], "run_pipeline", function)


# --- What is passed on -------------------------------------------------------


def test_quickstart_passes_settings_on(run: Run, calls: list[Any]) -> None:
    code, out, _ = run("quickstart", "--output", "runs/a", "--seed", "3", "--resume", "ppo.clip=2e-1")
    assert code == 0
    ((name, (config,), options),) = calls
    assert name == "run_pipeline"
    assert isinstance(config, PipelineConfig)
    assert (config.seed, config.ppo.clip, config.output) == (3, 0.2, "runs/a")
    assert options["output"] == Path("runs/a")
    assert options["resume"] is True
    assert options["command"] == "rlhf-lite quickstart --output runs/a --seed 3 --resume ppo.clip=2e-1"
    assert "gold [reward]" in out
    assert "0.9123" in out


def test_quickstart_has_a_default_folder(run: Run, calls: list[Any]) -> None:
    run("quickstart")
    assert calls[0][2]["output"] == Path(PipelineConfig().output)
    assert calls[0][2]["resume"] is False


def test_the_report_is_named_when_it_is_there(run: Run, calls: list[Any], tmp_path: Path) -> None:
    assert "report.html" not in run("quickstart", "-o", "a")[1]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "report.html").touch()
    assert "report.html" in run("quickstart", "-o", "a")[1]


def test_pipeline_reads_the_file_and_the_phases(run: Run, calls: list[Any], tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("seed: 9\nppo: {steps: 2}\n", encoding="utf-8")
    assert run("pipeline", "--config", "small.yaml", "--skip", "sft", "--skip", "ppo", "ppo.steps=4")[0] == 0
    _, (config,), options = calls[0]
    assert (config.seed, config.ppo.steps) == (9, 4)
    assert (options["skip"], options["only"]) == (["sft", "ppo"], [])
    assert options["output"] == Path("runs/small")
    run("pipeline", "-c", "small.yaml", "--only", "evaluation", "-o", "elsewhere")
    assert (calls[1][2]["skip"], calls[1][2]["only"]) == ([], ["evaluation"])
    assert calls[1][2]["output"] == Path("elsewhere")


def test_pipeline_uses_the_files_own_output(run: Run, calls: list[Any], tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("output: runs/mine\n", encoding="utf-8")
    run("pipeline", "--config", "small.yaml")
    assert calls[0][2]["output"] == Path("runs/mine")


def test_reward_score_and_generate(run: Run, calls: list[Any]) -> None:
    options = ["--data", "pairs.jsonl", "--model", "m", "--output", "out", "--on-error", "skip"]
    code, out, _ = run("reward", *options, "reward.pairs=5")
    assert code == 0
    name, (data, model, output, config), _ = calls[0]
    assert (name, data, model, output) == ("train_reward_file", "pairs.jsonl", "m", Path("out"))
    assert (config.data.on_error, config.reward.pairs) == ("skip", 5)
    assert "0.875" in out
    assert "0.84 to 0.91" in out

    assert run("score", "out", "pairs.jsonl", "--on-error", "skip", "--output", "s.jsonl")[0] == 0
    assert calls[1][1] == (Path("out"), "pairs.jsonl")
    assert calls[1][2] == {"on_error": "skip", "output": Path("s.jsonl"), "precision": "auto"}

    code, out, err = run("generate", "out", "The film", "-n", "2", "--seed", "4", "--temperature", "0",
                         "--precision", "fp32")
    assert calls[2][1] == ("out", "The film")
    assert calls[2][2] == {"max_new_tokens": 40, "temperature": 0.0, "samples": 2, "seed": 4,
                           "precision": "fp32"}
    assert (out, err) == ("one story\ntwo stories\n", "weights in fp32\n")


def test_a_broken_row_stops_by_default(run: Run, calls: list[Any]) -> None:
    run("reward", "--data", "d", "--output", "o")
    run("score", "o", "d")
    assert calls[0][1][3].data.on_error == "raise"
    assert calls[0][1][1] is None
    assert calls[1][2]["on_error"] == "raise"


# --- Errors ------------------------------------------------------------------


def test_wrong_settings_are_one_message_and_exit_code_2(run: Run, calls: list[Any]) -> None:
    code, out, err = run("quickstart", "sft.learning_rate=fast", "ppo.stps=3")
    assert (code, out, calls) == (2, "", [])
    assert err.startswith("Error: 2 problems in the settings:")
    assert "sft.learning_rate" in err
    assert "did you mean ppo.steps?" in err
    assert "Traceback" not in err


def test_long_messages_are_not_wrapped_or_read_as_markup(
    run: Run, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "[bold]x[/bold] " + "word " * 60 + "end"
    fail_with(monkeypatch, PhaseError(message))
    assert run("quickstart")[2] == f"Error: {message}\n"


def test_each_known_error_has_its_exit_code(
    run: Run, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataError("is empty", file="pairs.jsonl", row=3, field="chosen", fix="fill it")
    for error, expected in ((PhaseError("ppo failed"), 1), (AssetError("no network"), 1), (data, 2)):
        fail_with(monkeypatch, error)
        code, _, err = run("quickstart")
        assert code == expected, error
        assert err == f"Error: {error}\n"


def test_every_error_that_a_user_can_mend_has_an_exit_code() -> None:
    own = {name: item for name, item in vars(errors).items() if name.endswith("Error")}
    assert all(issubclass(item, errors.RlhfLiteError) for item in own.values())
    assert {name for name, item in own.items() if item.exit_code == 2} == {
        "ConfigError",
        "DataError",
        "ComparisonError",
        "OutputError",
    }
    assert {item.exit_code for item in own.values()} == {1, 2}


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback(
    run: Run, calls: list[Any], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    fail_with(monkeypatch, PhaseError("ppo failed"))
    arguments = ["--debug", "quickstart"] if place == "before" else ["quickstart", "--debug"]
    with pytest.raises(PhaseError, match="ppo failed"):
        run(*arguments)


def test_an_unknown_error_is_a_bug_and_keeps_its_traceback(
    run: Run, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        run("quickstart")


def test_ctrl_c_says_how_to_go_on(run: Run, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    code, _, err = run("quickstart", "-o", "a")
    assert code == 130
    assert "--resume" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["quickstart", "--seed", "1", "seed=2"],
        ["quickstart", "--output", "a", "output=b"],
        ["reward", "--data", "d", "--output", "o", "--model", "m", "model.name=n"],
        ["reward", "--data", "d", "--output", "o", "data.source=e"],
        ["reward", "--data", "d", "--output", "o", "--on-error", "skip", "data.on_error=raise"],
        ["reward", "--data", "d", "--output", "o", "reward.eval_min_gap=3"],
        ["dpo", "--output", "o", "method=ppo"],
        ["quickstart", "--seed", "-1"],
        ["pipeline"],
        ["pipeline", "--config", "missing.yaml"],
        ["pipeline", "--config", "x.yaml", "--only", "sft", "--skip", "ppo"],
        ["pipeline", "--config", "x.yaml", "--only", "dpoo"],
        ["reward", "--data", "d"],
        ["score", "d"],
        ["score", "d", "f", "--on-error", "ignore"],
        ["generate", "d", "words", "-n", "0"],
        ["nonsense"],
    ],
)
def test_wrong_command_lines_exit_with_2(run: Run, calls: list[Any], arguments: list[str]) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert err
    assert calls == []


# --- Help and speed ----------------------------------------------------------


def test_version_and_help(run: Run) -> None:
    assert run("--version")[:2] == (0, f"rlhf-lite {rlhf_lite.__version__}\n")
    code, out, _ = run("--help")
    assert code == 0
    for command in ("quickstart", "pipeline", "reward", "score", "generate", "lab", "doctor", "assets"):
        assert command in out
        assert run(command, "--help")[0] == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom rlhf_lite import cli\nsys.argv = ['rlhf-lite', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    root = Path(rlhf_lite.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert "typer" in modules
    heavy = {"torch", "transformers", "numpy", "pandas", "datasets", "matplotlib", "sklearn"}
    assert not heavy & modules


# --- lab -----------------------------------------------------------------------


def test_lab_shows_the_curve_and_writes_the_result(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    code, out, _ = run("lab", "best_of_n", "--world", "dense", "--output", str(file))
    assert code == 0
    assert "best_of_n reached" in out and len(out.splitlines()) > 10
    assert json.loads(file.read_text(encoding="utf-8"))["algorithm"] == "best_of_n"


@pytest.mark.parametrize("arguments", [("nonsense",), ("best_of_n", "--world", "nonsense")])
def test_lab_names_what_there_is(run: Run, arguments: tuple[str, ...]) -> None:
    code, _, err = run("lab", *arguments)
    assert code == 2
    assert "nonsense" in err and ("ppo" in err or "deceptive" in err)


# --- doctor and assets -------------------------------------------------------


def test_doctor_prints_json_and_its_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_lite.cli import doctor

    report = {"ok": False, "checks": [], "run_info": {}}
    monkeypatch.setattr(doctor, "examine", lambda: report)
    code, out, _ = run("doctor", "--json")
    assert (code, json.loads(out)) == (1, report)
    monkeypatch.setattr(doctor, "examine", lambda: report | {"ok": True})
    assert run("doctor", "--json")[0] == 0
    code, out, _ = run("doctor")
    assert code == 0
    assert "All that is needed is here" in out


def test_assets_fetches_both(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_lite.data.assets import ensure as assets

    monkeypatch.setattr(assets, "ensure_model", lambda: Path("cache/model"))
    monkeypatch.setattr(assets, "ensure_ratings", lambda: Path("cache/ratings"))
    code, out, _ = run("assets")
    assert code == 0
    assert out.splitlines() == [str(Path("cache/ratings")), str(Path("cache/model"))]
