"""GRPO, RLOO and the reward loss: TRL 1.16's own code, run on a stand-in trainer, gives the same numbers."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from trl_stub import Self, assert_same, leaf, trl_class

from rlhf_lite.functional import (
    aggregate_tokens,
    bradley_terry_loss,
    centring_penalty,
    group_advantages,
    grpo_loss,
    rloo_advantages,
)

ROWS, TOKENS, LIMIT = 4, 5, 7


def batch(seed: int = 0):
    """Log-probabilities (with gradient), old, reference, advantages and mask of a small rollout."""
    logp = leaf(ROWS, TOKENS, seed=seed, scale=2.0)
    old, ref = (logp.detach() + 0.4 * torch.randn(ROWS, TOKENS, generator=g) for g in generators(seed, 2))
    advantages = torch.tensor([1.5, -0.7, -1.1, 0.3])
    mask = torch.arange(TOKENS)[None, :] < torch.tensor([5, 1, 3, 4])[:, None]
    return logp, old, ref, advantages, mask


def generators(seed: int, count: int):
    return (torch.Generator().manual_seed(100 * seed + i + 1) for i in range(count))


def prompt_inputs(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    ones = torch.ones(ROWS, 1, dtype=torch.long)
    completion = {"completion_ids": mask.long(), "completion_mask": mask.long()}
    return {"prompt_ids": ones, "prompt_mask": ones, **completion}


def forward(logp: torch.Tensor):
    return lambda *_, **__: (logp, torch.zeros_like(logp), None)


def trl_grpo(rule: str, logp, old, ref, advantages, mask, *, clip, clip_high, kl_coef):
    trainer = trl_class("trainer.grpo_trainer", "GRPOTrainer")
    this = Self(
        loss_type=rule,
        beta=kl_coef,
        epsilon_low=clip,
        epsilon_high=clip_high,
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        max_completion_length=LIMIT,
        current_gradient_accumulation_steps=1,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        _get_per_token_logps_and_entropies=forward(logp),
    )
    inputs = prompt_inputs(mask) | {
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }
    return trainer._compute_loss(this, None, inputs)


@pytest.mark.parametrize("rule", ["grpo", "dapo", "bnpo", "dr_grpo"])
@pytest.mark.parametrize(
    ("clip", "clip_high", "kl_coef"), [(0.2, 0.2, 0.0), (0.2, 0.3, 0.04), (0.1, 0.9, 1.0)]
)
def test_grpo_trainer(rule, clip, clip_high, kl_coef):
    logp, old, ref, advantages, mask = batch()
    settings = {"clip": clip, "clip_high": clip_high, "kl_coef": kl_coef}
    expected = trl_grpo(rule, logp, old, ref, advantages, mask, **settings)
    per_token = grpo_loss(logp, old, advantages[:, None].expand_as(logp), ref_logp=ref, **settings)
    loss = aggregate_tokens(per_token, mask, aggregation=rule, max_tokens=LIMIT)
    assert_same(loss, expected, [logp])


def test_rloo_trainer_is_the_same_loss_on_whole_sequences():
    logp, old, _, advantages, mask = batch(1)
    old_sums = (old * mask).sum(1)
    trainer = trl_class("trainer.rloo_trainer", "RLOOTrainer")
    this = Self(epsilon_low=0.2, epsilon_high=0.2, _get_per_token_logps_and_entropies=forward(logp))
    inputs = prompt_inputs(mask) | {"advantages": advantages, "old_logps": old_sums}
    expected = trainer._compute_loss(this, None, inputs)
    sums = (logp * mask).sum(1)
    loss = grpo_loss(sums[:, None], old_sums[:, None], advantages[:, None], clip=0.2).mean()
    assert_same(loss, expected, [logp])


# --- Advantages: TRL computes them in the middle of its rollout method

REWARDS = torch.tensor([1.0, 4.0, -2.0, 0.5, 0.5, 0.5, 3.0, 3.0, 9.0])


def scored(trainer: type, **settings) -> torch.Tensor:
    """The advantages that TRL's ``_generate_and_score_completions`` makes of REWARDS, in groups of three."""
    rows = len(REWARDS)
    ids = [[5, 6]] * rows
    this = Self(
        num_generations=3,
        num_generations_eval=3,
        beta=0.0,
        num_iterations=1,
        reward_weights=torch.ones(1),
        reward_func_names=["judge"],
        multi_objective_aggregation="sum_then_normalize",
        steps_per_generation=1,
        max_completion_length=LIMIT,
        eos_token_ids=[6],
        eos_token_id=6,
        _tokenizer=SimpleNamespace(pad_token_id=0, eos_token_id=6),
        processing_class=SimpleNamespace(batch_decode=lambda x, **_: ["text"] * len(x), pad_token_id=0),
        _logs={key: [] for key in ("prompt", "completion", "advantages", "images")}
        | {"rewards": defaultdict(list), "extra": defaultdict(list)},
        _pending_extra_logs={},
        _pending_metrics={},
        args=SimpleNamespace(
            gradient_accumulation_steps=1,
            steps_per_generation=1,
            per_device_train_batch_size=rows,
            per_device_eval_batch_size=rows,
            gradient_checkpointing_kwargs=None,
        ),
        _calculate_rewards=lambda *_: REWARDS[:, None],
        _get_per_token_logps_and_entropies=lambda *_, **__: (torch.zeros(rows, 2), None, None),
        **settings,
    )
    this._generate = settings["generated"](ids)
    return trainer._generate_and_score_completions(this, [{"prompt": "a"}] * rows)["advantages"]


@pytest.mark.parametrize(("ours", "theirs"), [("std", "group"), ("none", "none")])
def test_group_advantages_equal_grpo_trainer(ours, theirs):
    trainer = trl_class("trainer.grpo_trainer", "GRPOTrainer")

    def generated(ids):
        return lambda *_: (ids, ids, None, ["b"] * len(ids), None, {}, None, None)

    expected = scored(trainer, scale_rewards=theirs, generated=generated)
    torch.testing.assert_close(group_advantages(REWARDS, group_size=3, scale=ours), expected)


def test_rloo_advantages_equal_rloo_trainer():
    trainer = trl_class("trainer.rloo_trainer", "RLOOTrainer")

    def generated(ids):
        return lambda *_: (ids, ids, ["b"] * len(ids))

    expected = scored(trainer, generated=generated)
    torch.testing.assert_close(rloo_advantages(REWARDS, group_size=3), expected)


# --- The reward model's loss


@pytest.mark.parametrize("with_margin", [False, True])
def test_reward_trainer(with_margin):
    trainer = trl_class("trainer.reward_trainer", "RewardTrainer")
    scores = leaf(8, 1, seed=5, scale=6.0)
    margin = torch.tensor([0.1, 2.0, 0.0, 0.7])
    this = Self(args=SimpleNamespace(center_rewards_coefficient=0.01))
    inputs = {"attention_mask": torch.ones(8, 3)} | ({"margin": margin} if with_margin else {})
    expected = trainer.compute_loss(this, lambda **_: SimpleNamespace(logits=scores), inputs)
    chosen, rejected = scores.squeeze(-1).chunk(2)
    loss = bradley_terry_loss(chosen, rejected, margin=margin if with_margin else None).mean()
    assert_same(loss + 0.01 * centring_penalty(chosen, rejected).mean(), expected, [scores])
