"""What the phases of one run share: settings, folder, log, progress bar, model and texts."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from accelerate import Accelerator
from rich import progress as rich
from rich.console import Console
from torch import Tensor

from rlhf_lite.checkpoint import (
    PHASE_FILE,
    load_step,
    read_phase,
    save_step,
    saved_steps,
    verify_phase,
    write_phase,
)
from rlhf_lite.config import PipelineConfig
from rlhf_lite.data import (
    SplitReport,
    load_preferences,
    load_ratings,
    make_pairs,
    refuse_leaks,
    split_preferences,
    split_prompts,
    split_ratings,
)
from rlhf_lite.data.pairs import normalised
from rlhf_lite.errors import ConfigError, PhaseError
from rlhf_lite.files import atomic_folder, fingerprint, write_json
from rlhf_lite.models.adapters import checksums
from rlhf_lite.models.policy import Policy, load_policy, resolve_precision
from rlhf_lite.models.runtime import compute_device, use_cpu
from rlhf_lite.tracking import MetricsLog
from rlhf_lite.training.settings import Hooks, Resume, RunSettings, pick
from rlhf_lite.types import Preference, Rating

# What a run decided at its start and keeps.
STATE_FILE = "state.json"
_VALIDATION_TEXTS, _SCALE_TEXTS, _CHECK_TEXTS = 64, 200, 300


@dataclass(frozen=True)
class Texts:
    """What each phase may see. No text is in two of train, validation, test and gold.

    Attributes:
        sft_train: (prompt, completion) for supervised fine-tuning.
        sft_validation: the same, for its held-out loss.
        train_pairs: preferences for the reward model.
        test_pairs: preferences for its accuracy.
        ppo_prompts: prompts to sample from in PPO (training split).
        test_prompts: prompts for the evaluation (test split).
        scale_texts: human texts that fix the reward's zero and unit (validation split).
        gold: rated texts, or preferences, for the gold judge alone.
        gold_check: the same from the test split, to measure the judge's agreement with people.
        split: how a preference file was split; None for the ratings.
    """

    sft_train: list[tuple[str, str]]
    sft_validation: list[tuple[str, str]]
    train_pairs: list[Preference]
    test_pairs: list[Preference]
    ppo_prompts: list[str]
    test_prompts: list[str]
    scale_texts: list[str]
    gold: Sequence[Rating] | Sequence[Preference]
    gold_check: Sequence[Rating] | Sequence[Preference]
    split: SplitReport | None = None


def thin(rows: list, n: int) -> list:
    """At most ``n`` rows, spread evenly: the reviews are ordered, the first ones are all positive."""
    return rows if len(rows) <= n else [rows[i * len(rows) // n] for i in range(n)]


def rating_pairs(ratings: Sequence[Rating], settings: str, **options: Any) -> list[Preference]:
    """`data.make_pairs`; what cannot be made is an error that names the ``settings`` it was to follow.

    Raises:
        ConfigError: if so many pairs cannot be made.
    """
    try:
        return make_pairs(ratings, **options)
    except ValueError as error:
        raise ConfigError([f"{settings}: {error}"]) from error


def review_texts(config: PipelineConfig) -> Texts:
    """Texts from the human ratings of movie reviews."""
    splits = split_ratings(load_ratings("movie"))
    words = {"words_min": config.data.prompt_words_min, "words_max": config.data.prompt_words_max}
    cut = {name: split_prompts(rows, **words, unique_prompts=name == "test") for name, rows in splits.items()}
    reward = config.reward
    test_prompts = [prompt for prompt, _ in cut["test"]]
    return Texts(sft_train=cut["train"], sft_validation=thin(cut["validation"], _VALIDATION_TEXTS),
                 train_pairs=rating_pairs(
                     splits["train"], "reward.pairs, reward.min_gap, reward.prompt_words", n=reward.pairs,
                     min_gap=reward.min_gap, prompt_words=reward.prompt_words, seed=config.seed),
                 test_pairs=rating_pairs(
                     splits["test"], "reward.eval_pairs, reward.eval_min_gap, reward.prompt_words",
                     n=reward.eval_pairs, min_gap=reward.eval_min_gap, prompt_words=reward.prompt_words),
                 ppo_prompts=[prompt for prompt, _ in cut["train"]],
                 test_prompts=thin(test_prompts, config.evaluation.prompts),
                 scale_texts=[rating.text for rating in thin(splits["validation"], _SCALE_TEXTS)],
                 gold=thin(splits["gold"], config.evaluation.gold_texts),
                 gold_check=thin(splits["test"], _CHECK_TEXTS))


def preference_texts(config: PipelineConfig) -> Texts:
    """Texts from a preference file: its chosen answers, its pairs and its prompts."""
    records = load_preferences(config.data.source, on_error=config.data.on_error).records
    divided = split_preferences(records, source=config.data.source)
    splits = divided.pairs
    prompts = {name: list(dict.fromkeys(r.prompt for r in rows)) for name, rows in splits.items()}
    asked = {normalised(prompt) for prompt in prompts["train"]}
    unseen = [prompt for prompt in prompts["test"] if normalised(prompt) not in asked]
    return Texts(sft_train=[(r.prompt, r.chosen) for r in splits["train"]],
                 sft_validation=[(r.prompt, r.chosen) for r in thin(splits["validation"], _VALIDATION_TEXTS)],
                 train_pairs=thin(splits["train"], config.reward.pairs),
                 test_pairs=thin(splits["test"], config.reward.eval_pairs), ppo_prompts=prompts["train"],
                 test_prompts=thin(unseen or prompts["test"], config.evaluation.prompts),
                 scale_texts=[r.prompt + r.chosen for r in thin(splits["validation"], _SCALE_TEXTS)],
                 gold=thin(splits["gold"], config.evaluation.gold_texts),
                 gold_check=thin(splits["test"], _CHECK_TEXTS), split=divided.report)


def run_texts(config: PipelineConfig) -> Texts:
    """The texts of a run, from the human ratings or from the preference file that the settings name.

    Raises:
        ConfigError: there is no such file.
        DataError: the file cannot be used, or a text is in two splits.
    """
    source = config.data.source
    if source != "reviews" and not Path(source).exists() and "/" not in source:
        raise ConfigError([f'data.source is {source!r}: neither "reviews" nor an existing file or folder '
                           "nor a Hub id"])
    texts = review_texts(config) if source == "reviews" else preference_texts(config)
    used = {"training": [*texts.sft_train, *texts.train_pairs],
            "validation": [*texts.sft_validation, *texts.scale_texts],
            "testing": [*texts.test_pairs, *texts.gold_check], "the gold judge": texts.gold}
    refuse_leaks({name: itertools.chain.from_iterable(map(whole_texts, rows)) for name, rows in used.items()},
                 source=source)
    return texts


def whole_texts(row: Preference | Rating | tuple[str, str] | str) -> list[str]:
    """The texts that a row of any kind holds: prompt and answer in one."""
    if isinstance(row, Preference):
        return [row.prompt + row.chosen, row.prompt + row.rejected]
    return [row.text if isinstance(row, Rating) else "".join(row)]


class Run:
    """One run: its settings, folder and log, and the model and texts that every phase uses.

    Args:
        config: the settings.
        output: folder of the run.
        visible: show progress.
    """

    def __init__(self, config: PipelineConfig, output: Path, *, visible: bool = True) -> None:
        self.config, self.output, self.visible = config, output, visible
        self.accelerator = make_accelerator(config.model.threads)
        self.log = MetricsLog(output / "metrics.jsonl" if self.is_main else os.devnull)
        self.seconds: dict[str, float] = {}

    @property
    def is_main(self) -> bool:
        """Whether this process writes: of several that share a run, one does."""
        return self.accelerator.is_main_process

    @cached_property
    def precision(self) -> Literal["fp32", "bf16"]:
        """How models are held in memory. What ``auto`` meant at the start of the run holds to its end.

        The processor decides what ``auto`` means, and a run may be continued on another one.
        """
        precision = self.config.model.precision
        if precision != "auto":
            return precision
        if self.is_main and "precision" not in self._state():
            write_json(self.output / STATE_FILE, self._state() | {"precision": resolve_precision(precision)})
        self.accelerator.wait_for_everyone()
        return resolve_precision(self._state()["precision"])

    @property
    def device(self) -> torch.device:
        """Where the models of this run are, and where they compute."""
        return self.accelerator.device

    def load_policy(self, name: str | None = None) -> Policy:
        """A new copy of the untouched model (or of another one), ready to compute."""
        name = self.config.model.name if name is None else name
        return load_policy(name, precision=self.precision, device=self.device)

    @cached_property
    def policy(self) -> Policy:
        """The untouched model and its tokenizer, kept as long as the run."""
        return self.load_policy()

    @cached_property
    def texts(self) -> Texts:
        """The texts of the run, by split."""
        return run_texts(self.config)

    @property
    def split(self) -> SplitReport | None:
        """How the run's preference file was split; None for the ratings."""
        return None if self.config.data.source == "reviews" else self.texts.split

    def keep_split(self) -> None:
        """Say how the file was split, and keep to it: a run goes on with the split that it began with.

        Raises:
            PhaseError: the run was begun with another split, so what it trained on may be held out now.
        """
        split = self.split
        if split is None:
            return
        begun = [*self.output.glob(f"*/{PHASE_FILE}"), *self.output.glob("checkpoints/*/step-*")]
        if begun and self._state().get("split") != split.fingerprint:
            raise PhaseError(f"{self.output} was begun with another split of {split.source}: the file has "
                             "changed since, or an older version divided it by prompts alone. What was "
                             "trained there may have seen what is held out now: start anew with another "
                             "--output")
        if self.is_main:
            write_json(self.output / STATE_FILE, self._state() | {"split": split.fingerprint})
            if self.visible:
                print(split.summary(), file=sys.stderr)
        self.accelerator.wait_for_everyone()

    def _state(self) -> dict[str, Any]:
        place = self.output / STATE_FILE
        return json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What two phases must have in common: model, tokenizer and adapter settings."""
        # Kept only if somebody keeps it anyway: a phase loads its own.
        model, tokenizer, _ = vars(self).get("policy") or self.load_policy()
        told, apart = model.config.to_dict(), ("transformers_version", "dtype")
        shape = {key: told[key] for key in told if not key.startswith("_") and key not in apart}
        first = model.get_input_embeddings().weight[:16].cpu().bfloat16().float().sum(1).tolist()
        return {"model": fingerprint([shape, [round(value, 3) for value in first]]),
                "weights": fingerprint(checksums(model, torch.bfloat16)),
                "tokenizer": fingerprint(sorted(tokenizer.get_vocab().items())),
                "lora": self.config.lora.model_dump()}

    def checkpoints(self, phase: str) -> Path:
        """Where a phase keeps the states it can resume from."""
        return self.output / "checkpoints" / phase

    def finished(self, phase: str) -> bool:
        """Whether the phase's result is there; it is verified when it is used."""
        return read_phase(self.output / phase) is not None

    def verify(self, phase: str) -> dict[str, Any]:
        """Check that a finished phase fits this run's model, tokenizer and settings."""
        expected = self.identity | {"settings": self.settings(phase)}
        if "weights" not in (read_phase(self.output / phase) or {}):
            del expected["weights"]  # earlier versions looked at the first rows of the embedding alone
        if phase in ("ppo", "dpo"):
            expected["reference"] = "sft" if self.finished("sft") else "base"
        return verify_phase(self.output / phase, expected)

    def settings(self, phase: str) -> dict[str, Any]:
        """The settings that a phase's result depends on, besides the model's."""
        section = getattr(self.config, phase).model_dump(mode="json")
        return section | {"seed": self.config.seed, "data": self.config.data.model_dump(mode="json")}

    @contextmanager
    def training(self, phase: str, status: str, **settings: Any) -> Iterator[RunSettings]:
        """Run a phase's trainer: progress bar, log and checkpoints, continuing after its last saved step.

        Args:
            phase: its section of the configuration gives what it has of :class:`RunSettings`.
            status: what the progress bar says of a step, with the metrics' names in braces.
            **settings: the other fields of :class:`RunSettings`.
        """
        folder, resume, before = self.checkpoints(phase), None, 0.0
        done = saved_steps(folder)
        if done:
            tensors, numbers = load_step(folder, done[-1])
            before = numbers.pop("seconds")
            resume = Resume(done[-1], tensors, numbers)
        self.log.truncate_after(phase, done[-1] if done else -1)
        started = time.monotonic()

        def elapsed() -> float:
            return before + time.monotonic() - started

        main = self.is_main
        section = dict(getattr(self.config, phase)) | settings
        with bar(phase, section["steps"], visible=self.visible and main) as show:

            def on_step(step: int, metrics: Mapping[str, float]) -> None:
                if main:
                    self.log.log(phase, step, metrics, seconds=elapsed())
                show(step, status.format_map(metrics))

            def save(step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
                if main:
                    numbers = {**numbers, "seconds": elapsed()}
                    save_step(folder, step, tensors, numbers, keep=self.config.checkpoint.keep)
                self.accelerator.wait_for_everyone()

            every, bad = self.config.checkpoint.every_steps, self.output / "bad-batches"
            yield pick(RunSettings, section, seed=self.config.seed, accelerator=self.accelerator,
                       hooks=Hooks(on_step, save, every, bad_batches=bad), resume=resume)
        self.seconds[phase] = elapsed()

    @contextmanager
    def result(self, phase: str, **extra: Any) -> Iterator[Path]:
        """A folder to put a phase's result into; it appears complete, with its record, or not at all.

        The phase's checkpoints are removed when the result is there.
        """
        # Another process writes what nobody will see: a context cannot leave its block out.
        with atomic_folder(self.output / phase) if self.is_main else TemporaryDirectory() as folder:
            yield Path(folder)
            record = {"phase": phase, "seconds": self.seconds.get(phase), "settings": self.settings(phase)}
            write_phase(Path(folder), record | self.identity | extra)
        if self.is_main:
            shutil.rmtree(self.checkpoints(phase), ignore_errors=True)
        self.accelerator.wait_for_everyone()


def make_accelerator(threads: int | None) -> Accelerator:
    """The accelerator of this process, on ``runtime.compute_device``.

    It keeps the number of CPU threads, which accelerate would lower.
    """
    threads = use_cpu(threads)
    accelerator = Accelerator(cpu=compute_device().type == "cpu")
    use_cpu(threads)
    return accelerator


class PhaseProgress:
    """One phase's progress: call it with the number of finished steps and a short status line."""

    def __init__(self, name: str, total: int, progress: rich.Progress | None) -> None:
        self._name, self._total, self._progress = name, total, progress
        self._started, self._first = time.monotonic(), None
        self._task = None if progress is None else progress.add_task(name, total=total, status="")

    def __call__(self, done: int, status: str = "") -> None:
        """Show that ``done`` steps are finished."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, status=status)
            return
        if self._first is None:
            self._first = done - 1
        if done == self._total or done % max(1, self._total // 10) == 0:
            elapsed = time.monotonic() - self._started
            left = elapsed / max(1, done - self._first) * (self._total - done)
            line = f"{self._name:<12} {done:>4}/{self._total}  {elapsed:5.0f} s, {left:4.0f} s left  {status}"
            print(line, file=sys.stderr, flush=True)


@contextmanager
def bar(name: str, total: int, *, visible: bool = True) -> Iterator[PhaseProgress]:
    """A bar with the time of a phase of ``total`` steps and what remains; plain lines off a terminal."""
    console = Console(stderr=True)
    if not visible:
        yield PhaseProgress(name, total + 1, rich.Progress(disable=True))
    elif not console.is_terminal:
        yield PhaseProgress(name, total, None)
    else:
        columns = (rich.SpinnerColumn(), rich.TextColumn("{task.description:<12}"),
                   rich.BarColumn(bar_width=24), rich.MofNCompleteColumn(), rich.TimeElapsedColumn(),
                   rich.TextColumn("left"), rich.TimeRemainingColumn(),
                   rich.TextColumn("{task.fields[status]}"))
        with rich.Progress(*columns, console=console) as progress:
            yield PhaseProgress(name, total, progress)
