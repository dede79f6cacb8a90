"""Rejection sampling: winners become examples, rounds raise the reward, a stop between rounds is no harm."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import token_rows

sys.path.insert(0, str(Path(__file__).parent))
from runners import TOKENS, WANTED_TOKEN, assert_resume_is_exact, policy_setup, weights

from rlhf_lite.training.rejection import RejectionSettings, train_rejection, winners
from rlhf_lite.training.rollouts import Batch, roll_out
from rlhf_lite.training.settings import Hooks, OptimiserSettings, RunSettings, split

ACCELERATOR = Accelerator(cpu=True)
PROMPTS = token_rows([3, 1, 4, 2, 5, 2, 3, 1], vocab=TOKENS, seed=1)


def count_wanted(batch):
    return ((batch.ids == WANTED_TOKEN) & batch.response_mask).sum(1) / batch.response_mask.sum(1)


new_setup = partial(policy_setup, reward=count_wanted)

OPTIONS = {
    "steps": 4,
    "batch_size": 8,
    "n": 4,
    "max_new_tokens": 6,
    "temperature": 1.0,
    "sft_steps": 4,
    "sft_batch_size": 4,
    "learning_rate": 0.02,
    "warmup_steps": 0,
    "max_grad_norm": 1.0,
    "seed": 0,
}


def train(parts, *, hooks=None, **changes):
    lines: list[dict[str, float]] = []
    hooks = hooks or Hooks(lambda step, metrics: lines.append(dict(metrics)))
    options = OPTIONS | {"accelerator": ACCELERATOR, "hooks": hooks} | changes
    settings, optimiser, run = split(options, RejectionSettings, OptimiserSettings, RunSettings)
    train_rejection(parts, PROMPTS, settings, optimiser=optimiser, run=run)
    return lines


def test_winners_by_hand():
    zeros = torch.zeros(4, 4)
    batch = Batch(
        hidden=zeros, ids=torch.tensor([[0, 5, 6, 2], [0, 5, 7, 7], [8, 9, 2, 0], [8, 9, 3, 2]]),
        mask=torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]).bool(),
        response_mask=torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1]]).bool(),
        sampled_logps=zeros, old_logps=zeros, entropies=zeros, ended=zeros[:, 0].bool(),
        scores=torch.tensor([1.0, 2.0, 3.0, 3.0]), raw=zeros[:, 0], parts=zeros[:, :0],
    )  # fmt: skip
    examples, scores = winners(batch, n=2)
    assert [(e.prompt, e.completion) for e in examples] == [([5], [7, 7]), ([8, 9], [2])]
    assert all(e.counts is None for e in examples)
    assert scores == [2.0, 3.0]


def test_winners_are_the_best_of_what_was_sampled():
    parts = new_setup()
    options = {"max_new_tokens": 6, "temperature": 1.0, "repeats": 4}
    batch, _ = roll_out(parts, PROMPTS, seeds=range(32), **options)
    examples, scores = winners(batch, n=4)
    assert [e.prompt for e in examples] == PROMPTS
    assert scores == batch.scores.view(-1, 4).amax(1).tolist()
    for example, score in zip(examples, scores, strict=True):
        assert example.completion.count(WANTED_TOKEN) / len(example.completion) == pytest.approx(score)
    assert max(scores) > 0


def test_rounds_improve_the_reward():
    lines = train(new_setup())
    assert lines[-1]["reward/score"] > lines[0]["reward/score"] + 0.2
    assert all(line["reward/best"] >= line["reward/score"] for line in lines)
    assert lines[0]["kl/nats_per_seq"] == pytest.approx(0.0, abs=1e-5) and lines[-1]["kl/nats_per_seq"] > 0.5
    assert all(line["loss/nats_per_token"] > 0 for line in lines)


def test_only_the_adapter_changes():
    parts = new_setup()
    before = {n: p.detach().clone() for n, p in parts.scorer.named_parameters()}
    train(parts, steps=1)
    moved = {n for n, p in parts.scorer.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(".policy." in n for n in moved)


def test_a_run_resumed_after_a_round_is_the_same(tmp_path):
    assert_resume_is_exact(new_setup, train, tmp_path, stop=3, steps=3)


def test_the_same_seed_gives_the_same_weights():
    first, again, other = new_setup(), new_setup(), new_setup()
    for parts, seed in ((first, 0), (again, 0), (other, 1)):
        train(parts, steps=1, seed=seed)
    assert all(torch.equal(w, weights(first.scorer)[n]) for n, w in weights(again.scorer).items())
    assert not all(torch.equal(w, weights(first.scorer)[n]) for n, w in weights(other.scorer).items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 1}, "n must be at least 2"),
        ({"sft_batch_size": 9}, "8 winners a round cannot fill a batch of 9"),
    ],
)
def test_refusals(changes, said):
    with pytest.raises(ValueError, match=said):
        train(new_setup(), **changes)
