"""Sweeps on a tiny model: what a file may say, what is shared, what a run leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parent))
from conftest import SMALL

from rlhf_lite.errors import ConfigError
from rlhf_lite.outputs import held
from rlhf_lite.pipeline import sweep as sweep_module
from rlhf_lite.pipeline.sweep import is_done, phase_key, plan, run_job, run_sweep


@pytest.fixture
def write(tmp_path: Path, base: Path, data: Path):
    def make(text: str) -> Path:
        settings = SMALL | {"model.name": str(base), "data.source": str(data)}
        shared = json.dumps([f"{key}={value}" for key, value in settings.items()])
        path = tmp_path / "small.yaml"
        path.write_text(text.replace("SMALL", shared), encoding="utf-8")
        return path

    return make


TWO_ARMS = """
phases: [ppo, sft, reward, evaluation]
seeds: [3]
base: SMALL
arms:
  "Price of KL 0": [ppo.kl_coef=0.0]
  "usual": []
"""


def test_arms_share_what_they_agree_in(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arms differ in PPO alone: SFT and reward model are trained once, PPO twice."""
    from rlhf_lite.pipeline import run as run_module

    trained: list[str] = []

    def counting(name: str):
        real = run_module.TRAINING[name]

        def train(run) -> None:
            trained.append(name)
            real(run)

        return train

    for name in ("sft", "reward", "ppo"):
        monkeypatch.setitem(run_module.TRAINING, name, counting(name))
    jobs = plan(write(TWO_ARMS), tmp_path / "out")
    assert [job.phases for job in jobs] == [("sft", "reward", "ppo", "evaluation")] * 2  # in their order
    for job in jobs:
        assert not is_done(job)
        run_job(job)
        assert is_done(job)
    assert trained == ["sft", "reward", "ppo", "ppo"]
    files = sorted(path.name for path in (tmp_path / "out").glob("*.json"))
    assert files == ["00_price_of_kl_0_seed3.json", "01_usual_seed3.json"]
    free, usual = (json.loads((tmp_path / "out" / name).read_text()) for name in files)
    assert free["arm"] == "Price of KL 0" and free["settings"][-1] == "ppo.kl_coef=0.0"
    assert free["series"]["sft"] == usual["series"]["sft"]
    assert free["series"]["ppo"]["step"] == [1, 2, 3, 4, 5]
    assert free["series"]["ppo"] != usual["series"]["ppo"]
    assert set(free["judged"]["policies"]) == {"reference", "sft", "ppo"}
    assert 0 <= free["judged"]["reward_model"]["accuracy"] <= 1
    # Rank 2 on four square attention matrices of two layers: sizes are read from the file itself.
    assert free["trainable_parameters"] > 0 and free["peak_memory_mb"] > 10
    assert set(free["seconds"]) == set(free["cpu_seconds"]) == {"sft", "reward", "ppo", "evaluation"}
    assert free["cpu_seconds"]["sft"] == usual["cpu_seconds"]["sft"] > 0
    assert free["commit"] and free["hardware"]["cpu"] and free["seed"] == 3


@pytest.mark.slow
def test_each_run_has_its_own_process_and_a_finished_one_is_not_repeated(
    write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = '{"two": [lora.rank=2], "four": [lora.rank=4]}'
    path = write(f"phases: [sft]\nseeds: [0]\nbase: SMALL\narms: {arms}")
    files = run_sweep(path, tmp_path / "out")
    two, four = (json.loads(file.read_text()) for file in files)
    assert four["trainable_parameters"] == 2 * two["trainable_parameters"]
    assert not (tmp_path / "out" / ".work").exists()
    before = [file.read_bytes() for file in files]
    run_sweep(path, tmp_path / "out")
    assert "2 runs, 2 of them done before" in capsys.readouterr().out
    assert [file.read_bytes() for file in files] == before


def test_every_setting_that_a_phase_may_read_is_in_its_key(settings) -> None:
    """The key is of settings, so a change shows without training; ``"other"`` differs from every value."""
    config = settings()
    common = {"seed", "model", "lora", "data"}
    reads = {
        "sft": {"sft"},
        "reward": {"reward"},
        "ppo": {"sft", "reward", "ppo"},
        "dpo": {"sft", "reward", "dpo"},
        "evaluation": {"sft", "reward", "evaluation"},
    }

    def key(phase: str, config, phases=("sft", "reward", "ppo", "dpo", "evaluation")) -> str:
        return phase_key(SimpleNamespace(config=config, split=None), phase, phases)

    changed = {}
    for name in type(config).model_fields:
        section = getattr(config, name)
        if isinstance(section, BaseModel):
            for inner in type(section).model_fields:
                other = section.model_copy(update={inner: "other"})
                changed[f"{name}.{inner}"] = config.model_copy(update={name: other})
        else:
            changed[name] = config.model_copy(update={name: "other"})
    assert len(changed) > 60
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic's, of values of the wrong type
        for phase, sections in reads.items():
            before = key(phase, config)
            for name, other in changed.items():
                differs = key(phase, other) != before
                assert differs == (name.partition(".")[0] in common | sections), (phase, name)
    # Without a phase of its own, the reward section still says which pairs DPO learns from.
    less = changed["reward.prompt_words"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert key("dpo", less, ("sft", "dpo")) != key("dpo", config, ("sft", "dpo"))
    assert key("ppo", config, ("reward", "ppo")) != key("ppo", config)
    split = SimpleNamespace(fingerprint="another file")
    assert phase_key(SimpleNamespace(config=config, split=split), "sft", ("sft",)) != key("sft", config)


@pytest.mark.slow
def test_two_sweeps_work_side_by_side(write, tmp_path: Path) -> None:
    """Two arms with one SFT, each in a process of its own: it is trained once, and both results are there."""
    path = write("phases: [sft, reward]\nseeds: [0]\nbase: SMALL\narms: {a: [], b: [reward.min_gap=1.0]}")
    output = tmp_path / "out"
    command = [sys.executable, "-m", "rlhf_lite.cli.app", "sweep", str(path), "-o", str(output), "--arm"]
    both = [
        subprocess.Popen([*command, arm], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for arm in "ab"
    ]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    files = [output / "00_a_seed0.json", output / "01_b_seed0.json"]
    first, second = (json.loads(file.read_text()) for file in files)
    assert first["series"]["sft"] == second["series"]["sft"]
    assert first["cpu_seconds"]["sft"] == second["cpu_seconds"]["sft"]  # the same training
    assert sorted(entry for entry in output.iterdir() if entry.suffix != ".lock") == files


def test_a_sweep_keeps_what_another_one_uses(write, tmp_path: Path) -> None:
    path = write("phases: [sft]\nseeds: [0]\nbase: SMALL\narms: {a: []}")
    work = tmp_path / "out" / ".work"
    work.mkdir(parents=True)
    (work / ".sweep-dead.lock").touch()  # of a process that was killed
    with held(work / ".sweep-other"):
        with sweep_module.workplace(tmp_path / "out"):
            pass
        assert work.is_dir()
    with sweep_module.workplace(tmp_path / "out"):
        pass
    assert not work.exists() and path.is_file()


def test_other_settings_make_a_run_undone(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "phases: [sft]\nseeds: [0]\nbase: SMALL\narms: "
    job = plan(write(head + "{a: []}"), tmp_path / "out")[0]
    monkeypatch.setattr(sweep_module, "_peak_memory_mb", lambda: None)
    run_job(job)
    again = plan(write(head + "{a: [sft.steps=2]}"), tmp_path / "out")
    assert is_done(job) and not is_done(again[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phases: [sfd]\nseeds: [0]\narms: {a: []}", "unknown phase 'sfd'"),
        ("phases: [sft]\nseeds: [0]\narms: {}", "arms"),
        ("phases: [sft]\nseeds: ['0']\narms: {a: []}", "seeds.0"),
        ("phases: [sft]\nseeds: [0]\narms: {a: []}\nstepps: 3", "stepps"),
        ("phases: [sft]\nseeds: [0]\narms: {a: [sft.stepps=3]}", "arm 'a': .*sft.stepps"),
        ("phases: [sft", "not valid YAML"),
        ("phases: [evaluation]\nseeds: [0]\narms: {a: []}", "nothing to evaluate"),
        ("phases: [sft, dpo]\nseeds: [0]\narms: {a: [], b: [dpo.loss=dop]}", "arm 'b': dpo.loss=dop"),
    ],
)
def test_a_broken_file_is_named_with_its_entry(write, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plan(write(text), tmp_path / "out")
    assert "small.yaml" in str(caught.value)


def test_an_unknown_arm_is_refused(write, tmp_path: Path) -> None:
    path = write('phases: [sft]\nseeds: [0]\nbase: SMALL\narms: {"two": []}')
    with pytest.raises(ConfigError, match=r"no arm 'tow'; there are two"):
        plan(path, tmp_path, arms=["tow"])
    with pytest.raises(ConfigError, match="cannot be read"):
        plan(tmp_path / "missing.yaml", tmp_path)


def test_the_files_in_configs_are_in_order() -> None:
    folder = Path(__file__).parents[2] / "configs"
    sweeps = [path for path in sorted(folder.glob("*.yaml")) if "\narms:" in path.read_text(encoding="utf-8")]
    for path in sweeps:
        assert plan(path, Path("results") / path.stem)
        assert f"rlhf-lite sweep configs/{path.name} --output results/{path.stem}" in path.read_text("utf-8")
