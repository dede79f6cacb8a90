"""What the phases of one run share: settings, folder, log, progress bar, model and texts."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from accelerate import Accelerator
from rich import progress as rich
from rich.console import Console
from torch import Tensor
from transformers import AutoConfig

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
from rlhf_lite.data import SplitReport
from rlhf_lite.data.chat import TemplateKind, write_template
from rlhf_lite.data.row_counts import RowCounts, rows_line
from rlhf_lite.errors import ConfigError, PhaseError
from rlhf_lite.files import absolute, atomic_folder, fingerprint, write_json
from rlhf_lite.models.adapters import checksums
from rlhf_lite.models.names import resolve_model
from rlhf_lite.models.output import window_of
from rlhf_lite.models.policy import Policy, load_policy, load_tokenizer, resolve_precision
from rlhf_lite.models.runtime import compute_device, use_cpu
from rlhf_lite.pipeline.limits import limit_from_texts
from rlhf_lite.pipeline.texts import Texts, run_texts
from rlhf_lite.tracking import MetricsLog
from rlhf_lite.training.settings import Hooks, Resume, RunSettings, pick

# What a run decided at its start and keeps.
STATE_FILE = "state.json"


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
        self.rows: dict[str, dict[str, Any]] = {}  # by phase, see account

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
        return resolve_precision(self._settled("precision", lambda: resolve_precision(precision)))

    def _settled(self, name: str, decide: Callable[[], Any]) -> Any:
        """What the run decided at its start, and keeps."""
        state = self._state()
        if name not in state:
            decided = decide()
            state = self._state() | {name: decided}
            if self.is_main:
                write_json(self.output / STATE_FILE, state)
            self.accelerator.wait_for_everyone()
        return state[name]

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
        texts = run_texts(self.config)
        if texts.source is not None and self.is_main and self.visible:
            texts.source.tell()
        return texts

    @property
    def template(self) -> TemplateKind:
        """How the run writes conversations."""
        source = self.texts.source if isinstance(self.config, PipelineConfig) else None
        return "plain" if source is None else source.template

    @cached_property
    def max_tokens(self) -> int:
        """Most tokens of prompt and answer. What the texts gave at the start of the run holds to its end.

        Raises:
            ConfigError: if the settings ask for more than the model reads.
        """
        name = resolve_model(self.config.model.name)
        model = AutoConfig.from_pretrained(name)
        given, window = self.config.data.max_tokens, window_of(model)
        if given is not None:
            if window is not None and given > window:
                raise ConfigError([f"data.max_tokens: got {given}, but the model reads {window} tokens; set "
                                   f"data.max_tokens={window} or less"])
            return given

        def decide() -> int:
            pairs, precision = self.texts.train_pairs, self.precision
            limit = limit_from_texts(load_tokenizer(name), pairs, model, self.config, precision=precision)
            self._say(str(limit))
            return limit.tokens

        return self._settled("max_tokens", decide)

    def account(self, phase: str, counts: RowCounts, *, refuse: bool = True) -> None:
        """Say what became of a phase's rows, and keep it for its record.

        Args:
            phase: whose rows they are.
            counts: what became of them.
            refuse: an error if most rows of somebody's file are lost or cut; else it is only said.

        Raises:
            DataError: see ``refuse``.
        """
        # A constitutional run has prompts of its own.
        source, self.rows[phase] = getattr(self.config.data, "source", "reviews"), counts.record()
        self._say(f"{phase}: {rows_line(self.rows[phase])}")
        if source != "reviews" and (warning := counts.check(Path(source).name, refuse=refuse)):
            self.rows[phase]["warning"] = warning
            self._say(f"{phase}: warning: {warning}")

    def _say(self, line: str) -> None:
        if self.visible and self.is_main:
            print(line, file=sys.stderr, flush=True)

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
                             "changed since, or `rlhf-lite reward` divided it, or an older version, by "
                             "prompts alone. What was trained there may have seen what is held out now: "
                             "start anew with another --output")
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
        record, settings = read_phase(self.output / phase) or {}, self.settings(phase)
        written = record.get("settings", {}).get("data", {})
        settings["data"] |= {key: written[key] for key, value in settings["data"].items() if key in written
                             and absolute(value, self.output) == absolute(written[key], self.output)}
        expected = self.identity | {"settings": settings}
        if "weights" not in record:
            del expected["weights"]  # earlier versions looked at the first rows of the embedding alone
        if phase in ("ppo", "dpo"):
            expected["reference"] = "sft" if self.finished("sft") else "base"
        return verify_phase(self.output / phase, expected)

    def settings(self, phase: str) -> dict[str, Any]:
        """The settings that a phase's result depends on, besides the model's."""
        section = getattr(self.config, phase).model_dump(mode="json")
        # The template is kept with the settings of the run; records of older runs do not have it.
        data = self.config.data.model_dump(mode="json", exclude={"template"})
        return section | {"seed": self.config.seed, "data": data}

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
            for name in ("adapter", "merged"):
                write_template(Path(folder) / name, self.template)
            if phase in self.rows:
                extra["rows"] = self.rows[phase]
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
                   rich.TextColumn("{task.fields[status]}", markup=False))
        with rich.Progress(*columns, console=console) as progress:
            yield PhaseProgress(name, total, progress)
