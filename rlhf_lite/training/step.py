"""What every trainer shares: batches by step number, and one optimiser step on ``accelerate``.

In a run of several processes every process holds the whole model, works on its own rows, and the gradients
are averaged by one collective call per optimiser step. That is done here rather than by a wrapper around the
module: a process may then have fewer rows than the others, or none, without leaving them waiting.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf_lite.errors import NonFiniteError
from rlhf_lite.training.batches import batch_rows, micro_batches
from rlhf_lite.training.schedule import check_schedule, learning_rate_factor

__all__ = [
    "EarlyStopping",
    "Hooks",
    "Optimisation",
    "Resume",
    "batch_rows",
    "evaluating",
    "learning_rate_factor",
    "micro_batches",
]

Metrics = Mapping[str, float]


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
            raise ValueError(
                "early stopping needs mode 'min' or 'max' and a patience of at least 1, "
                f"got mode {self.mode!r} and patience {self.patience}"
            )

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


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients; afterwards every part of ``module`` is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


class Optimisation:
    """AdamW on the trainable parameters of a module, with warm-up, decay, clipping, and a saveable state.

    Args:
        module: what is trained; its parameters with ``requires_grad``.
        accelerator: places the module; its processes average their gradients.
        learning_rate: peak learning rate.
        warmup_steps: see :func:`learning_rate_factor`.
        total_steps: see :func:`learning_rate_factor`.
        max_grad_norm: gradients are scaled down to this norm, all of them by the same factor.
        weight_decay: of AdamW.
        schedule: see :func:`learning_rate_factor`.
        bad_batches: folder for batches that made a loss or a gradient NaN or infinite; None keeps none.

    Raises:
        ValueError: if nothing is trainable, there is no such schedule, or the accelerator shards the model.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        accelerator: Accelerator,
        learning_rate: float,
        warmup_steps: int,
        total_steps: int,
        max_grad_norm: float,
        weight_decay: float = 0.0,
        schedule: str = "linear",
        bad_batches: Path | None = None,
    ) -> None:
        check_schedule(schedule)
        self._names = [name for name, p in module.named_parameters() if p.requires_grad]
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        if not self._parameters:
            raise ValueError(f"{type(module).__name__} has no trainable parameter")
        kind = accelerator.distributed_type.value
        if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            raise ValueError(
                f"the accelerator shards the model ({kind}), and these trainers need the whole model in "
                "every process: use accelerate launch --multi_gpu"
            )
        optimizer = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=weight_decay)
        self.accelerator = accelerator
        # "Evaluation" to accelerate means: place it, apply its mixed precision, and do not wrap it.
        self.module = accelerator.prepare_model(module, evaluation_mode=True)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self._peak, self._warmup, self._total = learning_rate, warmup_steps, total_steps
        self._max_norm, self._schedule, self._done = max_grad_norm, schedule, 0
        self._bad_batches, self._failure = bad_batches, ""
        self._seen: list[dict[str, Tensor]] = []
        if accelerator.num_processes > 1:
            with torch.no_grad():
                for parameter in self._parameters:
                    parameter.copy_(broadcast(parameter.detach()))

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self._peak * learning_rate_factor(
            self._done, warmup_steps=self._warmup, total_steps=self._total, schedule=self._schedule
        )

    def backward(self, loss: Tensor, batch: Mapping[str, Tensor] | None = None) -> None:
        """Add the gradient of ``loss``, a scalar.

        Args:
            loss: its gradient is *averaged* over the processes: multiply by their number for a sum.
            batch: what the loss was computed from (row numbers, token ids), to be saved if it goes wrong.

        Raises:
            NonFiniteError: if the loss is NaN or infinite. With several processes :meth:`step` raises it, in
                all of them at once.
        """
        if batch is not None:
            self._seen.append({**batch, "loss": loss.detach()})
        if not bool(torch.isfinite(loss)):
            self._failure = f"the loss is {loss.item()}"
            if self.accelerator.num_processes == 1:
                self._stop(self._failure)
            return
        self.accelerator.backward(loss)

    def step(self) -> float:
        """Average over the processes, clip, update, clear the gradients; returns the norm before clipping.

        Raises:
            NonFiniteError: if the gradient norm is NaN or infinite, or another process's loss is.
        """
        if self.accelerator.num_processes > 1:
            self._average_gradients()
        norm = float(self.accelerator.clip_grad_norm_(self._parameters, self._max_norm))
        if not math.isfinite(norm):
            self._stop(f"the gradient norm is {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._seen.clear()
        self._done += 1
        return norm

    def _average_gradients(self) -> None:
        """One collective call for all gradients; a process without rows or without a gradient adds zeros."""
        has = [float(p.grad is not None) for p in self._parameters]
        flags = torch.tensor([*has, float(self._failure != "")], device=self._parameters[0].device)
        flags = self.accelerator.reduce(flags, "sum").tolist()
        if flags[-1] > 0:
            self._stop(self._failure or "the loss is not finite in another process")
        used = [p for p, count in zip(self._parameters, flags, strict=False) if count > 0]
        if not used:
            return
        pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
        flat = self.accelerator.reduce(torch.cat([piece.flatten().float() for piece in pieces]), "mean")
        for parameter, piece in zip(used, flat.split([p.numel() for p in used]), strict=True):
            parameter.grad = piece.view_as(parameter).to(parameter.dtype)

    def _stop(self, what: str) -> None:
        """Save the batch since the last update, and raise."""
        message = f"{what} after {self._done} optimiser steps"
        if self._bad_batches is not None and self._seen:
            rank = self.accelerator.process_index
            path = self._bad_batches / f"nonfinite-step-{self._done + 1:06d}-process-{rank}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            found = {
                f"{part}/{name}": tensor.detach().cpu().contiguous().clone()
                for part, batch in enumerate(self._seen)
                for name, tensor in batch.items()
            }
            losses = [float(batch["loss"]) for batch in self._seen]
            save_file(found, str(path), metadata={"reason": message, "losses": json.dumps(losses)})
            message += f"; the batch (rows, token ids, loss) is in {path}"
        raise NonFiniteError(message)

    def weights(self) -> dict[str, Tensor]:
        """The trainable weights by name, not copied."""
        return {name: p.detach() for name, p in zip(self._names, self._parameters, strict=True)}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Set the trainable weights, as :meth:`weights` gave them; Adam's moments stay.

        Raises:
            KeyError: if a weight of this module is not in ``weights``.
        """
        for name, parameter in zip(self._names, self._parameters, strict=True):
            parameter.data.copy_(weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """Weights and Adam moments, by name: all that is needed to continue."""
        state = self.optimizer.state
        found = {f"weight/{name}": weight for name, weight in self.weights().items()}
        for name, parameter in zip(self._names, self._parameters, strict=True):
            for key, value in state.get(parameter, {}).items():
                found[f"adam/{key}/{name}"] = torch.as_tensor(value).detach()
        return found | {"steps": torch.tensor(self._done)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what :meth:`tensors` gave.

        Raises:
            KeyError: if a weight of this module is not in ``tensors``.
        """
        self._done = int(tensors["steps"])
        for name, parameter in zip(self._names, self._parameters, strict=True):
            parameter.data.copy_(tensors[f"weight/{name}"])
            keys = {key: f"adam/{key}/{name}" for key in ("step", "exp_avg", "exp_avg_sq")}
            if all(full in tensors for full in keys.values()):
                moments = {key: tensors[full].to(parameter.device, copy=True) for key, full in keys.items()}
                moments["step"] = moments["step"].cpu()  # where Adam keeps its step count
                self.optimizer.state[parameter] = moments
