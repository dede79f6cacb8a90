"""Reward-model training: ln 2 at the start, a separable toy at the end, and batches cut anyhow."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import save_base

from rlhf_lite.models.reward_model import new_reward_model
from rlhf_lite.training.reward import pair_texts, reward_steps, score_pairs, train_reward
from rlhf_lite.training.step import Hooks, Resume
from rlhf_lite.types import Preference

ACCELERATOR = Accelerator(cpu=True)
WORDS = ("film", "a plot", "it", "the music", "one hour", "her role", "an end", "some story")
ENDS = ((" is AAA", " is zz"), (" is A", " is zzz"))
PAIRS = [Preference(word, good, bad) for word in WORDS for good, bad in ENDS]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(save_base(tmp_path_factory.mktemp("base")))


def new(base: str):
    return new_reward_model(
        base,
        precision="fp32",
        rank=4,
        alpha=8.0,
        dropout=0.0,
        top_layers=2,
        target_modules="all-linear",
        max_tokens=40,
        seed=0,
    )


def train(model, *, save=None, resume=None, fail_at=None, **changes) -> list[dict[str, float]]:
    lines: list[dict[str, float]] = []

    def on_step(step: int, metrics) -> None:
        lines.append(dict(metrics))
        if step == fail_at:
            raise KeyboardInterrupt

    options = {
        "epochs": 1,
        "batch_size": 4,
        "accumulation": 1,
        "learning_rate": 0.01,
        "warmup_steps": 1,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "centre": 0.01,
        "seed": 0,
    }
    hooks = Hooks(on_step, save, 2)
    train_reward(model, PAIRS, accelerator=ACCELERATOR, hooks=hooks, resume=resume, **options | changes)
    return lines


def weights(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def test_texts_and_steps():
    two = [Preference("a", " b", " c"), Preference("", "d", "e")]
    assert pair_texts(two) == ["a b", "d", "a c", "e"]
    assert reward_steps(17, batch_size=4, epochs=3) == 12
    with pytest.raises(ValueError, match="got 3"):
        reward_steps(3, batch_size=4, epochs=1)


def test_the_first_loss_is_ln_2_and_a_separable_toy_is_learned(base):
    model = new(base)
    lines = train(model, epochs=5)
    assert len(lines) == 20
    assert lines[0]["loss/nats_per_pair"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[0]["margin/score"] == pytest.approx(0.0, abs=1e-6)
    assert lines[-1]["loss/nats_per_pair"] < 0.2
    assert lines[-1]["accuracy/fraction"] == 1.0 and lines[-1]["margin/score"] > 1.0
    model.eval()
    chosen, rejected = score_pairs(model, [Preference("my cat", " is AA", " is zz")])  # not trained on
    assert chosen.item() > rejected.item()


def test_the_centring_penalty_centres(base):
    def offset(centre: float) -> float:
        model = new(base)
        train(model, epochs=4, centre=centre)
        chosen, rejected = score_pairs(model, PAIRS)
        return (chosen + rejected).abs().mean().item()

    assert offset(0.5) < 0.5 * offset(0.0)


@pytest.mark.parametrize("accumulation", [2, 8])
def test_accumulation_changes_nothing(base, accumulation):
    whole, parts = new(base), new(base)
    first = train(whole, batch_size=8, epochs=2)
    second = train(parts, batch_size=8, epochs=2, accumulation=accumulation)
    for a, b in zip(first, second, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-5)
    expected = weights(whole)
    for name, weight in weights(parts).items():
        torch.testing.assert_close(weight, expected[name], atol=2e-4, rtol=1e-3)


def test_an_interrupted_run_ends_where_the_other_ends(base):
    whole = new(base)
    expected = train(whole, epochs=2)
    saved = {}

    def save(step, tensors, numbers) -> None:
        saved[step] = {name: tensor.clone() for name, tensor in tensors.items()}

    with pytest.raises(KeyboardInterrupt):
        train(new(base), epochs=2, save=save, fail_at=7)
    assert sorted(saved) == [2, 4, 6]
    model = new(base)
    assert train(model, epochs=2, resume=Resume(6, saved[6], {})) == expected[6:]
    wanted = weights(whole)
    for name, weight in weights(model).items():
        assert torch.equal(weight, wanted[name]), name
