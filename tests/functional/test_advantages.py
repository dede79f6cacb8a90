"""Generalised advantage estimates, against published numbers and an independent double sum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lite.functional import gae


def by_double_sum(rewards: list[float], values: list[float], *, gamma: float, lam: float) -> list[float]:
    """A_t = Σ_k (γλ)^k (r_{t+k} + γ V_{t+k+1} - V_{t+k}), term by term, with V = 0 after the end."""
    ahead = [*values[1:], 0.0]
    errors = [r + gamma * after - now for r, now, after in zip(rewards, values, ahead, strict=True)]
    return [
        sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, len(errors))) for t in range(len(errors))
    ]


def one(rewards, values, **options):
    mask = torch.ones(1, len(rewards), dtype=torch.bool)
    advantages, returns = gae(torch.tensor([rewards]), torch.tensor([values]), mask, **options)
    return advantages[0], returns[0]


def test_tianshou_golden():
    # thu-ml/tianshou test/base/test_returns.py; their v is the value of the *next* state, the last unused.
    rewards = torch.tensor([[101.0, 102, 103, 200], [104, 105, 106, 201], [107, 108, 109, 202]])
    next_values = torch.tensor([[2.0, 3, 4], [5, 6, 7], [8, 9, 10]])
    values = torch.cat([torch.tensor([[17.0], [-4.0], [0.5]]), next_values], dim=1)
    mask = torch.ones(3, 4, dtype=torch.bool)
    advantages, returns = gae(rewards, values, mask, gamma=0.99, lam=0.95)
    expected = [[454.8344, 376.1143, 291.298, 200], [464.5610, 383.1085, 295.387, 201]]
    expected.append([474.2876, 390.1027, 299.476, 202])
    torch.testing.assert_close(returns, torch.tensor(expected), atol=1e-3, rtol=0)
    torch.testing.assert_close(advantages, torch.tensor(expected) - values, atol=1e-3, rtol=0)


RLAX = {  # google-deepmind/rlax rlax/_src/multistep_test.py, first row, atol 1e-3 as there
    1.0: [-1.45118, -4.4557, 2.5396, 0.5249, -0.49],
    0.7: [-0.676979, -5.248167, 2.4846, 0.6704, -0.49],
    0.4: [0.56731, -6.042, 2.3431, 0.815, -0.49],
}
RLAX_ENDED = {1.0: [3.0, 2.0, 1.0, 0.0], 0.7: [2.2899, 1.73, 1.0, 0.0], 0.4: [1.725, 1.46, 1.0, 0.0]}


@pytest.mark.parametrize("lam", [1.0, 0.7, 0.4])
def test_rlax_golden(lam):
    # They bootstrap from V = -1 after the end; here V is 0 there, so that 0.99 * -1 joins the last reward.
    rewards, values = [0.0, 0.0, 1.0, 0.0, -0.5 - 0.99], [1.0, 4.0, -3.0, -2.0, -1.0]
    advantages, returns = one(rewards, values, gamma=0.99, lam=lam)
    torch.testing.assert_close(advantages, torch.tensor(RLAX[lam]), atol=1e-3, rtol=0)
    torch.testing.assert_close(returns, advantages + torch.tensor(values))
    direct = by_double_sum(rewards, values, gamma=0.99, lam=lam)
    torch.testing.assert_close(advantages, torch.tensor(direct))
    # Their second row ends (discount 0) after the fourth step.
    ended, _ = one([0.0, 0.0, 0.0, 0.0], [-3.0, -2.0, -1.0, 0.0], gamma=0.9, lam=lam)
    torch.testing.assert_close(ended, torch.tensor(RLAX_ENDED[lam]), atol=1e-3, rtol=0)


rows = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=7)
unit = st.floats(0, 1)


@given(row=rows, gamma=unit, lam=unit)
@settings(max_examples=80, deadline=None)
def test_equals_the_double_sum(row, gamma, lam):
    rewards, values = ([float(pair[i]) for pair in row] for i in (0, 1))
    mask = torch.ones(1, len(row), dtype=torch.bool)
    as64 = (torch.tensor([x], dtype=torch.float64) for x in (rewards, values))
    advantages, returns = gae(*as64, mask, gamma=gamma, lam=lam)
    direct = torch.tensor([by_double_sum(rewards, values, gamma=gamma, lam=lam)], dtype=torch.float64)
    torch.testing.assert_close(advantages, direct)
    torch.testing.assert_close(returns, direct + torch.tensor([values], dtype=torch.float64))


def test_lambda_one_is_monte_carlo_whatever_the_critic_says():
    rewards = [1.0, -2.0, 4.0]
    # discounted sums with γ = 1/2: 1 - 1 + 1, -2 + 2, 4
    for values in ([0.0, 0.0, 0.0], [3.0, -7.0, 100.0]):
        _, returns = one(rewards, values, gamma=0.5, lam=1.0)
        torch.testing.assert_close(returns, torch.tensor([1.0, 0.0, 4.0]), atol=1e-4, rtol=0)


def test_lambda_zero_is_the_one_step_error():
    advantages, returns = one([1.0, -2.0, 4.0], [3.0, -7.0, 10.0], gamma=0.5, lam=0.0)
    assert advantages.tolist() == [1 - 3.5 - 3, -2 + 5 + 7, 4 - 10]
    assert returns.tolist() == [1 - 3.5, -2 + 5, 4]


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e9])
def test_masked_places_change_nothing(garbage):
    rewards, values = [1.0, -2.0, 4.0], [3.0, -7.0, 10.0]
    expected = one(rewards, values, gamma=0.9, lam=0.8)
    place = slice(2, 5)  # padding on both sides
    mask = torch.zeros(1, 7, dtype=torch.bool)
    mask[:, place] = True
    wide = torch.full((2, 1, 7), garbage)
    wide[0, :, place], wide[1, :, place] = torch.tensor(rewards), torch.tensor(values)
    for got, want in zip(gae(wide[0], wide[1], mask, gamma=0.9, lam=0.8), expected, strict=True):
        assert torch.equal(got[0, place], want)
        assert (got[~mask] == 0).all()


def test_rows_do_not_mix_and_an_empty_row_gives_zeros():
    rewards, values = torch.tensor([[1.0, 2.0], [5.0, 6.0]]), torch.tensor([[3.0, 4.0], [7.0, 8.0]])
    mask = torch.tensor([[True, True], [False, False]])
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    assert advantages.tolist() == [[0.0, -2.0], [0.0, 0.0]]
    assert returns.tolist() == [[3.0, 2.0], [0.0, 0.0]]


def test_inputs_are_left_alone():
    rewards, values = torch.tensor([[1.0, float("nan")]]), torch.tensor([[3.0, 4.0]])
    gae(rewards, values, torch.tensor([[True, False]]), gamma=1.0, lam=1.0)
    assert rewards[0, 0] == 1.0 and rewards[0, 1].isnan() and values.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("hole", ["101", "0101", "1001"])
def test_a_hole_in_the_mask_is_an_error(hole):
    x = torch.zeros(1, len(hole))
    mask = torch.tensor([[place == "1" for place in hole]])
    with pytest.raises(ValueError, match="hole"):
        gae(x, x, mask, gamma=1.0, lam=1.0)


def test_wrong_input_is_an_error():
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"values \(2, 4\)"):
        gae(x, torch.zeros(2, 4), mask, gamma=1.0, lam=1.0)
    with pytest.raises(ValueError, match="2 dimensions"):
        gae(x[0], x[0], mask[0], gamma=1.0, lam=1.0)
    with pytest.raises(TypeError, match="bool"):
        gae(x, x, mask.float(), gamma=1.0, lam=1.0)
    with pytest.raises(ValueError, match=r"gamma.*1\.5"):
        gae(x, x, mask, gamma=1.5, lam=1.0)
    with pytest.raises(ValueError, match=r"lam.*-0\.1"):
        gae(x, x, mask, gamma=1.0, lam=-0.1)
