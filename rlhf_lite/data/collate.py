"""Token lists of different lengths into rectangles, with masks where True marks the real tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lite.data.formatting import EncodedPair


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


@dataclass(frozen=True)
class PairBatch:
    """B preferences as 2B rows: the B chosen texts first, then the B rejected ones in the same order.

    Attributes:
        ids: [2B, L] token ids, prompt then response, padded on the right.
        mask: [2B, L] bool, True on real tokens.
        response_mask: [2B, L] bool, True on the response's tokens.
        margin: [B] float32, NaN where unknown.
    """

    ids: Tensor
    mask: Tensor
    response_mask: Tensor
    margin: Tensor


def collate_pairs(pairs: Sequence[EncodedPair], pad_id: int) -> PairBatch:
    """One batch from encoded preferences (``formatting.encode_pair``)."""
    prompts = [p.prompt_ids for p in pairs] * 2
    responses = [p.chosen_ids for p in pairs] + [p.rejected_ids for p in pairs]
    ids, mask = pad_right([[*p, *r] for p, r in zip(prompts, responses, strict=True)], pad_id)
    starts = torch.tensor([len(p) for p in prompts]).unsqueeze(1)
    response_mask = mask & (torch.arange(ids.shape[1]).unsqueeze(0) >= starts)
    margin = torch.tensor(
        [float("nan") if p.margin is None else p.margin for p in pairs], dtype=torch.float32
    )
    return PairBatch(ids=ids, mask=mask, response_mask=response_mask, margin=margin)
