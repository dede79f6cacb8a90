"""The run that chapters share: made, found again, forgotten, made anew when it does not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rlhf_lite.data.formatting import encode_prompts
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.phases import build_ppo_setup, save_run_ppo
from rlhf_lite.teaching import book_runs as chapters
from rlhf_lite.training.ppo import PPOSettings, train_ppo
from rlhf_lite.training.settings import Hooks, OptimiserSettings, RunSettings, pick


@pytest.fixture
def run(settings, tmp_path: Path) -> Run:
    return Run(settings(), tmp_path / "run", visible=False)


def test_what_is_missing_is_trained_and_then_found(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    chapters.require(run, "sft", "reward")
    assert "sft: not there yet" in capsys.readouterr().out
    chapters.require(run, "reward", "sft")
    assert "not there yet" not in capsys.readouterr().out
    chapters.remake(run, "sft")
    assert not run.finished("sft") and run.finished("reward")


def test_what_does_not_fit_is_made_anew(run: Run, settings, capsys: pytest.CaptureFixture[str]) -> None:
    chapters.require(run, "sft")
    other = Run(settings({"sft.steps": 2}), run.output, visible=False)
    capsys.readouterr()
    chapters.require(other, "sft")
    assert "not there yet" in capsys.readouterr().out
    assert other.verify("sft")["steps"] == 2


def test_no_chapter_makes_the_evaluation(run: Run) -> None:
    with pytest.raises(ValueError, match="'sft' or 'reward' or 'ppo' or 'dpo'"):
        chapters.require(run, "evaluation")


def test_what_stands_on_a_part_is_forgotten_with_it(run: Run) -> None:
    chapters.require(run, "sft", "reward", "ppo", "dpo")
    chapters.remake(run, "reward")
    assert not run.finished("reward") and not run.finished("ppo")
    assert run.finished("sft") and run.finished("dpo")
    chapters.remake(run, "sft")
    assert not run.finished("dpo")


def test_budgets_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chapters, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(Run, "texts", property(lambda self: None))
    monkeypatch.setenv("RLHF_LITE_BUDGET", "full")
    full = chapters.chapter_run()
    assert full.output.parent == tmp_path / "chapters" and full.output.name.startswith("full-")
    assert chapters.chapter_run().output == full.output
    assert full.config.seed == 0 and full.config.sft.steps == 30


def test_the_gold_judge_is_fitted_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["A fine film.", "A dull film."]
    first = chapters.chapter_gold(run)(texts)
    monkeypatch.setattr("rlhf_lite.pipeline.judging.fit_gold_judge", lambda *_, **__: pytest.fail("again"))
    assert chapters.chapter_gold(run)(texts).tolist() == first.tolist()
    run.texts = dataclasses.replace(run.texts, gold=run.texts.gold[::-1])
    with pytest.raises(pytest.fail.Exception, match="again"):
        chapters.chapter_gold(run)


def test_a_chapter_that_trains_ppo_itself_leaves_what_the_phase_would(run: Run, settings, tmp_path) -> None:
    """Chapter 9 calls the trainer, to look into it; later chapters must find the policy of ``run_ppo``."""
    chapters.require(run, "sft", "reward", "ppo")
    wanted = load_file(run.output / "ppo" / "adapter" / "adapter_model.safetensors")
    chapters.remake(run, "ppo")
    setup, config = build_ppo_setup(run, trained=False), run.config.ppo
    train_ppo(
        setup.training,
        encode_prompts(setup.policy.tokenizer, run.texts.ppo_prompts),
        pick(PPOSettings, config),
        optimiser=pick(OptimiserSettings, config),
        run=RunSettings(
            steps=config.steps,
            batch_size=config.prompts_per_step,
            seed=run.config.seed,
            accelerator=run.accelerator,
            hooks=Hooks(lambda step, metrics: None),
        ),
    )
    save_run_ppo(run, setup)
    assert run.finished("ppo") and chapters.fits(run, "ppo")
    found = load_file(run.output / "ppo" / "adapter" / "adapter_model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(found[name].equal(wanted[name]) for name in wanted)
