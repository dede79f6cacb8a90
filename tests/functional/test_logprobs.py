"""Log-probabilities and entropy, against torch.distributions and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical

from rlhf_lite.functional import entropy, sequence_logps, token_logps


def _random(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 4).to(dtype)


def test_token_logps_by_hand():
    # softmax of (log 1, log 2, log 5) is (1, 2, 5) / 8, whatever is added to all three
    logits = torch.tensor([1.0, 2.0, 5.0]).log().repeat(3, 1) + torch.tensor([[0.0], [7.0], [-300.0]])
    expected = torch.tensor([math.log(1 / 8), math.log(2 / 8), math.log(5 / 8)])
    torch.testing.assert_close(token_logps(logits, torch.tensor([0, 1, 2])), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(7,), (2, 5), (2, 3, 4)])
def test_values_and_gradients_equal_torch_distributions(shape):
    labels = torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(1))
    weights = _random(*shape, seed=2)
    ours, theirs = (_random(*shape, 11).double().requires_grad_() for _ in range(2))
    value, expected = token_logps(ours, labels), Categorical(logits=theirs).log_prob(labels)
    torch.testing.assert_close(value, expected)
    (value * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)

    ours.grad = theirs.grad = None
    value, expected = entropy(ours), Categorical(logits=theirs).entropy()
    torch.testing.assert_close(value, expected)
    (value * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    logits, labels = _random(3, 40_000, dtype=dtype), torch.tensor([5, 39_999, 0])
    got, expected = token_logps(logits, labels), Categorical(logits=logits.double()).log_prob(labels)
    assert got.dtype == torch.float32
    # A bfloat16 sum is off by about 0.06 at this size.
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=0)
    uncertainty = entropy(logits)
    assert uncertainty.dtype == torch.float32
    expected = Categorical(logits=logits.double()).entropy()
    torch.testing.assert_close(uncertainty.double(), expected, atol=1e-3, rtol=0)


def test_entropy_bounds_and_impossible_tokens():
    assert entropy(torch.zeros(8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.tensor([1e4, 0.0, 0.0])).item() == pytest.approx(0.0, abs=1e-6)
    impossible = torch.tensor([0.0, -math.inf, 0.0])
    assert entropy(impossible).item() == pytest.approx(math.log(2))
    assert token_logps(impossible, torch.tensor(2)).item() == pytest.approx(-math.log(2))


def test_sequence_logps_by_hand():
    logps = torch.tensor([[-1.0, -2.0, float("nan")], [-4.0, -8.0, -16.0]])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    assert sequence_logps(logps, mask).tolist() == [-3.0, -24.0]
    assert sequence_logps(logps, mask, average=True).tolist() == [-1.5, -12.0]


def test_sequence_logp_is_the_probability_of_the_sequence():
    # All 3^2 sequences of a two-step model: their probabilities sum to one.
    logits = _random(2, 3)
    total = 0.0
    for first in range(3):
        for second in range(3):
            logps = token_logps(logits, torch.tensor([first, second])).unsqueeze(0)
            total += sequence_logps(logps, torch.ones(1, 2, dtype=torch.bool)).exp().item()
    assert total == pytest.approx(1.0, abs=1e-6)


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match=r"logits \(2, 4, 9\).*labels \(2, 3\)"):
        token_logps(torch.zeros(2, 4, 9), torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="one shape"):
        sequence_logps(torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match="bool"):
        sequence_logps(torch.zeros(2, 3), torch.ones(2, 3))
