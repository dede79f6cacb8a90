"""Padding: what is real is marked, and what is marked is real. Packing: nobody notices the neighbours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import llama

from rlhf_lite.data.collate import PADDING, block_causal_mask, first_fit, pack, pad_left, pad_right

rows_of_ids = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=5)


@given(rows_of_ids, st.integers(0, 5))
def test_unpadding_gives_the_rows_back(rows: list[list[int]], pad_id: int) -> None:
    length = max(map(len, rows))
    for pad in (pad_left, pad_right):
        ids, mask = pad(rows, pad_id)
        assert ids.shape == mask.shape == (len(rows), length)
        assert (ids.dtype, mask.dtype) == (torch.long, torch.bool)
        assert [row[m].tolist() for row, m in zip(ids, mask, strict=True)] == rows
        assert bool((ids[~mask] == pad_id).all())


def test_sides_by_hand() -> None:
    assert pad_left([[1], [2, 3]], 0)[0].tolist() == [[0, 1], [2, 3]]
    assert pad_right([[1], [2, 3]], 0)[0].tolist() == [[1, 0], [2, 3]]
    assert pad_left([[1], [2, 3]], 0)[1].tolist() == [[False, True], [True, True]]


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="no rows to pad"):
        pad_right([], 0)


# --- Packing -----------------------------------------------------------------

TEXTS = [[5, 6, 7], [8, 9, 10, 11], [12, 13]]
WANTED = [[False, True, True], [False, False, True, True], [False, True]]


def test_first_fit_by_hand() -> None:
    # Longest first: 6 opens row 0, 5 opens row 1, 4 goes to row 0 (6 + 4 = 10), 3 and 2 to row 1 (5 + 3 + 2).
    assert first_fit([4, 6, 2, 5, 3], 10) == [[1, 0], [3, 4, 2]]


def test_equal_lengths_keep_their_order() -> None:
    assert first_fit([2, 2, 2], 4) == [[0, 1], [2]]
    assert first_fit([], 4) == []


@given(st.lists(st.integers(1, 20), max_size=40), st.integers(20, 40))
def test_first_fit_holds_every_text_once_and_wastes_little(lengths: list[int], capacity: int) -> None:
    rows = first_fit(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    used = [sum(lengths[index] for index in row) for row in rows]
    assert all(total <= capacity for total in used)
    assert sum(2 * total <= capacity for total in used) <= 1  # two half-empty rows would have been one


@pytest.mark.parametrize("lengths", [[3, 0], [3, 11]])
def test_a_text_that_does_not_fit_is_named(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"text 1 has {lengths[1]} tokens and a row holds 10"):
        first_fit(lengths, 10)


def test_pack_by_hand() -> None:
    batch = pack(TEXTS, WANTED, capacity=6, pad_id=0)  # rows: the four and the two tokens; the three tokens
    assert batch.ids.tolist() == [[8, 9, 10, 11, 12, 13], [5, 6, 7, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]]
    assert batch.texts.tolist() == [[1, 1, 1, 1, 2, 2], [0, 0, 0, PADDING, PADDING, PADDING]]
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0]]
    assert batch.mask.int().tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]


def test_block_causal_mask_by_hand() -> None:
    found = block_causal_mask(torch.tensor([[4, 4, 9, PADDING]]))
    assert found.shape == (1, 1, 4, 4)
    assert found[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_what_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        pack([], [], capacity=4, pad_id=0)
    with pytest.raises(ValueError, match="text 0 has 2 tokens and a mask of 1"):
        pack([[1, 2]], [[False]], capacity=4, pad_id=0)
    with pytest.raises(ValueError, match="text 1: the first token"):
        pack([[1, 2], [3, 4]], [[False, True], [True, True]], capacity=4, pad_id=0)


def test_a_text_does_not_notice_its_neighbours() -> None:
    model = llama()
    batch = pack(TEXTS, WANTED, capacity=12, pad_id=0)
    assert batch.ids.shape == (1, 12)
    ids, mask = pad_right(TEXTS, 0)
    with torch.no_grad():
        alone = model(ids, attention_mask=mask.long()).logits
        packed = model(batch.ids, attention_mask=batch.attention, position_ids=batch.positions).logits[0]
        leaking = model(batch.ids, attention_mask=batch.mask.long()).logits[0]
    assert torch.isfinite(packed).all()
    for index, text in enumerate(TEXTS):
        place = batch.texts[0] == index
        torch.testing.assert_close(packed[place], alone[index, : len(text)], rtol=1e-4, atol=1e-5)
    later = (batch.texts[0] != batch.texts[0, 0]) & batch.mask[0]
    assert (leaking[later] - packed[later]).abs().max() > 1e-3  # the same row without the blocks
