"""Means, variances and whitening: masked entries are as good as absent, even when they are NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lite.functional import masked_mean, masked_sum, masked_var, masked_whiten

NAN = float("nan")
X = torch.tensor([[1.0, 2.0, NAN], [4.0, math.inf, 9.0]])
MASK = torch.tensor([[True, True, False], [True, False, True]])
KEPT = torch.tensor([1.0, 2.0, 4.0, 9.0])  # mean 4; squared deviations 9 + 4 + 0 + 25 = 38


def test_hand_computed_values():
    assert masked_sum(X, MASK).item() == 16.0
    assert masked_mean(X, MASK).item() == 4.0
    assert masked_var(X, MASK).item() == pytest.approx(38 / 3)
    assert masked_var(X, MASK, unbiased=False).item() == pytest.approx(38 / 4)
    assert masked_sum(X, MASK, dim=1).tolist() == [3.0, 13.0]
    assert masked_mean(X, MASK, dim=1).tolist() == [1.5, 6.5]
    assert masked_mean(X, MASK, dim=-1).tolist() == [1.5, 6.5]


@pytest.mark.parametrize("unbiased", [True, False])
def test_variance_is_numpy_with_the_same_ddof(unbiased):
    expected = np.var(KEPT.numpy(), ddof=1 if unbiased else 0)
    assert masked_var(X, MASK, unbiased=unbiased).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "reduce",
    [
        masked_sum,
        masked_mean,
        masked_var,
        lambda x, m: masked_sum(x, m, dim=1).sum(),
        lambda x, m: masked_mean(x, m, dim=1).sum(),
        lambda x, m: (masked_whiten(x, m) * torch.arange(6.0).view(2, 3)).sum(),
        lambda x, m: (masked_whiten(x, m, shift_mean=False) ** 2).sum(),
    ],
)
def test_nan_at_masked_places_reaches_neither_value_nor_gradient(reduce):
    def value_and_gradient(garbage: float) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.where(MASK, X, torch.tensor(garbage)).requires_grad_()
        value = reduce(x, MASK)
        return value.detach(), torch.autograd.grad(value, x)[0]

    clean, clean_gradient = value_and_gradient(0.0)
    for garbage in (NAN, math.inf, -1e30):
        value, gradient = value_and_gradient(garbage)
        assert torch.equal(value, clean)
        assert torch.equal(gradient, clean_gradient)
    assert torch.isfinite(clean_gradient).all()
    assert (clean_gradient[~MASK] == 0).all()


def test_whitening_by_hand():
    # (x - 4) / sqrt(38/3)
    expected = (KEPT - 4) / math.sqrt(38 / 3)
    white = masked_whiten(X, MASK)
    torch.testing.assert_close(white[MASK], expected)
    assert (white[~MASK] == 0).all()
    torch.testing.assert_close(masked_whiten(X, MASK, shift_mean=False)[MASK], expected + 4)
    torch.testing.assert_close(masked_whiten(X, MASK, unbiased=False)[MASK], (KEPT - 4) / math.sqrt(38 / 4))


def test_whitening_a_constant_gives_zeros():
    x = torch.full((2, 3), 7.0)
    assert torch.equal(masked_whiten(x, MASK), torch.zeros(2, 3))
    assert torch.equal(masked_whiten(x, MASK, shift_mean=False)[MASK], torch.full((4,), 7.0))


def test_dtype_is_kept():
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    mask = torch.ones(3, dtype=torch.bool)
    assert masked_whiten(x, mask).dtype == masked_sum(x, mask).dtype == torch.float64


@given(
    rows=st.lists(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=6), min_size=1, max_size=4),
    extra=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_masked_equals_cropped(rows, extra):
    width = max(map(len, rows)) + extra
    x, mask = torch.full((len(rows), width), NAN), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        x[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
    flat = torch.cat([torch.tensor(row) for row in rows])
    torch.testing.assert_close(masked_mean(x, mask), flat.mean(), atol=1e-4, rtol=1e-5)
    per_row = torch.stack([torch.tensor(row).mean() for row in rows])
    torch.testing.assert_close(masked_mean(x, mask, dim=1), per_row, atol=1e-4, rtol=1e-5)
    if len(flat) > 1:
        torch.testing.assert_close(masked_var(x, mask), flat.var(), atol=1e-2, rtol=1e-4)
        if flat.std() > 0.1:
            white = masked_whiten(x, mask)[mask]
            # An absolute sum: signed differences could cancel.
            torch.testing.assert_close(white, (flat - flat.mean()) / flat.std(), atol=1e-3, rtol=1e-3)
            assert white.mean().abs() < 1e-4
            assert white.var().item() == pytest.approx(1.0, abs=1e-3)


def test_empty_masks_are_errors():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    row = torch.tensor([[True, True, True], [False, False, False]])
    with pytest.raises(ValueError, match="empty mask"):
        masked_mean(X, nothing)
    with pytest.raises(ValueError, match="empty mask"):
        masked_mean(X, row, dim=1)
    with pytest.raises(ValueError, match="two entries that count, got 1"):
        masked_var(X, torch.tensor([[True, False, False], [False, False, False]]))
    assert masked_sum(X, nothing).item() == 0.0


@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_var, masked_whiten])
def test_wrong_shapes_and_types_are_errors(function):
    with pytest.raises(ValueError, match=r"x \(2, 3\).*mask \(3,\)"):
        function(torch.ones(2, 3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(TypeError, match="bool"):
        function(torch.ones(2, 3), torch.ones(2, 3))


def test_a_single_entry_has_no_spread_to_scale_by():
    x, mask = torch.tensor([[3.0, 9.0]]), torch.tensor([[True, False]])
    assert masked_whiten(x, mask).tolist() == [[0.0, 0.0]]
    assert masked_whiten(x, mask, shift_mean=False).tolist() == [[3.0, 0.0]]
