"""What a trainer is told, in three records: how to optimise, how to run, and the settings of the algorithm.

:class:`OptimiserSettings` and :class:`RunSettings` are the same for every trainer and stand here; the third
record stands beside its algorithm, such as ``ppo.PPOSettings``::

    train_ppo(
        setup,
        prompts,
        PPOSettings(max_new_tokens=16, kl_coef=0.05),
        optimiser=OptimiserSettings(learning_rate=1e-3),
        run=RunSettings(steps=15, batch_size=40, seed=0, accelerator=Accelerator(), hooks=Hooks(print)),
    )
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from accelerate import Accelerator
from torch import Tensor

Metrics = Mapping[str, float]
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings:
    """AdamW and its learning rate; see ``step.Optimisation``.

    Attributes:
        learning_rate: peak.
        warmup_steps: steps of the run over which it rises; 0 for none.
        schedule: how it falls afterwards: ``linear``, ``cosine`` or ``constant``.
        max_grad_norm: gradients are scaled down to this norm, all of them by the same factor.
        weight_decay: of AdamW.
    """

    learning_rate: float
    warmup_steps: int = 0
    schedule: str = "linear"
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a metric no longer improves, and go back to the weights that were best.

    Attributes:
        metric: its name in the log, such as ``val_loss/nats_per_token``.
        patience: how many values in a row may be no better than the best one.
        mode: whether low (``min``) or high (``max``) is good.
        min_delta: a value is better only if it is better by more than this.
    """

    metric: str
    patience: int
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max") or self.patience < 1:
            raise ValueError("early stopping needs mode 'min' or 'max' and a patience of at least 1, got "
                             f"mode {self.mode!r} and patience {self.patience}")

    def better(self, value: float, best: float) -> bool:
        """Whether ``value`` beats ``best``; NaN beats nothing."""
        gain = best - value if self.mode == "min" else value - best
        return gain > self.min_delta


@dataclass(frozen=True)
class Hooks:
    """How a trainer talks to whoever runs it.

    Attributes:
        on_step: called with (step, metrics) after each optimiser step; steps count from 1.
        save: called with the step number and the state's tensors and numbers, when a checkpoint is due.
        save_every: steps between checkpoints.
        evaluate: called with the step number, in evaluation mode and without gradients; what it returns is
            merged into the metrics of that step. In a run of several processes every process calls it.
        evaluate_every: steps between evaluations; the last step is always evaluated.
        early_stopping: when to stop before the last step; needs a metric that some step logs.
        bad_batches: folder for the batch that made a loss or a gradient NaN or infinite.
    """

    on_step: Callable[[int, Metrics], None]
    save: Callable[[int, Mapping[str, Tensor], Mapping[str, float]], None] | None = None
    save_every: int = 5
    evaluate: Callable[[int], Metrics] | None = None
    evaluate_every: int = 1
    early_stopping: EarlyStopping | None = None
    bad_batches: Path | None = None


@dataclass(frozen=True)
class Resume:
    """Where an interrupted phase continues: the last completed step, and the state saved after it."""

    step: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long, on how much at a time, where, and who is told. Every random number comes from ``seed``.

    Attributes:
        steps: length of the run; ``batches.epoch_steps`` converts epochs.
        batch_size: rows of the data (texts, pairs, prompts) that a step takes.
        seed: draws the order of the rows, dropout and whatever is sampled.
        accelerator: places the model; its processes share the work.
        hooks: whom to tell.
        accumulation: trainers on fixed data compute a batch in so many parts, to save memory.
        micro_batch_size: trainers that sample compute so many rows at a time; None takes all at once.
        validate_every: steps between measurements on held-out data; the last step is always measured.
        gradient_checkpointing: recompute the top layers in the backward pass: less memory, more time.
        resume: where an interrupted run continues, or None.

    Raises:
        ValueError: if a number is not positive.
    """

    steps: int
    batch_size: int
    seed: int
    accelerator: Accelerator
    hooks: Hooks
    accumulation: int = 1
    micro_batch_size: int | None = None
    validate_every: int = 50
    gradient_checkpointing: bool = False
    resume: Resume | None = None

    def __post_init__(self) -> None:
        counts = {"batch_size": self.batch_size, "accumulation": self.accumulation,
                  "validate_every": self.validate_every, "micro_batch_size": self.micro_batch_size}
        wrong = [f"{name}={value}" for name, value in counts.items() if value is not None and value < 1]
        if wrong or self.steps < 0:
            raise ValueError(f"{', '.join(wrong) or f'steps={self.steps}'}: expected 1 or more")


def pick(kind: type[Record], values: Mapping[str, Any] | Iterable[tuple[str, Any]], **others: Any) -> Record:
    """A record of the given kind from the ``values`` that it has fields for, and ``others``.

    Args:
        kind: one of the records.
        values: by name, such as a section of the configuration; names without a field are left out.
        **others: fields that come first; each must exist.
    """
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in dict(values).items() if name in names} | others)


def split(values: Mapping[str, Any], *kinds: type) -> tuple[Any, ...]:
    """One record of each kind; every value goes to the record that has a field of its name.

    Raises:
        TypeError: if none of them has, or a record lacks a value.
    """
    known = {field.name for kind in kinds for field in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise TypeError(f"unknown setting {unknown[0]!r}: {', '.join(sorted(known))} exist")
    return tuple(pick(kind, values) for kind in kinds)
