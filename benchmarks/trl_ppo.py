"""TRL's PPO, as its last release that had one (1.12.0) runs it.

TRL removed PPO in 1.13, so that this peer is installed apart: see README.md in this folder.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

from benchmarks.common import random_score

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def classifier(spec: dict[str, Any], *, trainable_score: bool) -> Any:
    """A sequence classifier whose body stays frozen: a critic that starts at zero, or a reward model."""
    model = AutoModelForSequenceClassification.from_pretrained(
        spec["model"], num_labels=1, dtype=DTYPES[spec["precision"]]
    )
    if trainable_score:
        torch.nn.init.zeros_(model.score.weight)
    else:
        random_score(model, spec["seed"])
    model.requires_grad_(False)
    model.score.requires_grad_(trainable_score)
    return model


def ppo_trainer(spec: dict[str, Any], turns: TrainerCallback, folder: str, adapter: LoraConfig) -> Any:
    """TRL's PPO trainer with LoRA on the policy, the adapter switched off as the reference.

    Its critic must be a model of its own. Here only the critic's score layer is trained, as in ours, so that
    TRL pays for a critic's forward pass but not for a backward pass through its body.
    """
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(spec["model"], padding_side="left")
    # TRL finds the end of a response by the pad token, which therefore must not be the end token.
    tokenizer.pad_token = "<|im_start|>"
    policy = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=DTYPES[spec["precision"]])
    rows = Dataset.from_list([{"input_ids": tokenizer(row["prompt"])["input_ids"]} for row in spec["rows"]])
    arguments = PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=spec["batch_size"] // spec["minibatches"],
        gradient_accumulation_steps=spec["minibatches"],
        num_mini_batches=spec["minibatches"],
        num_ppo_epochs=spec["epochs"],
        total_episodes=spec["batch_size"] * spec["steps"],
        local_rollout_forward_batch_size=spec["batch_size"],
        response_length=spec["new_tokens"],
        temperature=1.0,
        kl_coef=spec["kl_coef"],
        cliprange=0.2,
        cliprange_value=0.2,
        vf_coef=0.1,
        gamma=1.0,
        lam=0.95,
        learning_rate=spec["learning_rate"],
        lr_scheduler_type="constant",
        optim="adamw_torch",
        logging_steps=1,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        seed=spec["seed"],
    )
    return PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=classifier(spec, trainable_score=False),
        value_model=classifier(spec, trainable_score=True),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[turns],
        peft_config=adapter,
    )
