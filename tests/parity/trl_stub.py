"""Run TRL's own loss code on plain tensors.

TRL's losses live inside trainer methods. A method is a function: called with a stand-in for ``self`` that has
the few attributes it reads, and with a "model" that hands back given log-probabilities, it computes TRL's
loss and its gradient without a model, a dataset or a tokenizer.
"""

from __future__ import annotations

import importlib
import os
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def trl_class(module: str, name: str) -> type:
    """``name`` from ``trl.module``; the test is skipped where this TRL does not have it."""
    pytest.importorskip("trl", reason="TRL is not installed (extra 'dev')")
    try:
        return getattr(importlib.import_module(f"trl.{module}"), name)
    except (ImportError, AttributeError) as error:
        pytest.skip(f"this TRL has no trl.{module}.{name}: {error}")


class Accelerator:
    """One process on the CPU: gathering and reducing give back what they got."""

    device = torch.device("cpu")
    num_processes = 1
    process_index = 0
    is_main_process = True
    sync_gradients = True

    def gather(self, x: Any) -> Any:
        return x

    gather_for_metrics = gather

    def reduce(self, x: Tensor, reduction: str = "sum") -> Tensor:
        return x


class Self:
    """A stand-in for a trainer: unset attributes are None, which switches every optional feature off."""

    def __init__(self, *, training: bool = True, **attributes: Any) -> None:
        self.model = SimpleNamespace(training=training, is_gradient_checkpointing=False)
        self.accelerator = Accelerator()
        self._metrics = {mode: defaultdict(list) for mode in ("train", "eval")}
        self._total_train_tokens = 0
        self._tp_size = 1
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def leaf(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """Reproducible negative float32 numbers that look like log-probabilities, with gradient."""
    generator = torch.Generator().manual_seed(seed)
    return (-scale * torch.rand(*shape, generator=generator) - 0.05).requires_grad_()


def assert_same(ours: Tensor, theirs: Tensor, inputs: list[Tensor], **tolerance: float) -> None:
    """Equal scalars and equal gradients with respect to every input; the gradients are not all zero."""
    tolerance = tolerance or {"atol": 1e-6, "rtol": 2e-5}
    torch.testing.assert_close(ours, theirs.to(ours.dtype), **tolerance)
    mine = torch.autograd.grad(ours, inputs, retain_graph=True)
    other = torch.autograd.grad(theirs, inputs, retain_graph=True)
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    assert any(bool((gradient != 0).any()) for gradient in other)
