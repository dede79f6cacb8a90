"""Which rows of the data form a batch, and how several processes share it.

Each process works on its own rows. Losses and metrics are sums with weights, so that the contributions of all
parts and processes add up to those of the whole batch. With one process nothing is exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_lite.rollout.sampler import step_seed

Rows = TypeVar("Rows", bound=Sequence[int] | Tensor)
Computed = Callable[[list[int]], tuple[Tensor, dict[str, Tensor]]]

# Batches whose rows are sorted by length together.
_WINDOW = 8


def epoch_steps(n_rows: int, *, batch_size: int, epochs: int) -> int:
    """Optimiser steps of some epochs: whole batches only.

    Raises:
        ValueError: if there are fewer rows than one batch needs.
    """
    if n_rows < batch_size:
        raise ValueError(f"a batch of {batch_size} needs at least {batch_size} rows, got {n_rows}")
    return epochs * (n_rows // batch_size)


def batch_rows(n_rows: int, batch_size: int, step: int, *, seed: int,
               lengths: Sequence[int] | None = None) -> list[int]:
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
    per_epoch = epoch_steps(n_rows, batch_size=batch_size, epochs=1)
    epoch, place = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(step_seed(seed, epoch) & 0x7FFFFFFF)
    order = torch.randperm(n_rows, generator=generator).tolist()[: per_epoch * batch_size]
    if lengths is None:
        return order[place * batch_size : (place + 1) * batch_size]
    batches: list[list[int]] = []
    for start in range(0, len(order), _WINDOW * batch_size):
        window = sorted(order[start : start + _WINDOW * batch_size], key=lambda row: lengths[row])
        cut = [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
        batches += [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]
    return batches[place]


def drawn_rows(n_rows: int, batch_size: int, steps: int, *, seed: int,
               lengths: Sequence[int] | None = None) -> list[int]:
    """Every row that the first ``steps`` batches draw, ascending; arguments as for :func:`batch_rows`."""
    if n_rows >= batch_size and steps > 2 * (n_rows // batch_size):
        return list(range(n_rows))  # a row left out of one epoch's remainder is in another's
    batches = (batch_rows(n_rows, batch_size, step, seed=seed, lengths=lengths) for step in range(steps))
    return sorted({row for batch in batches for row in batch})


def minibatch_rows(n: int, *, epochs: int, minibatches: int, seed: int) -> Iterator[Tensor]:
    """The rows of each update: passes over ``range(n)``, each shuffled and cut into ``minibatches``.

    Raises:
        ValueError: if there are more minibatches than rows, or there is no pass at all.
    """
    if not 1 <= minibatches <= n or epochs < 1:
        raise ValueError(f"{n} rows cannot make {minibatches} minibatches in {epochs} epochs")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(n, generator=generator).tensor_split(minibatches)


def micro_batches(rows: Rows, *, accelerator: Accelerator, accumulation: int = 1,
                  size: int | None = None) -> list[Rows]:
    """This process's share of ``rows``, cut into ``accumulation`` parts, or parts of ``size`` rows if given.

    Empty parts are left out: with more processes than rows some get no part at all. They add nothing to the
    gradient and take part in ``Optimisation.step`` like the others.
    """
    mine = rows[accelerator.process_index :: accelerator.num_processes]
    size = size or max(1, math.ceil(len(mine) / accumulation))
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def split_by_length(lengths: Sequence[int], *, parts: int = 2) -> list[list[int]]:
    """The rows of a batch in groups of similar length, the shorter ones first.

    Padding costs as much as text, and the answers of one batch differ in length: for pairs of movie reviews
    in batches of 16, two forward passes over a shorter and a longer half have 19 % padding instead of 26 %. A
    group has at least four rows, for every pass reads all weights.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    count = max(1, min(parts, len(order) // 4))
    return [rows.tolist() for rows in torch.tensor(order).tensor_split(count)]


def compute_by_length(lengths: Sequence[int], compute: Computed) -> tuple[Tensor, dict[str, Tensor]]:
    """A number for each of B rows ``[B]``, computed in the groups of :func:`split_by_length`.

    ``compute`` takes the rows of a group, and returns their numbers and the tensors that these were computed
    from; all groups' tensors are returned as well, for a batch that goes wrong.
    """
    groups, seen = split_by_length(lengths), {}
    parts = [compute(rows) for rows in groups]
    for number, (_, tensors) in enumerate(parts):
        seen |= {f"{name}-{number}": tensor for name, tensor in tensors.items()}
    numbers = torch.cat([part for part, _ in parts])
    order = torch.tensor([row for rows in groups for row in rows], device=numbers.device)
    return numbers[order.argsort()], seen


# --- Sampling: every process takes equally many prompts, and gets the whole batch


def local_rows(n: int, accelerator: Accelerator | None) -> list[int]:
    """This process's part of ``range(n)``; every process gets equally many, so some rows come twice.

    Row k of process r is number k * processes + r; what goes beyond n starts again at 0.
    """
    if accelerator is None:
        return list(range(n))
    world, rank = accelerator.num_processes, accelerator.process_index
    return [(k * world + rank) % n for k in range(-(-n // world))]


def gather_rows(tensor: Tensor, n: int, accelerator: Accelerator | None) -> Tensor:
    """``[N, ...]`` in order, from the ``[N_r, ...]`` that each process computed for its :func:`local_rows`.

    Args:
        tensor: rows of this process; the same whole number of rows for each of its local rows.
        n: number of rows that were shared out.
        accelerator: None for a single process.
    """
    if accelerator is None or accelerator.num_processes == 1 or tensor.numel() == 0:
        return tensor
    # As bytes: exact, and every backend can move them whatever the type.
    world, each = accelerator.num_processes, -(-n // accelerator.num_processes)
    flat = tensor.contiguous().view(each, -1).view(torch.uint8)
    gathered = accelerator.gather(flat).view(world, each, -1).transpose(0, 1).reshape(world * each, -1)
    rows = gathered[:n].contiguous().view(tensor.dtype)
    return rows.view(n * (len(tensor) // each), *tensor.shape[1:])


# --- Metrics


class BatchMeans:
    """Means of metrics over a batch that comes in parts, and over the processes.

    Args:
        names: of all metrics, in the order in which processes exchange them; a process without rows adds none
            and must know them all the same.
        accelerator: its processes.
    """

    def __init__(self, names: Sequence[str], accelerator: Accelerator) -> None:
        self._names, self._accelerator = list(names), accelerator
        self._sums = torch.zeros(2, len(self._names), device=accelerator.device)  # values, and their number

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in the values of one part."""
        for name, each in values.items():
            column = self._names.index(name)
            self._sums[0, column] += each.detach().sum()
            self._sums[1, column] += each.numel()

    def result(self) -> dict[str, float]:
        """The means; a metric without any value is left out."""
        sums, counts = self._accelerator.reduce(self._sums, "sum").tolist()
        return {name: s / n for name, s, n in zip(self._names, sums, counts, strict=True) if n}
