"""The constitutional run that chapters share: 15 makes it before the reader's eyes, 17 compares policies."""

from __future__ import annotations

import shutil

from rlhf_lite.config import budget
from rlhf_lite.pipeline.cai.config import CAIConfig, load_cai_config
from rlhf_lite.pipeline.cai.run import CAI_TRAINING
from rlhf_lite.pipeline.context import Run
from rlhf_lite.teaching.book_runs import fits, shared_run

CAI_SIZES = {
    "fast": [
        "data.principles=[no-insults, no-swearing, no-threats, own-opinion]",
        "revise.prompts=24", "revise.rounds=2", "sft.steps=6", "sft.batch_size=12",
        "feedback.principles=[no-insults]", "feedback.prompts=24", "feedback.candidates=3",
        "feedback.compare=false", "dpo.epochs=1", "evaluation.prompts=40", "evaluation.samples=1",
    ],
    "full": ["data.principles=[no-insults, no-swearing, no-threats, own-opinion]"],
}  # fmt: skip
_ALWAYS = ["seed=0", "checkpoint.every_steps=1000"]
_ORDER = tuple(CAI_TRAINING)


def cai_chapter_config() -> CAIConfig:
    """The settings of the shared constitutional run at the present budget."""
    return load_cai_config(None, [*_ALWAYS, *CAI_SIZES[budget()]])


def cai_chapter_run() -> Run:
    """The constitutional run that chapters 15 and 17 share, in the cache folder.

    Its folder is named by budget and settings, so a change of settings begins a new one.
    """
    return shared_run(cai_chapter_config(), f"cai-{budget()}")


def remake_cai(run: Run, phase: str) -> None:
    """Forget a phase and all that stand on it, so that the chapter can make it anew.

    Raises:
        ValueError: if there is no such phase.
    """
    for name in _ORDER[_place(phase) :]:
        shutil.rmtree(run.output / name, ignore_errors=True)
        shutil.rmtree(run.checkpoints(name), ignore_errors=True)


def require_cai(run: Run, *phases: str) -> None:
    """Make sure that phases of the shared run are there and fit, and those they stand on; say what is made.

    Raises:
        ValueError: if there is no such phase.
    """
    last = max(map(_place, phases))
    for phase in _ORDER[: last + 1]:
        if run.finished(phase) and fits(run, phase):
            print(f"{phase}: from chapter 15 (Constitutional AI), found in the cache")
            continue
        print(f"{phase}: not there yet, made now as in chapter 15 (Constitutional AI) ...", flush=True)
        remake_cai(run, phase)
        CAI_TRAINING[phase](run)
        print(f"{phase}: took {run.seconds[phase]:.0f} s")


def _place(phase: str) -> int:
    if phase not in _ORDER:
        raise ValueError(f"no chapter makes the phase {phase!r}; use {' or '.join(map(repr, _ORDER))}")
    return _ORDER.index(phase)
