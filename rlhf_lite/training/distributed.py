"""How several processes share a batch: everything that a loop over minibatches need not know.

Each process works on its own rows. Losses and metrics are sums with weights, so that the contributions of all
parts and processes add up to those of the whole batch. With one process nothing happens here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

# --- Sampling: everybody takes equally many prompts, and gets the whole batch


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


def largest_of_all(value: Tensor, accelerator: Accelerator | None) -> int:
    """The largest of the whole numbers that the processes hold."""
    if accelerator is not None and accelerator.num_processes > 1:
        value = accelerator.gather(value.view(1)).max()
    return int(value)


# --- Updating: everybody computes the gradient of some rows


def micro_batches(rows: list[int], *, accumulation: int, accelerator: Accelerator) -> list[list[int]]:
    """This process's share of ``rows``, cut into ``accumulation`` parts; empty parts are left out.

    With more processes than rows some get no part at all. They add nothing to the gradient and take part in
    ``Optimisation.step`` like the others.
    """
    mine = rows[accelerator.process_index :: accelerator.num_processes]
    size = max(1, math.ceil(len(mine) / accumulation))
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def micro_rows(index: Tensor, *, micro_batch_size: int | None, accelerator: Accelerator) -> list[Tensor]:
    """This process's rows of a minibatch, cut into parts of ``micro_batch_size`` (None: one part).

    A process may get none. It then adds nothing to the gradient and waits in ``Optimisation.step``.
    """
    mine = index[accelerator.process_index :: accelerator.num_processes]
    return [] if len(mine) == 0 else list(mine.split(micro_batch_size or len(mine)))


# --- Metrics


class BatchMeans:
    """Means of metrics over a batch that comes in parts, and over the processes.

    Args:
        names: of all metrics, in the order in which processes exchange them.
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


class UpdateMetrics:
    """Means over the updates of a step, each of which comes in parts from all processes.

    Args:
        names: of the metrics; a process without rows adds none and must know them all the same.
        accelerator: its processes.
    """

    def __init__(self, names: Sequence[str], accelerator: Accelerator) -> None:
        self._accelerator, self._sums = accelerator, dict.fromkeys(names, 0.0)
        self._largest: dict[str, float] = {}
        self._norms: list[float] = []

    @property
    def updates(self) -> int:
        """Number of updates so far."""
        return len(self._norms)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add this process's contribution to an update; contributions of all parts sum up to its value."""
        for name, value in values.items():
            self._sums[name] += float(value)

    def largest(self, name: str, value: Tensor) -> None:
        """Keep the largest value, over parts and processes."""
        self._largest[name] = max(self._largest.get(name, 0.0), float(value))

    def updated(self, grad_norm: float) -> None:
        """An update is complete."""
        self._norms.append(grad_norm)

    def result(self, largest: Sequence[str] = ()) -> dict[str, float]:
        """The means, the ``largest`` values by these names, and ``grad_norm``; the same on every process."""
        device = self._accelerator.device
        sums = torch.tensor(list(self._sums.values()), device=device)
        tops = torch.tensor([[self._largest.get(name, 0.0) for name in largest]], device=device)
        if self._accelerator.num_processes > 1:
            sums = self._accelerator.reduce(sums, "sum")
            tops = self._accelerator.gather(tops) if largest else tops
        means = dict(zip(self._sums, (sums / self.updates).tolist(), strict=True))
        means |= dict(zip(largest, tops.amax(0).tolist(), strict=True))
        return means | {"grad_norm": sum(self._norms) / self.updates}
