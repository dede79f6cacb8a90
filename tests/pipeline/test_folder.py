"""The folder of a run: killed and continued, failed and started anew, and held by one process at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from rlhf_lite.config import load_config
from rlhf_lite.errors import ConfigError, PhaseError, RlhfLiteError
from rlhf_lite.outputs import held
from rlhf_lite.pipeline import context, run_pipeline
from rlhf_lite.pipeline.commands import train_reward_file
from rlhf_lite.pipeline.folder import method_with_dpo, prepare_folder, write_settings
from rlhf_lite.pipeline.run import planned_phases

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for a kill: no handler of the program sees it."""


def killed_after(saves: int, monkeypatch, work) -> None:
    """Do the work; after so many checkpoints the process is gone."""
    real, count = context.save_step, []

    def save(*arguments, **options):
        real(*arguments, **options)
        count.append(1)
        if len(count) == saves:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(context, "save_step", save)
        work()


def weights(folder: Path) -> dict[str, bytes]:
    return {place.relative_to(folder).as_posix(): place.read_bytes()
            for place in sorted(folder.rglob("*.safetensors"))}


def test_a_killed_reward_model_resumes_to_the_same_bytes(settings, data, tmp_path, monkeypatch):
    config = settings({"checkpoint.every_steps": 1})
    train_reward_file(str(data), None, tmp_path / "whole", config)
    killed_after(2, monkeypatch, lambda: train_reward_file(str(data), None, tmp_path / "cut", config))
    with pytest.raises(PhaseError, match="--resume"):
        train_reward_file(str(data), None, tmp_path / "cut", config)
    found = train_reward_file(str(data), None, tmp_path / "cut", config, resume=True)
    assert found["n_pairs"] > 0 and found["seconds"] >= 0
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole") != {}
    # Finished: only the judgement is made again.
    again = train_reward_file(str(data), None, tmp_path / "cut", config, resume=True)
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_a_killed_dpo_run_resumes_to_the_same_bytes(settings, tmp_path, monkeypatch):
    config = settings({"method": "dpo", "dpo.pairs": 16, "dpo.batch_size": 4, "checkpoint.every_steps": 1})
    only = {"only": ["sft", "dpo"], "visible": False}
    run_pipeline(config, output=tmp_path / "whole", **only)
    killed_after(3 + 2, monkeypatch, lambda: run_pipeline(config, output=tmp_path / "cut", **only))
    assert (tmp_path / "cut" / "sft").is_dir() and not (tmp_path / "cut" / "dpo").exists()
    run_pipeline(config, output=tmp_path / "cut", resume=True, **only)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole") != {}


# --- Failed at once


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_failed_at_once_is_started_anew(settings, data, base, tmp_path, resume, monkeypatch):
    output = tmp_path / "rm"

    def full(*_, **__):
        raise OSError("No space left on device")

    for slip, said in (({"model.name": str(tmp_path / "nowhere")}, "nowhere is not there"),
                       ({"lora.top_layers": 99}, "99")):
        with pytest.raises(RlhfLiteError, match=said):
            train_reward_file(str(data), None, output, settings(slip))
    failed = pytest.raises(PhaseError, match=r"(?s)phase reward failed.*--resume")
    with monkeypatch.context() as patch, failed:
        patch.setattr("rlhf_lite.pipeline.phases.train_reward", full)
        train_reward_file(str(data), None, output, settings({"reward.epochs": 2}))
    assert (output / "error.log").is_file()
    train_reward_file(str(data), None, output, settings(), resume=resume)
    assert not (output / "error.log").exists()
    saved = load_config(output / "config.yaml", [])
    assert saved.lora.top_layers == 2 and saved.model.name == str(base)


def test_settings_of_a_phase_that_left_nothing_may_be_mended(settings, tmp_path, monkeypatch):
    output, only = tmp_path / "run", {"only": ["sft", "reward"], "visible": False}

    def broken(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, pytest.raises(PhaseError, match="phase reward failed: out of mem"):
        patch.setattr("rlhf_lite.pipeline.phases.train_reward", broken)
        run_pipeline(settings(), output=output, **only)
    before = weights(output / "sft")
    with pytest.raises(PhaseError, match=r"other settings: sft\.learning_rate was 0\.001, is 0\.5"):
        run_pipeline(settings({"sft.learning_rate": 0.5}), output=output, resume=True, **only)
    run_pipeline(settings({"reward.batch_size": 2}), output=output, resume=True, **only)
    assert weights(output / "sft") == before
    with pytest.raises(PhaseError, match=r"reward\.batch_size was 2, is 4"):
        run_pipeline(settings(), output=output, resume=True, **only)


def test_a_strangers_folder_is_left_as_it_is(settings, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PhaseError, match="other files and no run"):
        run_pipeline(settings(), output=tmp_path, visible=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_report_that_cannot_be_written_keeps_the_run(settings, finished, tmp_path, monkeypatch):
    """All training and judging is done: the message says how to make the report, which is then made."""
    folder = shutil.copytree(finished, tmp_path / "run")
    for page in folder.glob("report.*"):
        page.unlink()

    def full(_):
        raise OSError(28, "No space left on device")

    said = r"(?s)phase report failed.*--resume"
    with monkeypatch.context() as patch, pytest.raises(PhaseError, match=said):
        patch.setattr("rlhf_lite.evaluation.report.run.write_report", full)
        run_pipeline(settings(), output=folder, resume=True, visible=False)
    assert weights(folder) == weights(finished)
    run_pipeline(settings(), output=folder, resume=True, visible=False)
    assert (folder / "report.html").is_file() and not (folder / "error.log").exists()


# --- Found before the first phase


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "dpo", "dpo.loss": "dop"}, r"dpo\.loss=dop .*choose one of sigmoid"),
        ({"method": "dpo", "dpo.loss_options": "{gamma: 1}"}, "unknown option"),
        ({"method": "dpo", "dpo.loss_options": "{label_smoothing: x}"}, "label_smoothing"),
        ({"sft.batch_size": 5000}, r"lower sft\.batch_size"),
        ({"reward.batch_size": 17}, r"gives 16 training pairs.*lower reward\.batch_size"),
        ({"ppo.prompts_per_step": 5000}, r"lower ppo\.prompts_per_step"),
        ({"data.source": "reviews", "reward.eval_min_gap": 7.9}, r"reward\.eval_min_gap.*only 0 pairs"),
        ({"data.source": "reviews", "reward.eval_min_gap": 7.9, "reward.eval_pairs": 1}, "eval_min_gap"),
        ({"data.source": "reviews", "method": "dpo", "dpo.min_gap": 7.9}, r"dpo\.min_gap.*only 0 pairs"),
    ],
)
def test_what_a_later_phase_cannot_use_is_found_before_the_first(settings, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        run_pipeline(settings(changes), output=tmp_path / "run", visible=False)
    assert not list(tmp_path.glob("run/*/phase.json")) and not list(tmp_path.glob("run/checkpoints/*"))


@pytest.mark.parametrize(
    ("changes", "skip"), [({}, "reward"), ({"method": "dpo", "dpo.source": "policy"}, "reward")]
)
def test_a_phase_without_what_it_needs_is_found_before_the_first(settings, tmp_path, changes, skip):
    with pytest.raises(ConfigError, match="needs the phase reward"):
        run_pipeline(settings(changes), output=tmp_path / "run", skip=[skip], visible=False)


# --- One process at a time

HOLDER = """
import sys, time
from pathlib import Path
from rlhf_lite.outputs import held
with held(Path(sys.argv[1]) / ".run"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works in ``tmp_path / "run"``."""
    folder = tmp_path / "run"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    yield process
    with suppress(ProcessLookupError):
        process.kill()
    process.wait()


def test_a_second_process_is_refused_and_a_dead_one_is_no_hindrance(settings, data, tmp_path, holder):
    folder = tmp_path / "run"
    said = rf"process {holder.pid} on \S.* is working in .*run\. .*--resume"
    for resume in (False, True):
        with pytest.raises(PhaseError, match=said):
            run_pipeline(settings(), output=folder, resume=resume, visible=False)
        with pytest.raises(PhaseError, match=said):
            train_reward_file(str(data), None, folder, settings(), resume=resume)
    assert not list(folder.glob("[!.]*"))
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    run_pipeline(settings(), output=folder, only=["sft"], visible=False)
    assert (folder / "sft").is_dir() and not (folder / ".run.holder").exists()


def test_a_folder_is_free_again_after_a_failure(settings, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ConfigError):
        run_pipeline(settings({"sft.batch_size": 5000}), output=folder, visible=False)
    with held(folder / ".run", pytest.fail):
        pass


# --- From another folder, of an older version, and refused


@pytest.fixture
def relative(settings, base, data, tmp_path, monkeypatch):
    """A run with SFT in ``tmp_path / "run"`` whose model and data were named by relative paths."""
    shutil.copytree(base, tmp_path / "base")
    shutil.copy(data, tmp_path / "pairs.jsonl")
    monkeypatch.chdir(tmp_path)
    config = settings({"model.name": "base", "data.source": "pairs.jsonl"})
    run_pipeline(config, output=Path("run"), only=["sft"], visible=False)
    return config


def test_a_run_goes_on_from_another_folder(relative, tmp_path, monkeypatch):
    saved = load_config("run/config.yaml", [])
    assert (saved.model.name, saved.data.source) == (str(tmp_path / "base"), str(tmp_path / "pairs.jsonl"))
    before = weights(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run_pipeline(saved, output=Path("../run"), only=["sft"], resume=True, visible=False)
    other = load_config(None, [f"data.source={tmp_path / 'other.jsonl'}", "data.max_tokens=24"])
    shutil.copy(tmp_path / "pairs.jsonl", tmp_path / "other.jsonl")
    with pytest.raises(PhaseError, match=r"data\.source was .*pairs\.jsonl', is .*other\.jsonl"):
        run_pipeline(other, output=Path("../run"), only=["sft"], resume=True, visible=False)
    # Earlier versions wrote what was typed.
    text = (tmp_path / "run" / "config.yaml").read_text().replace(f"{tmp_path}/", "")
    (tmp_path / "run" / "config.yaml").write_text(text)
    for config in (saved, relative):
        run_pipeline(config, output=tmp_path / "run", only=["sft"], resume=True, visible=False)
        monkeypatch.chdir(tmp_path)
    assert weights(tmp_path / "run") == before != {}


def test_a_refused_command_leaves_a_run_as_it_was(relative, tmp_path):
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    slip = load_config("run/config.yaml", ["method=both", "dpo.loss=dop"])
    with pytest.raises(ConfigError, match="dop"):
        run_pipeline(slip, output=tmp_path / "run", resume=True, visible=False)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_dpo_beside_sft_or_a_reward_model_plans_no_ppo(relative, data, settings, tmp_path):
    """The settings say "ppo" by default, but nobody ran it."""
    assert method_with_dpo(tmp_path / "run") == "dpo"
    changed = {"method": "dpo", "dpo.pairs": 8, "dpo.batch_size": 4}
    dpo = load_config("run/config.yaml", [f"{key}={value}" for key, value in changed.items()])
    assert planned_phases(dpo) == ("sft", "dpo", "evaluation")
    run_pipeline(dpo, output=tmp_path / "run", resume=True, skip=["evaluation"], visible=False)
    assert (tmp_path / "run" / "dpo").is_dir() and not (tmp_path / "run" / "ppo").exists()
    train_reward_file(str(data), None, tmp_path / "rm", settings())
    assert method_with_dpo(tmp_path / "rm") == "dpo"
    before = (tmp_path / "rm" / "config.yaml").read_bytes()
    with pytest.raises(PhaseError, match=r"another split of .*`rlhf-lite reward` divided it.*--output"):
        run_pipeline(settings(changed), output=tmp_path / "rm", resume=True, visible=False)
    assert (tmp_path / "rm" / "config.yaml").read_bytes() == before


def test_a_run_of_an_older_version_resumes(tmp_path):
    """Its settings, as they were written before the chat template and the limits of files."""
    old = Path(__file__).with_name("older_config.yaml")
    assert "template" not in old.read_text(encoding="utf-8")
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "phase.json").write_text("{}")
    (tmp_path / "metrics.json").write_text("{}")
    for config in (load_config(None, []), load_config(old, [])):
        shutil.copy(old, tmp_path / "config.yaml")
        prepare_folder(config, tmp_path, resume=True)
        write_settings(config, tmp_path)
        assert load_config(tmp_path / "config.yaml", []) == load_config(None, [])
    with pytest.raises(PhaseError, match=r"data\.max_tokens was 40, is 48"):
        prepare_folder(load_config(None, ["data.max_tokens=48"]), tmp_path, resume=True)
