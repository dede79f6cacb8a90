"""What every trainer shares: batches by step number, and one optimiser step on ``accelerate``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

Metrics = Mapping[str, float]
# Batches whose rows are sorted by length together.
_WINDOW = 8


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; the run stops before it spoils the weights."""


@dataclass(frozen=True)
class Hooks:
    """How a trainer talks to whoever runs it.

    Attributes:
        on_step: called with (step, metrics) after each optimiser step; steps count from 1.
        save: called with the step number and the state's tensors and numbers, when a checkpoint is due.
        save_every: steps between checkpoints.
    """

    on_step: Callable[[int, Metrics], None]
    save: Callable[[int, Mapping[str, Tensor], Mapping[str, float]], None] | None = None
    save_every: int = 5


@dataclass(frozen=True)
class Resume:
    """Where an interrupted phase continues: the last completed step, and the state saved after it."""

    step: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float]


def batch_rows(
    n_rows: int, batch_size: int, step: int, *, seed: int, lengths: Sequence[int] | None = None
) -> list[int]:
    """The rows of batch ``step`` (from 0): every row once per epoch, in an order drawn per epoch.

    The order depends on the arguments alone, so that a resumed run sees the batches it would have seen.

    Args:
        n_rows: number of rows.
        batch_size: rows per batch; a remainder smaller than this is left out of the epoch.
        step: number of the batch, over all epochs.
        seed: draws another order.
        lengths: of the rows, or None. With lengths, a batch holds rows of similar length, because padding
            costs as much as text: within windows of eight batches the rows are sorted by length before they
            are cut into batches, and the batches of a window are shuffled.

    Raises:
        ValueError: if there are fewer rows than one batch needs.
    """
    if n_rows < batch_size:
        raise ValueError(f"a batch of {batch_size} needs at least {batch_size} rows, got {n_rows}")
    per_epoch = n_rows // batch_size
    epoch, place = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) & 0x7FFFFFFF)
    order = torch.randperm(n_rows, generator=generator).tolist()[: per_epoch * batch_size]
    if lengths is None:
        return order[place * batch_size : (place + 1) * batch_size]
    batches: list[list[int]] = []
    for start in range(0, len(order), _WINDOW * batch_size):
        window = sorted(order[start : start + _WINDOW * batch_size], key=lambda row: lengths[row])
        cut = [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
        batches += [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]
    return batches[place]


def micro_batches(rows: list[int], *, accumulation: int, accelerator: Accelerator) -> list[list[int]]:
    """This process's share of ``rows``, cut into ``accumulation`` parts; empty parts are left out."""
    mine = rows[accelerator.process_index :: accelerator.num_processes]
    size = max(1, math.ceil(len(mine) / accumulation))
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def learning_rate_factor(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up from 1/warmup_steps to 1, then linear decay to a tenth at ``total_steps``.

    Args:
        step: from 0.
        warmup_steps: how many steps the warm-up takes; 0 for none.
        total_steps: length of the run.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    rest = max(1, total_steps - warmup_steps)
    return 1.0 - 0.9 * min(1.0, (step - warmup_steps) / rest)


class Optimisation:
    """AdamW on the trainable parameters of a module, with warm-up, decay, clipping, and a saveable state.

    Args:
        module: what is trained; its parameters with ``requires_grad``.
        accelerator: places the module and averages gradients over processes.
        learning_rate: peak learning rate.
        warmup_steps: see :func:`learning_rate_factor`.
        total_steps: see :func:`learning_rate_factor`.
        max_grad_norm: gradients are scaled down to this norm.
        weight_decay: of AdamW.
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
    ) -> None:
        self._names = [name for name, p in module.named_parameters() if p.requires_grad]
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        if not self._parameters:
            raise ValueError(f"{type(module).__name__} has no trainable parameter")
        optimizer = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=weight_decay)
        self.accelerator = accelerator
        self.module, self.optimizer = accelerator.prepare(module, optimizer)
        self._peak, self._warmup, self._total = learning_rate, warmup_steps, total_steps
        self._max_norm, self._done = max_grad_norm, 0

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self._peak * learning_rate_factor(
            self._done, warmup_steps=self._warmup, total_steps=self._total
        )

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, a scalar.

        Raises:
            NonFiniteError: if the loss is NaN or infinite.
        """
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(f"the loss is {loss.item()} after {self._done} optimiser steps")
        self.accelerator.backward(loss)

    def step(self) -> float:
        """Clip, update, clear the gradients; returns the gradient norm before clipping.

        Raises:
            NonFiniteError: if the gradient norm is NaN or infinite.
        """
        norm = float(self.accelerator.clip_grad_norm_(self._parameters, self._max_norm))
        if not math.isfinite(norm):
            raise NonFiniteError(f"the gradient norm is {norm} after {self._done} optimiser steps")
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._done += 1
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Weights and Adam moments, by name: all that is needed to continue."""
        state = self.optimizer.state
        found = {f"weight/{name}": p.detach() for name, p in zip(self._names, self._parameters, strict=True)}
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
                self.optimizer.state[parameter] = {key: tensors[full].clone() for key, full in keys.items()}
