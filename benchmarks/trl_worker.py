"""The peer's side: a TRL trainer, unmodified, that takes one optimiser step per turn.

Started by ``training.py``. The only change to TRL's behaviour is that rows come in the given order, so that
both sides see the same batches.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

from benchmarks.common import Gate, e_share

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Turns(TrainerCallback):
    """One optimiser step per turn.

    Most trainers end a step and then log it; PPO logs first. The clock stops at whichever comes first, and
    the step is reported when both have come.
    """

    def __init__(self, gate: Gate, loss_name: str) -> None:
        self._gate, self._loss_name = gate, loss_name
        self._ended = False
        self._loss: float | None = None

    def on_train_begin(self, args, state, control, **kwargs: Any) -> None:
        """Wait for the first turn."""
        self._gate.ready()

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        """The step is done."""
        self._gate.stop_clock()
        self._ended = True
        self._report()

    def on_log(self, args, state, control, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """The step's loss is known."""
        if logs and self._loss_name in logs:
            self._gate.stop_clock()
            self._loss = float(logs[self._loss_name])
            self._report()

    def _report(self) -> None:
        if self._ended and self._loss is not None:
            loss, self._ended, self._loss = self._loss, False, None
            self._gate.report(loss=loss)


class InOrder:
    """Mixed into a trainer: rows in the order of the data set."""

    def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if dataset is None else dataset)


def shared_arguments(spec: dict[str, Any], folder: str) -> dict[str, Any]:
    """The arguments that make TRL's optimiser equal to ours: AdamW, constant rate, norm 1."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": spec["batch_size"],
        "gradient_accumulation_steps": 1,
        "max_steps": spec["steps"],
        "learning_rate": spec["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        # The weights have the wanted type already; autocast on top of it would only cost TRL time.
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": spec["seed"],
    }


def adapter(spec: dict[str, Any], task: str) -> LoraConfig:
    """The same LoRA as ours."""
    depth = spec["layers"]
    return LoraConfig(
        task_type=task,
        r=spec["rank"],
        lora_alpha=2 * spec["rank"],
        lora_dropout=0.0,
        target_modules=spec["target_modules"],
        layers_to_transform=list(range(depth - spec["top_layers"], depth)),
        layers_pattern="layers",
    )


def causal(spec: dict[str, Any]) -> Any:
    """The policy, in the wanted type."""
    return AutoModelForCausalLM.from_pretrained(spec["model"], dtype=DTYPES[spec["precision"]])


def score_of_completions(completions: list[str], **kwargs: Any) -> list[float]:
    """The reward of RLOO and GRPO, as TRL calls it."""
    return [e_share(text) for text in completions]


def make_trainer(spec: dict[str, Any], turns: TrainerCallback, folder: str) -> Any:
    """TRL's trainer of the task, ready to train."""
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows, shared = Dataset.from_list(spec["their_rows"]), shared_arguments(spec, folder)
    common = {"processing_class": tokenizer, "train_dataset": rows, "callbacks": [turns]}
    task = spec["task"]
    if task == "sft":
        from trl import SFTConfig, SFTTrainer

        kind = type("OrderedSFT", (InOrder, SFTTrainer), {})
        arguments = SFTConfig(max_length=spec["max_tokens"], **shared)
        return kind(model=causal(spec), args=arguments, peft_config=adapter(spec, "CAUSAL_LM"), **common)
    if task == "reward":
        from trl import RewardConfig, RewardTrainer

        kind = type("OrderedReward", (InOrder, RewardTrainer), {})
        arguments = RewardConfig(
            max_length=spec["max_tokens"], center_rewards_coefficient=spec["centre"], **shared
        )
        model = AutoModelForSequenceClassification.from_pretrained(
            spec["model"], num_labels=1, dtype=DTYPES[spec["precision"]]
        )
        torch.nn.init.zeros_(model.score.weight)
        model.config.pad_token_id = tokenizer.pad_token_id
        return kind(model=model, args=arguments, peft_config=adapter(spec, "SEQ_CLS"), **common)
    if task in ("dpo", "dpo_cached"):
        from trl import DPOConfig, DPOTrainer

        kind = type("OrderedDPO", (InOrder, DPOTrainer), {})
        arguments = DPOConfig(
            beta=spec["beta"],
            max_length=spec["max_tokens"],
            precompute_ref_log_probs=task == "dpo_cached",
            **shared,
        )
        return kind(model=causal(spec), args=arguments, peft_config=adapter(spec, "CAUSAL_LM"), **common)
    if task in ("rloo", "grpo"):
        return group_trainer(task, spec, shared, common)
    raise ValueError(f"unknown task {task!r}")


def group_trainer(task: str, spec: dict[str, Any], shared: dict[str, Any], common: dict[str, Any]) -> Any:
    """RLOO or GRPO; every completion has the same number of tokens, so that the work is the same."""
    import trl

    config, base = {
        "rloo": (trl.RLOOConfig, trl.RLOOTrainer),
        "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
    }[task]
    kind = type(f"Ordered{task.upper()}", (base,), {})
    # TRL samples with unmerged adapters and draws with softmax and multinomial.
    arguments = config(
        num_generations=spec["group_size"],
        max_completion_length=spec["new_tokens"],
        temperature=1.0,
        beta=spec["kl_coef"],
        shuffle_dataset=False,
        generation_kwargs={"min_new_tokens": spec["new_tokens"]},
        **({"loss_type": "grpo"} if task == "grpo" else {}),
        **shared,
    )
    return kind(
        model=causal(spec),
        args=arguments,
        reward_funcs=score_of_completions,
        peft_config=adapter(spec, "CAUSAL_LM"),
        **common,
    )


def main() -> None:
    """Read the specification and train until the parent says stop."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(spec["threads"])
    turns = Turns(Gate(), "loss/policy_avg" if spec["task"] == "ppo" else "loss")
    with tempfile.TemporaryDirectory() as folder:
        if spec["task"] == "ppo":
            from benchmarks.trl_ppo import ppo_trainer

            trainer = ppo_trainer(spec, turns, folder, adapter(spec, "CAUSAL_LM"))
        else:
            trainer = make_trainer(spec, turns, folder)
        torch.set_num_threads(spec["threads"])  # accelerate may have lowered it
        trainer.train()


if __name__ == "__main__":
    main()
