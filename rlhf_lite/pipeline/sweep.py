"""Many runs from one file: a few settings varied, each over several seeds, one JSON file for each run.

The file names the phases to run, the seeds, settings that all arms share, and the arms:

    phases: [sft]
    seeds: [0, 1, 2]
    base: [sft.steps=30]
    arms:
      "rank 1": [lora.rank=1, lora.alpha=2.0]
      "rank 4": [lora.rank=4, lora.alpha=8.0]

Arms of a seed that agree in everything a phase depends on share its result: it is trained once. Every run has
a process of its own, so that its peak of memory is its own. ``seconds`` are by the clock; ``cpu_seconds``
count the work of all threads, whatever else the machine was doing.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import safe_open

from rlhf_lite.checkpoint import read_phase
from rlhf_lite.config import PipelineConfig, load_config
from rlhf_lite.config.reading import read_model
from rlhf_lite.data import load_ratings, make_pairs, split_ratings
from rlhf_lite.errors import ConfigError, PhaseError
from rlhf_lite.files import atomic_folder, fingerprint, remove_leftovers, write_json
from rlhf_lite.outputs import held, is_held, require_folder
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.judging import judge_reward_model, run_evaluation
from rlhf_lite.pipeline.phases import load_run_reward
from rlhf_lite.pipeline.plan import check_plan, loss_problems
from rlhf_lite.pipeline.run import PHASES, TRAINING, metrics_of
from rlhf_lite.tracking import read_metrics, run_info

SCHEMA = 1
_LOG = "sweep-log.json"
# Settings that change where a result is kept, and not the result.
_NO_MATTER = {"output", "method", "checkpoint"}


class Sweep(BaseModel):
    """The content of a sweep's file; see the module's text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    phases: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    base: list[str] = []
    arms: dict[str, list[str]] = Field(min_length=1)

    @field_validator("phases")
    @classmethod
    def _phases_exist(cls, names: list[str]) -> list[str]:
        if unknown := [name for name in names if name not in PHASES]:
            raise ValueError(f"unknown phase {unknown[0]!r}; the phases are {', '.join(PHASES)}")
        if names == ["evaluation"]:
            raise ValueError("there is nothing to evaluate: name a phase that trains as well")
        return [name for name in PHASES if name in names]


@dataclass(frozen=True)
class Job:
    """One run of a sweep: an arm with a seed."""

    sweep: str
    phases: tuple[str, ...]
    arm: str
    seed: int
    overrides: tuple[str, ...]
    command: str
    work: Path
    result: Path

    @property
    def name(self) -> str:
        """Of this run, among those of its seed."""
        return self.result.stem

    @property
    def config(self) -> PipelineConfig:
        """The settings of this run."""
        return load_config(None, [*self.overrides, f"seed={self.seed}"])


def load_sweep(path: Path) -> Sweep:
    """Read a sweep's file and check every arm's settings.

    Raises:
        ConfigError: naming the file, the entry, the value received and what was expected.
    """
    sweep = read_model(Sweep, Path(path))
    for arm, overrides in sweep.arms.items():
        try:
            config = load_config(None, [*sweep.base, *overrides])
            if problems := [*loss_problems(config, sweep.phases)]:
                raise ConfigError(problems)
        except ConfigError as error:
            raise ConfigError([f"{path}: arm {arm!r}: {problem}" for problem in error.problems]) from error
    return sweep


def plan(path: Path, output: Path, *, arms: list[str] | None = None,
         seeds: list[int] | None = None) -> list[Job]:
    """The runs of a sweep, seed by seed, so that arms can share phases.

    Args:
        path: the sweep's file.
        output: folder of the JSON files.
        arms: only these arms; None is all.
        seeds: these seeds instead of the file's.

    Raises:
        ConfigError: if the file is broken or an arm does not exist.
    """
    sweep = load_sweep(path)
    unknown = [arm for arm in arms or () if arm not in sweep.arms]
    if unknown:
        raise ConfigError([f"{path}: there is no arm {unknown[0]!r}; there are {', '.join(sweep.arms)}"])
    files = {arm: f"{i:02d}_{re.sub(r'[^a-z0-9]+', '_', arm.lower()).strip('_')}"
             for i, arm in enumerate(sweep.arms)}
    return [Job(sweep=path.stem, phases=tuple(sweep.phases), arm=arm, seed=seed,
                overrides=(*sweep.base, *overrides), command=f"rlhf-lite sweep {path} --output {output}",
                work=output / ".work" / f"seed{seed}", result=output / f"{files[arm]}_seed{seed}.json")
            for seed in seeds or sweep.seeds
            for arm, overrides in sweep.arms.items() if not arms or arm in arms]


def is_done(job: Job) -> bool:
    """Whether the run's file is there and was made with these settings and phases.

    Files from before a preference file was split by what its pairs share are made anew.
    """
    try:
        record = json.loads(job.result.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet, or cut short by a kill: to be run
        return False
    same = {"settings": list(job.overrides), "phases": list(job.phases), "seed": job.seed, "schema": SCHEMA}
    divided = job.config.data.source == "reviews" or "split" in record
    return divided and all(record.get(key) == value for key, value in same.items())


def run_sweep(path: Path, output: Path, *, arms: list[str] | None = None,
              seeds: list[int] | None = None) -> list[Path]:
    """Run what is not there yet; a killed sweep goes on where it was when it is started again.

    Returns:
        The JSON files of the sweep.

    Raises:
        ConfigError: if the sweep's file is broken.
        PhaseError: if a run failed; the files of the others are kept.
    """
    jobs = plan(path, output, arms=arms, seeds=seeds)
    require_folder(output)
    context = multiprocessing.get_context("spawn")
    waiting = [job for job in jobs if not is_done(job)]
    print(f"{len(jobs)} runs, {len(jobs) - len(waiting)} of them done before", flush=True)
    with workplace(output):
        for number, job in enumerate(waiting, start=1):
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                try:
                    line = pool.submit(run_job, job).result()
                except Exception as error:
                    how = f"is kept in {output}; mend the cause and start the same command again"
                    raise PhaseError(f"arm {job.arm!r}, seed {job.seed} failed: {error}\n"
                                     f"What is finished {how}") from error
            print(f"{number}/{len(waiting)}  {job.arm}, seed {job.seed}: {line}", flush=True)
    return [job.result for job in jobs]


@contextmanager
def workplace(output: Path) -> Iterator[None]:
    """The folder of what the arms share. Of the sweeps that use it side by side, the last one removes it."""
    work, door = output / ".work", output / ".sweep"
    with ExitStack() as stack:
        output.mkdir(parents=True, exist_ok=True)
        with held(door):
            work.mkdir(exist_ok=True)
            stack.enter_context(held(work / f".sweep-{os.urandom(4).hex()}"))
        yield
    with held(door):
        if not any(is_held(lock.with_suffix("")) for lock in work.glob(".sweep-*.lock")):
            shutil.rmtree(work, ignore_errors=True)


def run_job(job: Job) -> str:
    """Run one arm with one seed in this process and write its file; returns a line for the log.

    Several processes may run jobs of one folder side by side: each run, and each shared phase, is one
    process's at a time, and the others wait and take what it made.
    """
    job.work.mkdir(parents=True, exist_ok=True)
    with held(job.work / f".{job.name}", partial(_say_wait, job.name)):
        return "made by another sweep" if is_done(job) else _run_job(job)


def _say_wait(name: str, who: str) -> None:
    print(f"waiting for {who}, which is making {name}", flush=True)


def _run_job(job: Job) -> str:
    config, info = job.config, run_info(seed=job.seed)
    folder = job.work / f"run-{job.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run = Run(config, folder, visible=False)
    run.keep_split()
    check_plan(run, job.phases)
    split = None if run.split is None else asdict(run.split)
    seconds: dict[str, float] = {}
    cpu_seconds: dict[str, float] = {}
    series: dict[str, dict[str, list[Any]]] = {}
    judged: dict[str, Any] = {}
    for phase in job.phases:
        before = time.process_time()
        if phase == "evaluation":
            judged |= run_evaluation(run, shared=job.work / f"evaluation-{phase_key(run, phase, job.phases)}")
            seconds[phase] = round(run.seconds[phase], 2)
            cpu_seconds[phase] = round(time.process_time() - before, 2)
            continue
        shared = job.work / f"{phase}-{phase_key(run, phase, job.phases)}"
        with held(job.work / f".{shared.name}", partial(_say_wait, shared.name)):
            remove_leftovers(job.work, shared.name)
            if not shared.is_dir():
                TRAINING[phase](run)
                used = round(time.process_time() - before, 2)
                log = {"cpu_seconds": used, "series": _series(folder, phase)}
                with atomic_folder(shared) as temporary:  # for other arms
                    shutil.copytree(folder / phase, temporary, dirs_exist_ok=True)
                    write_json(temporary / _LOG, log)
        if not (folder / phase).is_dir():
            shutil.copytree(shared, folder / phase, ignore=shutil.ignore_patterns(_LOG))
        log = json.loads((shared / _LOG).read_text(encoding="utf-8"))
        series[phase], cpu_seconds[phase] = log["series"], log["cpu_seconds"]
        record = read_phase(folder / phase) or {}
        seconds[phase] = round(float(record.get("seconds") or 0.0), 2)
    if "reward" in job.phases:
        judged["reward_model"] = _reward_accuracy(run, judged.get("reward_model"))
    last = [phase for phase in job.phases if phase != "evaluation"][-1]
    result = metrics_of(info, job.command, schema=SCHEMA, sweep=job.sweep, arm=job.arm, seed=job.seed,
                        phases=list(job.phases), settings=list(job.overrides), precision=run.precision,
                        split=split, seconds=seconds, cpu_seconds=cpu_seconds,
                        peak_memory_mb=_peak_memory_mb(),
                        trainable_parameters=_adapter_parameters(folder / last), series=series, judged=judged)
    write_json(job.result, result)
    run.log.close()
    shutil.rmtree(folder, ignore_errors=True)
    return f"{sum(seconds.values()):.0f} s of phases"


def phase_key(run: Run, phase: str, phases: Sequence[str]) -> str:
    """A hash of everything a phase may read: all settings but those of phases that it does not stand on.

    PPO and DPO stand on the phases before them that the sweep runs. DPO's pairs, and what the evaluation
    keeps, follow the reward model's settings even where none is trained. A file counts by its split.
    """
    before = {"sft", "reward"} & {*phases} if phase in ("ppo", "dpo", "evaluation") else set()
    read = {phase, *before, *({"reward"} if phase in ("dpo", "evaluation") else ())}
    settings = run.config.model_dump(mode="json", exclude={*_NO_MATTER, *({*PHASES} - read)})
    split = None if run.split is None else run.split.fingerprint
    return fingerprint([settings, sorted(before), split])


def _series(folder: Path, phase: str) -> dict[str, list[Any]]:
    """The phase's log, one list for each metric; None where a step did not log it."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["phase"] == phase]
    names = dict.fromkeys(name for row in rows for name in row if name != "phase")
    return {name: [row.get(name) for row in rows] for name in names}


def _reward_accuracy(run: Run, on_test: dict[str, Any] | None) -> dict[str, Any]:
    """How the reward model does on held-out pairs: choices are made on "validation", reported on "test"."""
    model, reward = load_run_reward(run), run.config.reward
    gap = reward.eval_min_gap
    accuracy = dict(on_test or judge_reward_model(model, run.texts.test_pairs, min_gap=gap))
    if run.config.data.source == "reviews":
        texts = split_ratings(load_ratings("movie"))["validation"]
        pairs = make_pairs(texts, n=reward.eval_pairs, min_gap=gap, prompt_words=reward.prompt_words)
        accuracy["validation"] = judge_reward_model(model, pairs, min_gap=gap)
    return accuracy


def _adapter_parameters(folder: Path) -> int | None:
    """How many numbers the phase's adapter holds."""
    path = folder / "adapter" / "adapter_model.safetensors"
    if not path.is_file():
        return None
    with safe_open(str(path), "pt") as tensors:
        names = list(tensors.keys())
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)


def _peak_memory_mb() -> float | None:
    """The most memory this process has held, where the system tells (not on Windows)."""
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)
