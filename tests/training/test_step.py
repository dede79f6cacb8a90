"""Batches by number, the learning rate, and an optimiser that continues as if nothing had happened."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from rlhf_lite.training.step import (
    NonFiniteError,
    Optimisation,
    batch_rows,
    learning_rate_factor,
    micro_batches,
)

ACCELERATOR = Accelerator(cpu=True)


@pytest.mark.parametrize("lengths", [None, [i * 7 % 11 for i in range(24)]])
def test_every_row_once_per_epoch(lengths):
    for epoch in range(3):
        rows = [r for s in range(6) for r in batch_rows(24, 4, epoch * 6 + s, seed=1, lengths=lengths)]
        assert sorted(rows) == list(range(24))


def test_epochs_and_seeds_have_their_own_order():
    def order(seed: int, epoch: int) -> list[int]:
        return [r for s in range(6) for r in batch_rows(24, 4, epoch * 6 + s, seed=seed)]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    assert order(0, 0) == orders[0]
    assert orders[0] != list(range(24))


def test_a_batch_depends_on_its_number_alone():
    torch.manual_seed(1)
    expected = batch_rows(50, 8, 13, seed=4)
    torch.manual_seed(2)
    for step in range(5):
        batch_rows(50, 8, step, seed=4)
    assert batch_rows(50, 8, 13, seed=4) == expected


def test_a_remainder_is_left_out_of_the_epoch_not_of_the_run():
    first = [r for s in range(2) for r in batch_rows(11, 4, s, seed=0)]
    assert len(set(first)) == 8
    many = {r for s in range(40) for r in batch_rows(11, 4, s, seed=0)}
    assert many == set(range(11))


def test_lengths_save_padding():
    lengths = [(i * 37) % 100 + 1 for i in range(128)]

    def padding(**options) -> int:
        total = 0
        for step in range(16):
            batch = [lengths[r] for r in batch_rows(128, 8, step, seed=0, **options)]
            total += max(batch) * len(batch) - sum(batch)
        return total

    assert padding(lengths=lengths) < 0.3 * padding()


def test_too_few_rows_are_an_error():
    with pytest.raises(ValueError, match="8 rows, got 7"):
        batch_rows(7, 8, 0, seed=0)


@pytest.mark.parametrize("accumulation", [1, 2, 3, 5, 8, 20])
def test_micro_batches_are_a_partition(accumulation):
    rows = list(range(100, 108))
    parts = micro_batches(rows, accumulation=accumulation, accelerator=ACCELERATOR)
    assert [r for part in parts for r in part] == rows
    assert 1 <= len(parts) <= accumulation and all(parts)


def test_micro_batches_of_all_processes_are_a_partition():
    class Rank:
        num_processes = 3

        def __init__(self, index):
            self.process_index = index

    rows = list(range(8))
    found = [
        r for i in range(3) for part in micro_batches(rows, accumulation=2, accelerator=Rank(i)) for r in part
    ]
    assert sorted(found) == rows


def test_learning_rate_factor_by_hand():
    factors = [learning_rate_factor(s, warmup_steps=4, total_steps=14) for s in range(15)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[9] == pytest.approx(0.55)  # half way from 1 to 0.1
    assert factors[14] == pytest.approx(0.1)
    assert learning_rate_factor(99, warmup_steps=4, total_steps=14) == pytest.approx(0.1)
    assert learning_rate_factor(0, warmup_steps=0, total_steps=1) == 1.0
    assert all(0 < learning_rate_factor(s, warmup_steps=9, total_steps=3) <= 1 for s in range(12))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.frozen = nn.Linear(3, 3).requires_grad_(False)
            self.trained = nn.Linear(3, 1)
            self.unused = nn.Linear(3, 1)

    def forward(self, x):
        return self.trained(self.frozen(x)).squeeze(-1)


def optimisation(net: Net, **changes) -> Optimisation:
    options = {
        "accelerator": ACCELERATOR,
        "learning_rate": 0.05,
        "warmup_steps": 3,
        "total_steps": 12,
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
    }
    return Optimisation(net, **options | changes)


def train(opt: Optimisation, steps: range) -> list[float]:
    norms = []
    for step in steps:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        opt.backward(((opt.module(x) - x.sum(1)) ** 2).mean())
        norms.append(opt.step())
    return norms


def test_a_loaded_state_continues_identically():
    whole = optimisation(Net())
    train(whole, range(5))
    saved = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    rates = []
    expected = train(whole, range(5, 10))

    net = Net()
    for parameter in net.trained.parameters():
        parameter.data.fill_(9.0)  # whatever it was
    again = optimisation(net)
    again.load(saved)
    rates.append(again.learning_rate)
    assert train(again, range(5, 10)) == expected
    assert rates == [pytest.approx(0.05 * learning_rate_factor(5, warmup_steps=3, total_steps=12))]
    first, second = whole.tensors(), again.tensors()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_forgetting_the_moments_would_be_noticed():
    whole = optimisation(Net())
    train(whole, range(5))
    saved = {name: t.clone() for name, t in whole.tensors().items() if not name.startswith("adam/")}
    expected = train(whole, range(5, 8))
    again = optimisation(Net())
    again.load(saved)
    assert train(again, range(5, 8)) != expected


def test_only_trainable_parameters_are_saved_and_loading_another_module_is_an_error():
    opt = optimisation(Net())
    train(opt, range(1))
    names = {name.split("/", 1)[1] for name in opt.tensors() if name.startswith("weight/")}
    assert names == {"trained.weight", "trained.bias", "unused.weight", "unused.bias"}
    lacking = {name: t for name, t in opt.tensors().items() if "unused" not in name}
    with pytest.raises(KeyError, match="unused"):
        optimisation(Net()).load(lacking)


def test_the_first_step_is_adamw_by_hand():
    net = Net()
    opt = optimisation(net, warmup_steps=0, max_grad_norm=1e9, weight_decay=0.5)
    before = net.trained.weight.detach().clone()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    loss = (opt.module(x) ** 2).mean()
    gradient = torch.autograd.grad(loss, net.trained.weight, retain_graph=True)[0]
    opt.backward(loss)
    opt.step()
    # Bias-corrected moments of one gradient are that gradient: the step is lr * sign(g), after decay.
    expected = before * (1 - 0.05 * 0.5) - 0.05 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(net.trained.weight.detach(), expected)
    assert net.trained.weight.grad is None


def test_gradients_are_clipped_and_the_norm_before_is_returned():
    net = Net()
    opt = optimisation(net, max_grad_norm=1e-3)
    opt.backward((opt.module(torch.ones(1, 3)) * 100).sum())
    norm = torch.cat([p.grad.flatten() for p in net.trained.parameters()]).norm().item()
    assert opt.step() == pytest.approx(norm)
    moment = opt.tensors()["adam/exp_avg/trained.weight"].norm()  # (1 - 0.9) * clipped gradient
    assert moment.item() <= 1.01e-4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(bad):
    net = Net()
    opt = optimisation(net)
    before = net.trained.weight.detach().clone()
    with pytest.raises(NonFiniteError, match="after 0 optimiser steps"):
        opt.backward(opt.module(torch.ones(1, 3)).sum() * bad)
    assert torch.equal(net.trained.weight, before)


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights():
    net = Net()
    opt = optimisation(net)
    before = net.trained.weight.detach().clone()
    # sqrt has an infinite slope at 0, where its value is finite.
    opt.backward(torch.sqrt(opt.module(torch.ones(1, 3)).sum() * 0.0))
    with pytest.raises(NonFiniteError, match="gradient norm"):
        opt.step()
    assert torch.equal(net.trained.weight, before)


def test_a_module_without_trainable_parameters_is_an_error():
    with pytest.raises(ValueError, match="Net has no trainable parameter"):
        optimisation(Net().requires_grad_(False))
