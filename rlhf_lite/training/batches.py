"""Which rows of the data form a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Batches whose rows are sorted by length together.
_WINDOW = 8


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


def drawn_rows(
    n_rows: int, batch_size: int, steps: int, *, seed: int, lengths: Sequence[int] | None = None
) -> list[int]:
    """Every row that the first ``steps`` batches draw, ascending; arguments as for :func:`batch_rows`."""
    if n_rows >= batch_size and steps > 2 * (n_rows // batch_size):
        return list(range(n_rows))  # a row left out of one epoch's remainder is in another's
    drawn: set[int] = set()
    for step in range(steps):
        drawn.update(batch_rows(n_rows, batch_size, step, seed=seed, lengths=lengths))
    return sorted(drawn)


def split_by_length(lengths: Sequence[int], *, parts: int = 2) -> list[list[int]]:
    """The rows of a batch in groups of similar length, the shorter ones first.

    Padding costs as much as text, and the answers of one batch differ in length: for pairs of movie reviews
    in batches of 16, two forward passes over a shorter and a longer half have 19 % padding instead of 26 %. A
    group has at least four rows, for every pass reads all weights.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    count = max(1, min(parts, len(order) // 4))
    return [rows.tolist() for rows in torch.tensor(order).tensor_split(count)]


def epoch_steps(n_rows: int, *, batch_size: int, epochs: int) -> int:
    """Optimiser steps of some epochs: whole batches only.

    Raises:
        ValueError: if there are fewer rows than one batch needs.
    """
    if n_rows < batch_size:
        raise ValueError(f"a batch of {batch_size} needs at least {batch_size} rows, got {n_rows}")
    return epochs * (n_rows // batch_size)


def minibatch_rows(n: int, *, epochs: int, minibatches: int, seed: int) -> Iterator[Tensor]:
    """The rows of each update: passes over ``range(n)``, each shuffled and cut into ``minibatches``."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(n, generator=generator).tensor_split(minibatches)
