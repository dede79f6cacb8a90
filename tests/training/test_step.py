"""Batches by number, the learning rate, and an optimiser that continues as if nothing had happened."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import nn

from rlhf_lite.errors import NonFiniteError
from rlhf_lite.training.batches import batch_rows, drawn_rows, epoch_steps, micro_batches, split_by_length
from rlhf_lite.training.settings import Hooks, OptimiserSettings, RunSettings, pick, split
from rlhf_lite.training.step import SCHEDULES, Optimisation, evaluating, learning_rate_factor

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


def test_a_process_without_rows_has_no_parts():
    last = SimpleNamespace(process_index=2, num_processes=3)
    assert micro_batches([7, 8], accumulation=2, accelerator=last) == []


def test_rows_of_a_batch_are_split_by_length():
    assert split_by_length([5, 1, 4, 2, 3, 9, 8, 7, 6]) == [[1, 3, 4, 2, 0], [8, 7, 6, 5]]
    assert split_by_length([5, 1, 4, 2, 3]) == [[1, 3, 4, 2, 0]]  # too few to split
    for n in range(1, 20):
        parts = split_by_length([(i * 5) % 7 for i in range(n)], parts=3)
        assert sorted(row for part in parts for row in part) == list(range(n))
        assert len(parts) <= 3 and (len(parts) == 1 or min(map(len, parts)) >= 4)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 6, 7])
def test_drawn_rows_are_those_that_the_batches_draw(steps):
    """Eleven rows in batches of four: two batches and a remainder per epoch."""
    options = {"seed": 3, "lengths": [i * 7 % 11 for i in range(11)]}
    drawn = {row for step in range(steps) for row in batch_rows(11, 4, step, **options)}
    found = drawn_rows(11, 4, steps, **options)
    assert found == sorted(set(found)) and drawn <= set(found)
    if steps <= 4:
        assert set(found) == drawn


def test_epoch_steps():
    assert epoch_steps(17, batch_size=4, epochs=3) == 12
    with pytest.raises(ValueError, match="4 rows, got 3"):
        epoch_steps(3, batch_size=4, epochs=1)


def test_schedules_by_hand():
    def factors(schedule: str) -> list[float]:
        steps = (0, 1, 2, 7, 12, 99)
        return [learning_rate_factor(s, warmup_steps=2, total_steps=12, schedule=schedule) for s in steps]

    assert factors("linear") == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1, 0.1])
    assert factors("constant") == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert factors("cosine") == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1, 0.1])
    # Half a period of a cosine: a quarter of the way it has lost less than a straight line.
    quarter = learning_rate_factor(25, warmup_steps=0, total_steps=100, schedule="cosine")
    assert quarter == pytest.approx(0.1 + 0.45 * (1 + math.sqrt(0.5)))
    assert set(SCHEDULES) == {"linear", "cosine", "constant"}


def test_a_schedule_that_does_not_exist_is_an_error_before_the_first_step():
    with pytest.raises(ValueError, match="no schedule 'cosin': choose one of linear, cosine, constant"):
        optimisation(Net(), schedule="cosin")


def test_the_schedule_reaches_the_optimiser():
    opt = optimisation(Net(), warmup_steps=0, steps=4, schedule="cosine")
    rates = []
    for step in range(4):
        rates.append(opt.learning_rate)
        train(opt, range(step, step + 1))
    assert rates == [
        0.05 * learning_rate_factor(s, warmup_steps=0, total_steps=4, schedule="cosine") for s in range(4)
    ]


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
        "hooks": Hooks(lambda *_: None, bad_batches=changes.pop("bad_batches", None)),
        "learning_rate": 0.05,
        "warmup_steps": 3,
        "steps": 12,
        "batch_size": 1,
        "seed": 0,
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
    }
    return Optimisation(net, *split(options | changes, OptimiserSettings, RunSettings))


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


def test_a_huge_gradient_gives_the_update_of_the_clipped_one():
    """Against torch's own AdamW on gradients scaled to norm 0.5 by hand, in steps of very different size."""
    net, twin = Net(), Net()
    opt = optimisation(net, max_grad_norm=0.5, warmup_steps=0, schedule="constant")
    parameters = list(twin.trained.parameters())
    other = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.01)
    for step, size in enumerate((1e6, 3.0, 1e-3, 1e4)):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        opt.backward((opt.module(x) * size).sum())
        norm = opt.step()
        gradients = torch.autograd.grad((twin(x) * size).sum(), parameters)
        length = torch.cat([g.flatten() for g in gradients]).norm()
        assert norm == pytest.approx(length.item(), rel=1e-5)
        assert (length > 0.5) == (size > 0.1)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient * min(1.0, 0.5 / (length.item() + 1e-6))
        other.step()
    for ours, theirs in zip(net.trained.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_accumulated_gradients_are_clipped_as_one():
    nets = [Net(), Net()]
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) * 1e3
    for net, parts in zip(nets, ([x], x.chunk(4)), strict=True):
        opt = optimisation(net, max_grad_norm=0.5)
        for part in parts:
            opt.backward(opt.module(part).sum())
        opt.step()
    torch.testing.assert_close(nets[0].trained.weight, nets[1].trained.weight)


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


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_the_batch_that_went_wrong_is_saved(tmp_path, where):
    net = Net()
    opt = optimisation(net, bad_batches=tmp_path / "bad")
    train(opt, range(2))
    good = {"rows": torch.tensor([4, 9]), "ids": torch.tensor([[5, 6], [7, 0]])}
    opt.backward(opt.module(torch.ones(1, 3)).sum(), good)
    output = opt.module(torch.ones(1, 3)).sum()
    loss = output * float("nan") if where == "loss" else torch.sqrt(output * 0.0)
    with pytest.raises(NonFiniteError) as raised:
        opt.backward(loss, {"rows": torch.tensor([1]), "ids": torch.tensor([[3]])})
        opt.step()
    (path,) = (tmp_path / "bad").iterdir()
    assert path.name == "nonfinite-step-000003-process-0.safetensors"
    assert str(path) in str(raised.value) and "after 2 optimiser steps" in str(raised.value)
    with safe_open(str(path), "pt") as file:
        assert sorted(file.keys()) == [f"{i}/{name}" for i in (0, 1) for name in ("ids", "loss", "rows")]
        assert file.get_tensor("0/rows").tolist() == [4, 9]
        assert file.get_tensor("1/ids").tolist() == [[3]]
        assert bool(file.get_tensor("1/loss").isnan()) is (where == "loss")
        assert file.metadata()["reason"] in str(raised.value)


def test_batches_that_went_well_are_not_saved(tmp_path):
    opt = optimisation(Net(), bad_batches=tmp_path / "bad")
    opt.backward(opt.module(torch.ones(1, 3)).sum(), {"rows": torch.tensor([1])})
    opt.step()
    with pytest.raises(NonFiniteError):
        opt.backward(opt.module(torch.ones(1, 3)).sum() * float("nan"), {"rows": torch.tensor([2])})
    (path,) = (tmp_path / "bad").iterdir()
    with safe_open(str(path), "pt") as file:
        assert sorted(file.keys()) == ["0/loss", "0/rows"]


def test_evaluating_puts_every_part_back_into_its_mode():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    net[1].eval()
    before = [part.training for part in net.modules()]
    assert len(set(before)) == 2
    with pytest.raises(KeyboardInterrupt), evaluating(net):
        assert not any(part.training for part in net.modules())
        assert not torch.is_grad_enabled()
        raise KeyboardInterrupt
    assert [part.training for part in net.modules()] == before and torch.is_grad_enabled()


def test_an_accelerator_that_shards_the_model_is_refused():
    sharding = SimpleNamespace(distributed_type=SimpleNamespace(value="FSDP"))
    with pytest.raises(ValueError, match=r"shards the model \(FSDP\)"):
        optimisation(Net(), accelerator=sharding)


def test_a_module_without_trainable_parameters_is_an_error():
    with pytest.raises(ValueError, match="Net has no trainable parameter"):
        optimisation(Net().requires_grad_(False))


def test_settings_by_name_go_to_the_record_that_has_them():
    values = {"learning_rate": 0.1, "steps": 3, "batch_size": 2, "seed": 0}
    values |= {"accelerator": None, "hooks": None}
    optimiser, run = split(values, OptimiserSettings, RunSettings)
    assert (optimiser, run.steps, run.batch_size) == (OptimiserSettings(learning_rate=0.1), 3, 2)
    with pytest.raises(TypeError, match="unknown setting 'learnig_rate'"):
        split({"learnig_rate": 0.1}, OptimiserSettings, RunSettings)
    with pytest.raises(TypeError, match="learning_rate"):
        split({"steps": 3}, OptimiserSettings)
    # A section of a configuration holds more than one record.
    assert pick(OptimiserSettings, values, learning_rate=0.2) == OptimiserSettings(learning_rate=0.2)
    with pytest.raises(TypeError, match="clip"):
        pick(OptimiserSettings, values, clip=0.2)
