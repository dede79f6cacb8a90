"""The same numbers and gradients as TRL, where TRL has a function that can be called with tensors."""

from __future__ import annotations

import pytest
import torch

from rlhf_lite.functional import entropy, token_logps

trl_utils = pytest.importorskip(
    "trl.trainer.utils", reason="TRL is not installed (extra 'dev')"
)


def _leaf(*shape: int, seed: int) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3).requires_grad_()


def test_token_logps_equal_selective_log_softmax():
    labels = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0))
    logits, weights = _leaf(3, 7, 50, seed=1), _leaf(3, 7, seed=2).detach()
    ours, theirs = token_logps(logits, labels), trl_utils.selective_log_softmax(logits, labels)
    torch.testing.assert_close(ours, theirs)
    (mine,), (other,) = (torch.autograd.grad((x * weights).sum(), logits) for x in (ours, theirs))
    torch.testing.assert_close(mine, other)


def test_entropy_equals_entropy_from_logits():
    logits, weights = _leaf(3, 7, 50, seed=3), _leaf(3, 7, seed=4).detach()
    ours, theirs = entropy(logits), trl_utils.entropy_from_logits(logits)
    torch.testing.assert_close(ours, theirs)
    (mine,), (other,) = (torch.autograd.grad((x * weights).sum(), logits) for x in (ours, theirs))
    torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
