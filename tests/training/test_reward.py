"""Reward-model training: ln 2 at the start, a separable toy at the end, and batches cut anyhow."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from runners import (
    PREFERENCES,
    Recorder,
    assert_same_run,
    assert_same_weights,
    new_reward,
    run_reward,
    weights,
)
from tiny_models import save_base

from rlhf_lite.training import reward
from rlhf_lite.training.batches import epoch_steps
from rlhf_lite.training.reward import pair_metrics, pair_texts, score_pairs
from rlhf_lite.types import Preference


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(save_base(tmp_path_factory.mktemp("base")))


def test_texts_and_steps():
    two = [Preference("a", " b", " c"), Preference("", "d", "e")]
    assert pair_texts(two) == ["a b", "d", "a c", "e"]
    assert epoch_steps(17, batch_size=4, epochs=3) == 12
    with pytest.raises(ValueError, match="got 3"):
        epoch_steps(3, batch_size=4, epochs=1)


def test_the_first_loss_is_ln_2_and_a_separable_toy_is_learned(base):
    model = new_reward(base)
    lines = run_reward(model, epochs=5).lines
    assert len(lines) == 20
    assert lines[0]["loss/nats_per_pair"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[0]["margin/score"] == pytest.approx(0.0, abs=1e-6)
    assert lines[0]["loss/centring"] == pytest.approx(0.0, abs=1e-6)
    assert lines[-1]["loss/nats_per_pair"] < 0.2
    assert lines[-1]["accuracy/fraction"] == 1.0 and lines[-1]["margin/score"] > 1.0
    model.eval()
    chosen, rejected = score_pairs(model, [Preference("my cat", " is AA", " is zz")])  # not trained on
    assert chosen.item() > rejected.item()


def test_one_step_is_the_step_of_that_gradient(base):
    """Bradley-Terry and centring by plain autograd, one text at a time, without padding."""
    model = new_reward(base)
    with torch.no_grad():
        model.get_parameter(score_name(model)).normal_(generator=torch.Generator().manual_seed(0))
    scores = {text: one_score(model, text) for text in pair_texts(PREFERENCES)}
    differences = torch.stack(
        [scores[p.prompt + p.chosen] - scores[p.prompt + p.rejected] for p in PREFERENCES]
    )
    sums = torch.stack([scores[p.prompt + p.chosen] + scores[p.prompt + p.rejected] for p in PREFERENCES])
    loss = torch.log1p(torch.exp(-differences)).mean() + 0.3 * (sums**2).mean()
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    # Adapters of unused layers there are none: every trainable weight gets a gradient.
    gradients = torch.autograd.grad(loss, [p for _, p in named])
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    before = weights(model)
    line = run_reward(model, batch_size=16, centre=0.3, warmup_steps=0, max_grad_norm=1e9).lines[0]
    assert line["loss/nats_per_pair"] + line["loss/centring"] == pytest.approx(loss.item(), rel=1e-5)
    assert line["loss/centring"] == pytest.approx(0.3 * (sums**2).mean().item(), rel=1e-5)
    assert line["accuracy/fraction"] == pytest.approx((differences > 0).float().mean().item())
    assert line["margin/score"] == pytest.approx(differences.mean().item(), rel=1e-4)
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
    for (name, parameter), gradient in zip(named, gradients, strict=True):
        clear = gradient.abs() > 1e-4  # where Adam's first step is lr * sign(gradient)
        moved = parameter.detach() - before[name]
        torch.testing.assert_close(moved[clear], -0.01 * gradient[clear].sign(), atol=2e-4, rtol=0)


def score_name(model) -> str:
    return next(n for n, p in model.named_parameters() if p.requires_grad and "score" in n)


def one_score(model, text: str) -> torch.Tensor:
    ids, mask = model.encode([text])
    return model.model(input_ids=ids, attention_mask=mask.long()).logits.squeeze()


def test_the_centring_penalty_centres(base):
    def offset(centre: float) -> float:
        model = new_reward(base)
        run_reward(model, epochs=4, centre=centre)
        chosen, rejected = score_pairs(model, PREFERENCES)
        return (chosen + rejected).abs().mean().item()

    assert offset(0.5) < 0.5 * offset(0.0)


def shifted(model, by: float):
    """The same model with ``by`` added to every score."""
    forward = model.forward
    model.forward = lambda *args, **options: forward(*args, **options) + by
    return model


def test_a_constant_added_to_every_score_changes_nothing_without_centring(base):
    plain, moved = new_reward(base), shifted(new_reward(base), 7.0)
    expected = run_reward(plain, epochs=2, centre=0.0).lines
    assert_same_run(run_reward(moved, epochs=2, centre=0.0).lines, expected, rel=1e-4, abs=1e-5)
    assert_same_weights(moved, plain, atol=1e-4)
    # The penalty is there to see such a constant.
    centred = run_reward(shifted(new_reward(base), 7.0), epochs=1, centre=0.1).lines
    assert centred[0]["loss/centring"] == pytest.approx(0.1 * 14**2, rel=1e-5)


@pytest.mark.parametrize("accumulation", [2, 8])
def test_accumulation_changes_nothing(base, accumulation):
    whole, parts = new_reward(base), new_reward(base)
    first = run_reward(whole, batch_size=8, epochs=3).lines
    second = run_reward(parts, batch_size=8, epochs=3, accumulation=accumulation).lines
    assert_same_run(second, first, rel=2e-4, abs=2e-5)
    assert_same_weights(parts, whole, atol=2e-4)


def test_longer_padding_changes_nothing(base, monkeypatch):
    expected = run_reward(new_reward(base), epochs=1).lines
    pad_right = reward.pad_right

    def longer(rows, pad, **place):
        ids, mask = pad_right(rows, pad, **place)
        tail = torch.zeros(len(ids), 9, dtype=torch.bool)
        return torch.cat([ids, tail.long() + 5], 1), torch.cat([mask, tail], 1)

    monkeypatch.setattr(reward, "pad_right", longer)
    assert_same_run(run_reward(new_reward(base), epochs=1).lines, expected, rel=2e-4, abs=2e-5)


def test_same_seed_same_numbers_other_seed_other_numbers(base):
    first, again, other = (run_reward(new_reward(base, 0.1), seed=seed).lines for seed in (0, 0, 1))
    assert again == first and other != first


def test_validation_is_measured_without_dropout(base):
    model = new_reward(base, 0.5)
    lines = run_reward(model, epochs=2, validation=PREFERENCES[:5], validate_every=3).lines
    measured = [step + 1 for step, line in enumerate(lines) if "val_loss/nats_per_pair" in line]
    assert measured == [3, 6, 8]
    model.eval()
    chosen, rejected = score_pairs(model, PREFERENCES[:5])
    expected = torch.log1p(torch.exp(rejected - chosen)).mean().item()
    assert lines[-1]["val_loss/nats_per_pair"] == pytest.approx(expected, rel=1e-5)
    assert lines[-1]["val_accuracy/fraction"] == pytest.approx((chosen > rejected).float().mean().item())
    assert pair_metrics(new_reward(base), PREFERENCES)["accuracy/fraction"] == 0.5  # all scores are zero


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_interrupted_run_ends_where_the_other_ends(base, dropout):
    whole = new_reward(base, dropout)
    expected = run_reward(whole, epochs=2).lines
    broken = Recorder(fail_at=7)
    with pytest.raises(KeyboardInterrupt):
        run_reward(new_reward(base, dropout), epochs=2, recorder=broken)
    assert sorted(broken.saved) == [2, 4, 6]
    model = new_reward(base, dropout)
    torch.manual_seed(123)  # another process
    assert run_reward(model, epochs=2, resume=broken.resume(6)).lines == expected[6:]
    assert_same_weights(model, whole)
