"""Token lists of different lengths into rectangles, with masks where True marks the real tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_right(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows aligned at their start, as training wants them.

    Args:
        rows: B lists of token ids; a list may be empty.
        pad_id: the id to fill with. It may also occur as a real token: the mask tells them apart.

    Returns:
        ids [B, L] int64 and mask [B, L] bool, L the longest row's length.
    """
    return _pad(rows, pad_id, left=False)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows aligned at their end, as sampling wants them: the next token follows the last column in every row.

    Arguments and results as for ``pad_right``.
    """
    return _pad(rows, pad_id, left=True)


def _pad(rows: Sequence[Sequence[int]], pad_id: int, *, left: bool) -> tuple[Tensor, Tensor]:
    if len(rows) == 0:
        raise ValueError("there are no rows to pad: pass at least one list of token ids")
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.bool)
    for i, row in enumerate(rows):
        if len(row) == 0:
            continue
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, place] = torch.as_tensor(row, dtype=torch.long)
        mask[i, place] = True
    return ids, mask
