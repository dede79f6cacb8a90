"""Token lists of different lengths into rectangles, with masks where True marks the real tokens.

*Padding* gives every text a row of its own. *Packing* puts several texts in one row, so that no position of a
batch is wasted (Krell et al. 2021, arXiv:2107.02027). A packed row needs two things that an ordinary one does
not: position ids that start again at 0 with every text, and an attention mask that is causal *within* each
text. Without the second, a token also sees the texts that happen to stand before it in the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The text number of a position of a packed row that holds no text.
PADDING = -1


def pad_right(rows: Sequence[Sequence[int]], pad_id: int, *,
              device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Rows aligned at their start, as training wants them.

    Args:
        rows: B lists of token ids; a list may be empty.
        pad_id: the id to fill with. It may also occur as a real token: the mask tells them apart.
        device: where the model is that will read them; None for the CPU.

    Returns:
        ids [B, L] int64 and mask [B, L] bool, L the longest row's length.
    """
    return _pad(rows, pad_id, device, left=False)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, *,
             device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Rows aligned at their end, as sampling wants them: the next token follows the last column in every row.

    Arguments and results as for ``pad_right``.
    """
    return _pad(rows, pad_id, device, left=True)


def _pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device | None, *,
         left: bool) -> tuple[Tensor, Tensor]:
    if len(rows) == 0:
        raise ValueError("there are no rows to pad: pass at least one list of token ids")
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, place] = torch.as_tensor(row, dtype=torch.long)
        mask[i, place] = True
    return ids.to(device), mask.to(device)


# --- Packing -----------------------------------------------------------------


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which texts share a row: the longest first, each into the first row that has room for it.

    This is first-fit decreasing. It never needs more than 11/9 of the fewest possible rows, plus one
    (Johnson 1973).

    Args:
        lengths: tokens of each text, at least 1.
        capacity: tokens that a row holds.

    Returns:
        For each row the indices of its texts, in the order in which they were put in.

    Raises:
        ValueError: if a text is empty or longer than a row.
    """
    for index, length in enumerate(lengths):
        if not 1 <= length <= capacity:
            raise ValueError(f"text {index} has {length} tokens and a row holds {capacity}: leave empty "
                             "texts out, and cut long ones or raise the capacity")
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((row for row, free in enumerate(room) if free >= lengths[index]), None)
        if place is None:
            place = len(rows)
            rows.append([])
            room.append(capacity)
        rows[place].append(index)
        room[place] -= lengths[index]
    return rows


@dataclass(frozen=True)
class PackedBatch:
    """R rows of S positions that hold several texts each, padded on the right.

    Attributes:
        ids: ``[R, S]`` token ids.
        positions: ``[R, S]`` place of each token within its own text, from 0; 0 on padding.
        texts: ``[R, S]`` number of the text that a position belongs to, ``PADDING`` (-1) where there is none.
        response_mask: bool ``[R, S]``, True where a token counts.
    """

    ids: Tensor
    positions: Tensor
    texts: Tensor
    response_mask: Tensor

    @property
    def mask(self) -> Tensor:
        """Bool ``[R, S]``, True on real tokens."""
        return self.texts != PADDING

    @property
    def attention(self) -> Tensor:
        """Bool ``[R, 1, S, S]``; see :func:`block_causal_mask`."""
        return block_causal_mask(self.texts)


def block_causal_mask(texts: Tensor) -> Tensor:
    """Who may look at whom in packed rows: earlier positions of the same text, and the position itself.

    Transformers takes such a mask of four dimensions as it is, as ``attention_mask``. Padding looks at
    padding, for a softmax over nothing would be NaN.

    Args:
        texts: ``[R, S]`` number of the text at each position.

    Returns:
        bool ``[R, 1, S, S]``; True in row q and column k means that position q may look at position k.
    """
    same = texts.unsqueeze(-1) == texts.unsqueeze(-2)  # (R, S, S)
    causal = torch.ones(texts.shape[-1], texts.shape[-1], dtype=torch.bool, device=texts.device).tril()
    return (same & causal).unsqueeze(-3)


def pack(rows: Sequence[Sequence[int]], masks: Sequence[Sequence[bool]], *, capacity: int,
         pad_id: int) -> PackedBatch:
    """Put texts into as few rows as :func:`first_fit` finds.

    Args:
        rows: N lists of token ids.
        masks: for each text, which of its tokens count. The first token of a text cannot count: what stands
            before it in the row belongs to another text.
        capacity: tokens that a row holds.
        pad_id: fills what is left of a row.

    Raises:
        ValueError: if there is no text, lengths differ, a first token counts, or a text does not fit.
    """
    if not rows or len(rows) != len(masks):
        raise ValueError(f"expected as many masks as texts, at least one, got {len(masks)} and {len(rows)}")
    for index, (row, counts) in enumerate(zip(rows, masks, strict=True)):
        if len(row) != len(counts):
            raise ValueError(f"text {index} has {len(row)} tokens and a mask of {len(counts)}")
        if counts and counts[0]:
            raise ValueError(f"text {index}: the first token of a text has no prediction and cannot count")
    bins = first_fit([len(row) for row in rows], capacity)
    shape = (len(bins), capacity)
    ids, positions = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    texts, counted = torch.full(shape, PADDING), torch.zeros(shape, dtype=torch.bool)
    for number, members in enumerate(bins):
        start = 0
        for index in members:
            place = slice(start, start + len(rows[index]))
            ids[number, place] = torch.as_tensor(rows[index], dtype=torch.long)
            positions[number, place] = torch.arange(len(rows[index]))
            texts[number, place] = index
            counted[number, place] = torch.as_tensor(masks[index], dtype=torch.bool)
            start = place.stop
    return PackedBatch(ids, positions, texts, counted)
