"""The same work as TRL's trainers: from the same weights on the same data, the losses follow the same path.

TRL's side of the comparison, which the speed benchmarks use as well:

- every trainer: ``use_cpu=True, bf16=False, gradient_checkpointing=False`` (the last two are on by default),
  ``learning_rate``, ``lr_scheduler_type="constant"``, ``warmup_steps=0``, ``max_grad_norm=1.0``,
  ``optim="adamw_torch"`` with its default betas (0.9, 0.999), ε = 1e-8 and ``weight_decay=0.0``; no dropout;
  the whole data set is one batch, so that the order of TRL's shuffling does not matter;
- SFT: ``input_ids`` and ``labels`` (-100 on the prompt) are given, so that nothing is tokenised, cut or
  ended; the loss is the sum over completion tokens divided by their number in the whole batch, as ours;
- reward: ``chosen_ids`` and ``rejected_ids`` are given (to text TRL would append an end token, which our
  reward model does not read); TRL's new score head is random, ours is zero: it is copied from ours;
- DPO: texts; TRL tokenises prompt + answer as one and appends the end token, so that tokens must not merge
  across the boundary, and ``max_length`` must not bite. The reference is the model with its adapter off. By
  default TRL asks it in every step; ``precompute_ref_log_probs=True`` asks it once, as we do.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import save_base

from rlhf_lite.models.adapters import add_adapter, lora_config, using_adapter
from rlhf_lite.models.policy import PolicyScorer, load_policy
from rlhf_lite.models.reward_model import new_reward_model
from rlhf_lite.training.dpo import DPOSettings, train_dpo
from rlhf_lite.training.pairs import encode_preferences, encode_texts
from rlhf_lite.training.reward import RewardSettings, pair_texts, train_reward
from rlhf_lite.training.settings import Hooks, OptimiserSettings, RunSettings, split
from rlhf_lite.training.sft import encode_examples, train_sft
from rlhf_lite.types import Preference

STEPS, RATE = 5, 5e-3
TEXTS = [
    ("The film ", "was dull."),
    ("A", " plot that nobody asked for"),
    ("It is ", "good!"),
    ("One hour in, ", "I slept."),
    ("Her role", " saves it."),
    ("An end ", "like no other, and rightly so"),
]
PAIRS = [
    Preference(prompt, answer, answer[::-1][: 3 + 4 * (i % 3)] + "?")
    for i, (prompt, answer) in enumerate(TEXTS)
]
OURS = {
    "learning_rate": RATE,
    "warmup_steps": 0,
    "schedule": "constant",
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "accumulation": 1,
    "batch_size": len(TEXTS),
    "seed": 0,
}
SHAPE = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "top_layers": 2}


@pytest.fixture(scope="module")
def trl():
    return pytest.importorskip("trl", reason="TRL is not installed (extra 'dev')")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(save_base(tmp_path_factory.mktemp("base")))


def theirs(folder: Path) -> dict:
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "per_device_train_batch_size": len(TEXTS),
        "max_steps": STEPS,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "optim": "adamw_torch",
        "logging_steps": 1,
    }


def run_theirs(trainer) -> tuple[list[float], list[float]]:
    """Loss (unrounded) and gradient norm of each step."""
    losses, compute = [], trainer.compute_loss

    def recorded(*args, **options):
        found = compute(*args, **options)
        losses.append(float((found[0] if isinstance(found, tuple) else found).detach()))
        return found

    trainer.compute_loss = recorded
    trainer.train()
    return losses, [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]


def run_ours(train, *args, loss: tuple[str, ...], **options) -> tuple[list[float], list[float]]:
    lines = []
    hooks = Hooks(lambda step, metrics: lines.append(dict(metrics)))
    given = OURS | {"steps": STEPS, "accelerator": Accelerator(cpu=True), "hooks": hooks}
    optimiser, run = split(given, OptimiserSettings, RunSettings)
    train(*args, optimiser=optimiser, run=run, **options)
    return [sum(line[name] for name in loss) for line in lines], [line["grad_norm"] for line in lines]


def copy_trainable(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Give ``target`` the trainable weights of ``source``; both must have the same ones."""
    weights = {name: p for name, p in source.named_parameters() if p.requires_grad}
    names = {name for name, p in target.named_parameters() if p.requires_grad}
    assert names == set(weights)
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])


def assert_same(ours: tuple[list[float], list[float]], theirs: tuple[list[float], list[float]]) -> None:
    assert len(ours[0]) == STEPS and ours[0][-1] < 0.99 * ours[0][0]
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-3)


def our_policy(base: str) -> tuple[PolicyScorer, object, object]:
    policy = load_policy(base, precision="fp32")
    shape = lora_config(policy.model, **SHAPE)
    model = add_adapter(policy.model, shape, "default", seed=0)
    return PolicyScorer(model, top_layers=SHAPE["top_layers"]), policy.tokenizer, shape


def their_model(base: str) -> object:
    return load_policy(base, precision="fp32").model


def test_sft(trl, base, tmp_path):
    from datasets import Dataset

    scorer, tokenizer, shape = our_policy(base)
    examples = encode_examples(tokenizer, TEXTS, max_tokens=64)
    rows = [
        {"input_ids": e.prompt + e.completion, "labels": [-100] * len(e.prompt) + e.completion}
        for e in examples
    ]
    trainer = trl.SFTTrainer(
        model=their_model(base),
        args=trl.SFTConfig(**theirs(tmp_path), max_length=64),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=shape,
    )
    copy_trainable(scorer.model, trainer.model)
    expected = run_theirs(trainer)
    got = run_ours(
        train_sft,
        scorer,
        examples,
        loss=("loss/nats_per_token",),
        pad_token_id=tokenizer.pad_token_id,
    )
    assert_same(got, expected)


def test_reward(trl, base, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification

    model = new_reward_model(
        base, precision="fp32", target_modules="all-linear", max_tokens=64, seed=0, **SHAPE
    )
    other = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    other.config.pad_token_id = model.tokenizer.pad_token_id
    shape = lora_config(other, task="SEQ_CLS", **SHAPE)
    texts = model.tokenizer(pair_texts(PAIRS), add_special_tokens=False)["input_ids"]
    rows = [
        {"chosen_ids": chosen, "rejected_ids": rejected}
        for chosen, rejected in zip(texts[: len(PAIRS)], texts[len(PAIRS) :], strict=True)
    ]
    trainer = trl.RewardTrainer(
        model=other,
        args=trl.RewardConfig(**theirs(tmp_path), max_length=64, center_rewards_coefficient=0.05),
        train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer,
        peft_config=shape,
    )
    copy_trainable(model.model, trainer.model)
    expected = run_theirs(trainer)
    # TRL's loss includes the centring penalty, ours is logged beside it: compare what both minimise.
    names = ("loss/nats_per_pair", "loss/centring")
    encoded = encode_texts(model.tokenizer, PAIRS, max_tokens=64).pairs
    got = run_ours(train_reward, model, encoded, RewardSettings(centre=0.05), loss=names)
    assert_same(got, expected)


@pytest.mark.parametrize("precompute", [False, True])
def test_dpo(trl, base, tmp_path, precompute):
    from datasets import Dataset

    scorer, tokenizer, shape = our_policy(base)
    encoded = encode_preferences(tokenizer, PAIRS, max_tokens=64)
    assert not encoded.refused
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in PAIRS]
    trainer = trl.DPOTrainer(
        model=their_model(base),
        args=trl.DPOConfig(**theirs(tmp_path), max_length=64, beta=0.3, precompute_ref_log_probs=precompute),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=shape,
    )
    copy_trainable(scorer.model, trainer.model)
    expected = run_theirs(trainer)
    got = run_ours(
        train_dpo,
        scorer,
        encoded.pairs,
        DPOSettings(beta=0.3),
        loss=("loss/per_pair",),
        reference=lambda: using_adapter(scorer.model, None),
        pad_token_id=tokenizer.pad_token_id,
    )
    assert_same(got, expected)
