"""The same training as TRL's RLOOTrainer and GRPOTrainer: the same completions, then the same steps.

Only the sampling is replaced in TRL, by ours, so that both learn from the same texts; what it would sample
with (temperature 0.8) stays. Rewards, KL, advantages, losses, clipping and optimiser are each library's own.

What has to agree for that, and which speed comparisons need as well:

- RLOO: ``beta`` is ``kl_coef`` with ``kl_in="reward"``, ``num_iterations`` is ``epochs``, and the ratio is
  that of a whole completion (``aggregation="sequence"``); TRL's ``normalize_advantages`` is off by default;
- GRPO: ``beta`` is ``kl_coef`` (TRL's default is 0, the paper's 0.04) with ``kl_in="loss"`` if
  ``use_bias_correction_kl`` is off, as published, and "weighted_loss" if it is on, TRL's default;
  ``loss_type`` is ``aggregation`` (TRL's default is dapo), ``scale_rewards="group"`` is ``estimator="grpo"``
  and "none" is ``dr_grpo``;
- one minibatch per iteration, since the two libraries shuffle differently; ``shuffle_dataset=False``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import save_base

from rlhf_lite.data.collate import pad_left
from rlhf_lite.data.formatting import encode_prompts
from rlhf_lite.models.adapters import add_adapter, lora_config, merged
from rlhf_lite.models.policy import PolicyScorer, load_policy
from rlhf_lite.pipeline.phases import AdapterPolicies
from rlhf_lite.rollout.rewards import Mixture, Part, text_reward
from rlhf_lite.rollout.sampler import row_seeds, sample
from rlhf_lite.training.batches import batch_rows
from rlhf_lite.training.grpo import METHODS, GRPOSettings, train_grpo
from rlhf_lite.training.rollouts import PolicyGradientSetup
from rlhf_lite.training.settings import Hooks, OptimiserSettings, RunSettings

STEPS, GROUP, LENGTH, EPOCHS, RATE, BETA, HEAT = 3, 4, 8, 2, 5e-3, 0.3, 0.8
PROMPTS = ["The film ", "A", "It is ", "One hour in, "]
SHAPE = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "top_layers": 2}


def vowels(texts):
    return [sum(character in "aeiou" for character in text) for text in texts]


def lengths(texts):
    return [float(len(text)) for text in texts]


@pytest.fixture(scope="module")
def trl():
    return pytest.importorskip("trl", reason="TRL is not installed (extra 'dev')")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(save_base(tmp_path_factory.mktemp("base")))


def seeds_of(step: int) -> dict[int, list[int]]:
    """The seeds that our trainer gives to each prompt in a step."""
    rows = batch_rows(len(PROMPTS), len(PROMPTS), step, seed=0)
    seeds = row_seeds(0, step, rows=len(rows) * GROUP)
    return {row: seeds[place * GROUP : (place + 1) * GROUP] for place, row in enumerate(rows)}


def ours(base: str, **method) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    policy = load_policy(base, precision="fp32")
    model = add_adapter(policy.model, lora_config(policy.model, **SHAPE), "default", seed=0).eval()
    adapters = AdapterPolicies(model, None)
    two = {
        "vowels": Part(text_reward(lambda prompts, texts: vowels(texts))),
        "lengths": Part(text_reward(lambda prompts, texts: lengths(texts)), weight=0.1),
    }
    setup = PolicyGradientSetup(
        scorer=PolicyScorer(model, top_layers=SHAPE["top_layers"]),
        reference=adapters.scoring(None),
        sampling=adapters.sampling("default"),
        reward=Mixture(two),
        eos_token_id=policy.tokenizer.eos_token_id,
        pad_token_id=policy.tokenizer.pad_token_id,
        decode=lambda rows: policy.tokenizer.batch_decode(rows, skip_special_tokens=True),
    )
    lines: list[dict[str, float]] = []
    train_grpo(
        setup,
        encode_prompts(policy.tokenizer, PROMPTS),
        GRPOSettings(
            group_size=GROUP, max_new_tokens=LENGTH, temperature=HEAT, epochs=EPOCHS, minibatches=1, clip=0.1,
            kl_coef=BETA, **method,
        ),
        optimiser=OptimiserSettings(learning_rate=RATE, schedule="constant", max_grad_norm=1.0),
        run=RunSettings(
            steps=STEPS, batch_size=len(PROMPTS), seed=0, accelerator=Accelerator(cpu=True),
            hooks=Hooks(lambda _, line: lines.append(dict(line))),
        ),
    )  # fmt: skip
    return lines, {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def theirs(trainer_class, config_class, base: str, folder: Path, **options):
    from datasets import Dataset

    policy = load_policy(base, precision="fp32")
    trainer = trainer_class(
        model=policy.model,
        reward_funcs=[
            lambda completions, **_: vowels(completions),
            lambda completions, **_: lengths(completions),
        ],
        args=config_class(
            output_dir=str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            save_strategy="no", disable_tqdm=True, shuffle_dataset=False, logging_steps=1,
            per_device_train_batch_size=len(PROMPTS) * GROUP, num_generations=GROUP, num_iterations=EPOCHS,
            max_steps=STEPS * EPOCHS, max_completion_length=LENGTH, temperature=HEAT, epsilon=0.1, beta=BETA,
            reward_weights=[1.0, 0.1], learning_rate=RATE, lr_scheduler_type="constant", warmup_steps=0,
            max_grad_norm=1.0, weight_decay=0.0, optim="adamw_torch", **options,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS] * STEPS),
        processing_class=policy.tokenizer,
        peft_config=lora_config(policy.model, **SHAPE),
    )  # fmt: skip
    # Our A matrices; B is zero in both.
    fresh = load_policy(base, precision="fp32").model
    start = add_adapter(fresh, lora_config(fresh, **SHAPE), "default", seed=0).state_dict()
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(start[name])
    known = {tuple(ids): row for row, ids in enumerate(encode_prompts(policy.tokenizer, PROMPTS))}
    calls = []

    def sampled(prompt_ids, *_, **__):
        rows = [known[tuple(ids)] for ids in prompt_ids[::GROUP]]
        assert [known[tuple(ids)] for ids in prompt_ids] == [row for row in rows for _ in range(GROUP)]
        seeds = seeds_of(len(calls))
        calls.append(rows)
        with merged(trainer.model, "default"):
            rollout = sample(
                trainer.model.get_base_model(),
                *pad_left(prompt_ids[::GROUP], policy.tokenizer.pad_token_id),
                max_new_tokens=LENGTH,
                eos_token_id=policy.tokenizer.eos_token_id,
                pad_token_id=policy.tokenizer.pad_token_id,
                seeds=[seed for row in rows for seed in seeds[row]],
                temperature=HEAT,
                repeats=GROUP,
            )
        written = zip(rollout.response_ids, rollout.response_mask, strict=True)
        found = [ids[keep].tolist() for ids, keep in written]
        return (found, None) if trainer_class.__name__ == "GRPOTrainer" else found

    trainer._generate_single_turn = sampled
    losses, compute = [], trainer._compute_loss

    def recorded(*arguments):
        found = compute(*arguments)
        losses.append(float(found.detach()))
        return found

    trainer._compute_loss = recorded
    trainer.train()
    assert len(calls) == STEPS
    log = [line for line in trainer.state.log_history if "grad_norm" in line]
    return losses, log, {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}


def assert_same_training(mine, other) -> None:
    lines, weights = mine
    losses, log, expected = other
    assert len(losses) == STEPS * EPOCHS
    for step, line in enumerate(lines):
        updates = slice(step * EPOCHS, (step + 1) * EPOCHS)
        norms = [entry["grad_norm"] for entry in log[updates]]
        assert line["loss/policy"] == pytest.approx(sum(losses[updates]) / EPOCHS, rel=2e-3, abs=2e-5)
        assert line["grad_norm"] == pytest.approx(sum(norms) / EPOCHS, rel=2e-3)
        assert line["entropy/nats_per_token"] == pytest.approx(log[updates][0]["entropy"], rel=1e-3)
        assert line["length/tokens"] == pytest.approx(log[updates][0]["completions/mean_length"])
    assert max(line["clip/fraction"] for line in lines) > 0  # the second pass reaches the limit
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        # Adam divides by the root of the squared gradient: a gradient near zero moves a weight by its sign.
        torch.testing.assert_close(weight, expected[name], atol=2e-3, rtol=1e-3)


def test_rloo(trl, base, tmp_path):
    other = theirs(trl.RLOOTrainer, trl.RLOOConfig, base, tmp_path)
    assert_same_training(ours(base, **METHODS["rloo"]), other)


@pytest.mark.parametrize(
    ("loss_type", "scale", "corrected", "method"),
    [
        ("grpo", "group", False, METHODS["grpo"]),
        ("dapo", "group", True, dict(METHODS["dapo"]) | {"kl_in": "weighted_loss"}),
        ("dr_grpo", "none", False, METHODS["dr_grpo"]),
    ],
)
def test_grpo(trl, base, tmp_path, loss_type, scale, corrected, method):
    options = {
        "loss_type": loss_type,
        "scale_rewards": scale,
        "use_bias_correction_kl": corrected,
        "epsilon_high": 0.15,
    }
    other = theirs(trl.GRPOTrainer, trl.GRPOConfig, base, tmp_path, **options)
    assert_same_training(ours(base, clip_high=0.15, **method), other)
