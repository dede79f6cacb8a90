"""Evaluation, early stopping, and what a checkpoint must know of them."""

from __future__ import annotations

import gc
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from runners import (
    EXAMPLES,
    PAIRS,
    Recorder,
    assert_same_weights,
    new_scorer,
    records,
    run_dpo,
    run_sft,
    weights,
)
from safetensors.torch import load_file
from torch import nn

from rlhf_lite.training.settings import EarlyStopping
from rlhf_lite.training.step import Optimisation, Progress


class Walk(nn.Module):
    """One weight; training moves it by the learning rate in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))


def walk(
    values: list[float], rule: EarlyStopping | None, *, recorder: Recorder | None = None, resume=None
) -> Walk:
    """A run whose metric takes the given values; the weight after step n is -n."""
    recorder = recorder or Recorder()
    recorder.hooks = type(recorder.hooks)(
        recorder.hooks.on_step, recorder.hooks.save, recorder.hooks.save_every, early_stopping=rule
    )
    module = Walk()
    options = {"learning_rate": 1.0, "schedule": "constant", "steps": len(values), "batch_size": 1, "seed": 0}
    optimiser, run = records(recorder, options | {"resume": resume})
    optimisation = Optimisation(module, optimiser, run)
    progress = Progress(optimisation, run)
    for step in progress:
        optimisation.backward(module.place * 1.0)
        optimisation.step()
        progress.record(step, {"metric": values[step]})
    return module


def test_a_run_without_hooks_takes_every_step():
    recorder = Recorder()
    assert walk([1.0] * 5, None, recorder=recorder).place.item() == pytest.approx(-5.0)
    assert recorder.steps == [1, 2, 3, 4, 5]
    assert sorted(recorder.saved) == [2, 4, 5]


@pytest.mark.parametrize(
    ("values", "rule", "steps", "best"),
    [
        # Two values no better than the best, and it stops.
        ([5, 4, 3, 3.5, 3.2, 1], {"patience": 2}, 5, 3),
        # The count starts anew with every best value.
        ([5, 6, 4, 6, 3, 6, 2], {"patience": 2}, 7, 7),
        # High is good.
        ([1, 3, 2, 2, 9], {"patience": 2, "mode": "max"}, 4, 2),
        # Better by too little is no better.
        ([5, 4.9, 4.8, 4.7], {"patience": 3, "min_delta": 0.5}, 4, 1),
        # NaN is never the best.
        ([float("nan"), 4, float("nan"), float("nan"), 1], {"patience": 2}, 4, 2),
        # It need not stop to go back.
        ([5, 2, 4], {"patience": 9}, 3, 2),
    ],
)
def test_it_stops_when_patience_ends_and_goes_back_to_the_best(values, rule, steps, best):
    recorder = Recorder()
    module = walk(values, EarlyStopping("metric", **rule), recorder=recorder)
    assert recorder.steps == list(range(1, steps + 1))
    assert module.place.item() == pytest.approx(-best, abs=1e-4)
    assert max(recorder.saved) == steps  # a run that stops saves where it stopped


@pytest.mark.parametrize("at", [2, 4])
def test_a_resumed_run_stops_where_the_other_stops(at):
    values, rule = [5, 4, 3, 3.5, 3.2, 3.1, 1], EarlyStopping("metric", patience=3)
    broken = Recorder(fail_at=at + 1)
    with pytest.raises(KeyboardInterrupt):
        walk(values, rule, recorder=broken)
    rest = Recorder()
    module = walk(values, rule, recorder=rest, resume=broken.resume(at))
    assert rest.steps == list(range(at + 1, 7))
    assert module.place.item() == pytest.approx(-3.0, abs=1e-4)


def test_a_stopped_run_stays_stopped():
    values, rule = [1, 2, 3, 4], EarlyStopping("metric", patience=1)
    first = Recorder()
    walk(values, rule, recorder=first)
    rest = Recorder()
    module = walk(values, rule, recorder=rest, resume=first.resume(2))
    assert rest.steps == [] and module.place.item() == pytest.approx(-1.0)


def test_a_metric_that_nobody_logs_is_an_error():
    with pytest.raises(ValueError, match=r"watches 'val', which no step logged.*logged were metric"):
        walk([1.0, 2.0], EarlyStopping("val", patience=1))


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"patience": 1, "mode": "up"}])
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="early stopping needs"):
        EarlyStopping("metric", **wrong)


def test_evaluation_is_merged_and_runs_without_dropout_and_gradient():
    scorer, seen = new_scorer(0.5), []

    def evaluate(step: int) -> dict[str, float]:
        seen.append((step, scorer.training, torch.is_grad_enabled()))
        torch.rand(3)  # whatever it draws, training goes on as if it had not
        return {"gold/score": 10.0 * step}

    recorder = Recorder(evaluate=evaluate, evaluate_every=2)
    lines = run_sft(scorer, steps=5, recorder=recorder).lines
    assert seen == [(2, False, False), (4, False, False), (5, False, False)]
    assert [line.get("gold/score") for line in lines] == [None, 20.0, None, 40.0, 50.0]
    plain = run_sft(new_scorer(0.5), steps=5).lines
    assert [line["loss/nats_per_token"] for line in lines] == [line["loss/nats_per_token"] for line in plain]


def test_a_trainer_stops_early_and_resumes_to_the_same_weights():
    """A learning rate that overshoots, so that the validation loss turns."""
    options = {
        "steps": 12,
        "batch_size": 4,
        "learning_rate": 0.1,
        "validation": EXAMPLES[:2],
        "validate_every": 1,
    }
    rule = EarlyStopping("val_loss/nats_per_token", patience=2)
    whole, recorder = new_scorer(), Recorder(early_stopping=rule)
    lines = run_sft(whole, EXAMPLES[2:], recorder=recorder, **options).lines
    values = [line["val_loss/nats_per_token"] for line in lines]
    assert len(values) < 12 and values.index(min(values)) == len(values) - 3
    broken = Recorder(early_stopping=rule, save_every=1, fail_at=len(values) - 1)
    with pytest.raises(KeyboardInterrupt):
        run_sft(new_scorer(), EXAMPLES[2:], recorder=broken, **options)
    again = new_scorer()
    resume = broken.resume(len(values) - 2)
    run_sft(again, EXAMPLES[2:], recorder=Recorder(early_stopping=rule), resume=resume, **options)
    assert_same_weights(again, whole)
    # The weights are those of the best step, not of the last.
    best = Recorder(save_every=1)
    run_sft(new_scorer(), EXAMPLES[2:], recorder=best, **options)
    saved = best.saved[values.index(min(values)) + 1][0]
    for name, weight in weights(whole).items():
        assert torch.equal(weight, saved[f"weight/{name}"])


def test_a_trainer_saves_the_batch_that_went_wrong(tmp_path):
    """A weight that has become infinite: the file tells which rows met it."""
    scorer = new_scorer()
    with torch.no_grad():
        next(p for n, p in scorer.named_parameters() if "lora_B" in n).fill_(float("inf"))
    with pytest.raises(RuntimeError, match=r"the loss is nan after 0 optimiser steps.*nonfinite-step-000001"):
        run_dpo(scorer, recorder=Recorder(bad_batches=tmp_path))
    (path,) = tmp_path.iterdir()
    found = load_file(str(path))
    rows = found["0/rows"].tolist()
    assert len(rows) == 4
    tokens = {
        tuple(ids[mask].tolist())
        for i in (0, 1)
        for ids, mask in zip(found[f"0/ids-{i}"], found[f"0/mask-{i}"], strict=True)
    }
    assert tokens == {
        tuple(PAIRS[r].prompt_ids + ids) for r in rows for ids in (PAIRS[r].chosen_ids, PAIRS[r].rejected_ids)
    }


@pytest.mark.parametrize("fail_at", [None, 2])
def test_the_accelerator_forgets_what_was_trained(fail_at):
    """It outlives a training, in a notebook too, and keeps all that it prepared unless told otherwise."""
    scorer = new_scorer()
    gone = weakref.ref(scorer)
    with pytest.raises(KeyboardInterrupt) if fail_at else nullcontext():
        run_sft(scorer, recorder=Recorder(fail_at=fail_at))
    del scorer
    gc.collect()
    assert gone() is None
