"""Padding: what is real is marked, what is marked is real."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lite.data.collate import pad_left, pad_right

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
