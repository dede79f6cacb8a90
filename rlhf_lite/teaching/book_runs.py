"""The runs that chapters share, in the cache folder.

Of the quick start's kind: chapter 3 makes SFT, 5 the reward model, 9 PPO, 12 DPO, and 17 compares. Of
Constitutional AI: 15 makes it before the reader's eyes, 17 compares.

A chapter that *makes* a part calls ``remake`` and trains it before the reader's eyes. A chapter that *uses* a
part calls ``require``: what is missing is trained then, so that every chapter also runs alone.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rlhf_lite.config import PipelineConfig, budget, load_config
from rlhf_lite.data.assets.ensure import cache_dir
from rlhf_lite.errors import CheckpointError
from rlhf_lite.evaluation.gold import GoldJudge
from rlhf_lite.files import fingerprint
from rlhf_lite.pipeline.cai.config import CAIConfig, load_cai_config
from rlhf_lite.pipeline.cai.run import CAI_TRAINING
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.judging import EvaluationCache, fit_run_judge
from rlhf_lite.pipeline.run import TRAINING

SIZES = {
    "fast": ["data.max_tokens=32", "sft.steps=12", "evaluation.prompts=64", "evaluation.gold_texts=400",
             "reward.pairs=384", "reward.batch_size=16", "reward.learning_rate=1.5e-3",
             "reward.warmup_steps=4", "reward.eval_pairs=320", "ppo.steps=6", "ppo.prompts_per_step=28",
             "ppo.minibatches=2", "ppo.warmup_steps=1", "ppo.learning_rate=2.0e-3", "dpo.pairs=320",
             "dpo.warmup_steps=2", "dpo.learning_rate=2.0e-3"],
    "full": [],  # the sizes of `rlhf-lite quickstart`
}  # fmt: skip
CAI_SIZES = {
    "fast": ["data.principles=[no-insults, no-swearing, no-threats, own-opinion]", "revise.prompts=24",
             "revise.rounds=2", "sft.steps=6", "sft.batch_size=12", "feedback.principles=[no-insults]",
             "feedback.prompts=24", "feedback.candidates=3", "feedback.compare=false", "dpo.epochs=1",
             "evaluation.prompts=40", "evaluation.samples=1"],
    "full": ["data.principles=[no-insults, no-swearing, no-threats, own-opinion]"],
}  # fmt: skip
_ALWAYS = ["seed=0", "checkpoint.every_steps=1000"]


class _Kind(NamedTuple):
    """What chapters know about a kind of run, by phase."""

    makers: Mapping[str, Callable[[Run], None]]  # what makes it
    chapters: Mapping[str, str]  # where it is made before the reader's eyes
    built_on: Mapping[str, Sequence[str]]  # what stands on it and is forgotten with it
    needs: Mapping[str, Sequence[str]]  # what has to be there before it


# What is forgotten with a part, because it stands on it. DPO stands on people's pairs, not on the reward.
BUILT_ON = {"sft": ("ppo", "dpo"), "reward": ("ppo",), "ppo": (), "dpo": ()}
_CHAPTERS = {"sft": "3 (supervised fine-tuning)", "reward": "5 (reward modelling)", "ppo": "9 (PPO)",
             "dpo": "12 (DPO)"}
_PIPELINE = _Kind(TRAINING, _CHAPTERS, BUILT_ON, dict.fromkeys(TRAINING, ()))  # a chapter names its needs
_CAI_ORDER = tuple(CAI_TRAINING)
_CAI = _Kind(CAI_TRAINING, dict.fromkeys(_CAI_ORDER, "15 (Constitutional AI)"),
             {name: _CAI_ORDER[place + 1 :] for place, name in enumerate(_CAI_ORDER)},
             {name: _CAI_ORDER[:place] for place, name in enumerate(_CAI_ORDER)})


def chapter_run() -> Run:
    """The run that chapters 3, 5, 9, 12, 13 and 17 share, in the cache folder.

    Its folder is named by budget and settings, so a change of settings begins a new one. With the fast budget
    there are fewer texts to measure on, and no live progress bar.
    """
    changes = [*_ALWAYS, "checkpoint.save_merged=false", *SIZES[budget()]]
    run = _shared_run(load_config(None, changes), budget())
    if budget() == "fast":
        names = ("sft_validation", "scale_texts", "gold_check")
        fewer = {name: getattr(run.texts, name)[::2] for name in names}
        run.texts = dataclasses.replace(run.texts, **fewer)
    return run


def cai_chapter_run() -> Run:
    """The constitutional run that chapters 15 and 17 share, in the cache folder; named like `chapter_run`."""
    config = load_cai_config(None, [*_ALWAYS, *CAI_SIZES[budget()]])
    return _shared_run(config, f"cai-{budget()}")


def _shared_run(config: PipelineConfig | CAIConfig, name: str) -> Run:
    """A run in the cache, in a folder named by ``name`` and the settings; made if it is not there."""
    settings = config.model_dump(mode="json", exclude={"output", "checkpoint"})
    folder = cache_dir() / "chapters" / f"{name}-{fingerprint(settings)[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.yaml").is_file():
        config.save(folder / "config.yaml")
    return Run(config, folder, visible=False)


def remake(run: Run, phase: str) -> None:
    """Forget a part of a shared run and what was built on it, so that the chapter can make it anew.

    Raises:
        ValueError: if no chapter makes this phase.
    """
    for name in (phase, *_kind_of(run, phase).built_on[phase]):
        shutil.rmtree(run.output / name, ignore_errors=True)
        shutil.rmtree(run.checkpoints(name), ignore_errors=True)


def require(run: Run, *phases: str) -> None:
    """Make sure that parts of a shared run are there and fit; train what is missing, and say so.

    A part that an earlier version of the code left behind and that no longer fits is made anew. In a
    constitutional run every phase needs those before it.

    Raises:
        ValueError: if no chapter makes one of the phases.
    """
    wanted = [name for phase in phases for name in (*_kind_of(run, phase).needs[phase], phase)]
    for phase in dict.fromkeys(wanted):
        kind = _kind_of(run, phase)
        if run.finished(phase) and fits(run, phase):
            print(f"{phase}: from chapter {kind.chapters[phase]}, found in the cache")
            continue
        print(f"{phase}: not there yet, made now as in chapter {kind.chapters[phase]} ...", flush=True)
        remake(run, phase)
        kind.makers[phase](run)
        print(f"{phase}: took {run.seconds[phase]:.0f} s")


def chapter_gold(run: Run) -> GoldJudge:
    """The gold judge of the shared run, fitted by the first chapter that needs it and kept for the others.

    It is kept under the model and the texts that it was fitted to, so other texts give another judge.
    """
    made_of = fingerprint([run.identity, [repr(row) for row in run.texts.gold]])
    return fit_run_judge(run, run.policy, EvaluationCache(run.output / "gold" / made_of[:12]))


def fits(run: Run, phase: str) -> bool:
    """Whether a finished phase was made by these settings and this version."""
    try:
        run.verify(phase)
    except CheckpointError:  # made by other settings or an older version: the caller makes it anew
        return False
    return True


def _kind_of(run: Run, phase: str) -> _Kind:
    kind = _CAI if isinstance(run.config, CAIConfig) else _PIPELINE
    if phase not in kind.makers:
        known = " or ".join(map(repr, kind.makers))
        raise ValueError(f"no chapter makes the phase {phase!r}; use {known}")
    return kind
