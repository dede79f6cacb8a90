"""Our side: a trainer of the package that takes one optimiser step per turn. Started by ``training.py``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import Gate, e_share, random_score
from rlhf_lite.data.formatting import encode_prompts
from rlhf_lite.models.adapters import add_adapter, lora_config, merged, using_adapter
from rlhf_lite.models.policy import Policy, PolicyScorer, ValueHead, load_policy
from rlhf_lite.models.reward_model import new_reward_model
from rlhf_lite.pipeline.context import make_accelerator
from rlhf_lite.rollout.rewards import Reward, model_reward, text_reward
from rlhf_lite.training.batches import epoch_steps
from rlhf_lite.training.dpo import DPOSettings, train_dpo
from rlhf_lite.training.grpo import METHODS, GRPOSettings, train_grpo
from rlhf_lite.training.pairs import encode_preferences, encode_texts
from rlhf_lite.training.ppo import PPOSettings, train_ppo
from rlhf_lite.training.reward import RewardSettings, train_reward
from rlhf_lite.training.rollouts import PolicyGradientSetup
from rlhf_lite.training.settings import Hooks, OptimiserSettings, RunSettings, pick
from rlhf_lite.training.sft import encode_examples, train_sft
from rlhf_lite.types import Preference

POLICY = "policy"
Spec = Mapping[str, Any]


def reporting(gate: Gate, *names: str) -> Hooks:
    """Wait for the first turn; then report every step, with the sum of the named metrics, and wait again."""
    gate.ready()

    def on_step(step: int, metrics: Mapping[str, float]) -> None:
        gate.report(loss=sum(metrics[name] for name in names))

    return Hooks(on_step)


def shape(spec: Spec) -> dict[str, Any]:
    """The LoRA settings."""
    return {
        "rank": spec["rank"],
        "alpha": 2.0 * spec["rank"],
        "dropout": 0.0,
        "top_layers": spec["top_layers"],
        "target_modules": spec["target_modules"],
    }


def offline(spec: Spec, hooks: Hooks, **changes: Any) -> dict[str, Any]:
    """What the trainers on fixed data share."""
    return {
        "optimiser": OptimiserSettings(learning_rate=spec["learning_rate"], schedule="constant"),
        "run": run_settings(spec, hooks, **changes),
    }


def run_settings(spec: Spec, hooks: Hooks, **changes: Any) -> RunSettings:
    """How long, and on how many rows at a time."""
    accelerator = make_accelerator(spec["threads"])
    return pick(RunSettings, spec, accelerator=accelerator, hooks=hooks, **changes)


def with_adapter(spec: Spec, *, critic: bool = False) -> tuple[Policy, PolicyScorer]:
    """The policy with a new adapter, and its scorer."""
    policy = load_policy(spec["model"], precision=spec["precision"])
    model = add_adapter(policy.model, lora_config(policy.model, **shape(spec)), POLICY, seed=spec["seed"])
    head = ValueHead(policy.model.config.hidden_size) if critic else None
    return policy, PolicyScorer(model, top_layers=spec["top_layers"], value_head=head)


def preferences(spec: Spec) -> list[Preference]:
    """The rows as preferences."""
    return [Preference(row["prompt"], row["chosen"], row["rejected"]) for row in spec["rows"]]


def sft(spec: Spec, gate: Gate) -> None:
    """Supervised fine-tuning."""
    policy, scorer = with_adapter(spec)
    texts = [(row["prompt"], row["completion"]) for row in spec["rows"]]
    train_sft(
        scorer,
        encode_examples(policy.tokenizer, texts, max_tokens=spec["max_tokens"]),
        pad_token_id=policy.tokenizer.pad_token_id,
        **offline(spec, reporting(gate, "loss/nats_per_token")),
    )


def reward(spec: Spec, gate: Gate) -> None:
    """Reward model."""
    model = new_reward_model(
        spec["model"],
        precision=spec["precision"],
        max_tokens=spec["max_tokens"],
        seed=spec["seed"],
        **shape(spec),
    )
    hooks = reporting(gate, "loss/nats_per_pair", "loss/centring")
    pairs = encode_texts(model.tokenizer, preferences(spec), max_tokens=spec["max_tokens"]).pairs
    steps = epoch_steps(len(pairs), batch_size=spec["batch_size"], epochs=1)
    train_reward(model, pairs, RewardSettings(centre=spec["centre"]), **offline(spec, hooks, steps=steps))


def dpo(spec: Spec, gate: Gate) -> None:
    """DPO; the reference is asked once, before the first step."""
    policy, scorer = with_adapter(spec)
    encoded = encode_preferences(policy.tokenizer, preferences(spec), max_tokens=spec["max_tokens"])
    if encoded.refused:
        raise ValueError(f"{len(encoded.refused)} pairs do not fit: the two sides would see other rows")
    train_dpo(
        scorer,
        encoded.pairs,
        DPOSettings(beta=spec["beta"]),
        reference=lambda: using_adapter(scorer.model, None),
        pad_token_id=policy.tokenizer.pad_token_id,
        **offline(spec, reporting(gate, "loss/per_pair")),
    )


def online_setup(policy: Policy, scorer: PolicyScorer, score: Reward) -> PolicyGradientSetup:
    """What the policy-gradient trainers are handed; no end token, so that every completion is full."""

    @contextmanager
    def sampling() -> Iterator[object]:
        with merged(scorer.model, POLICY):
            yield scorer.model.get_base_model()

    def reference() -> AbstractContextManager[None]:
        return using_adapter(scorer.model, None)

    return PolicyGradientSetup(
        scorer=scorer,
        reference=reference,
        sampling=sampling,
        reward=score,
        eos_token_id=None,
        pad_token_id=policy.tokenizer.pad_token_id,
        decode=lambda rows: policy.tokenizer.batch_decode(rows, skip_special_tokens=True),
    )


def groups(spec: Spec, gate: Gate) -> None:
    """RLOO or GRPO."""
    policy, scorer = with_adapter(spec)
    train_grpo(
        online_setup(policy, scorer, text_reward(lambda _, completions: list(map(e_share, completions)))),
        encode_prompts(policy.tokenizer, [row["prompt"] for row in spec["rows"]]),
        GRPOSettings(
            max_new_tokens=spec["new_tokens"],
            kl_coef=spec["kl_coef"],
            group_size=spec["group_size"],
            **METHODS[spec["task"]],
        ),
        optimiser=OptimiserSettings(learning_rate=spec["learning_rate"]),
        run=run_settings(
            spec, reporting(gate, "loss/policy"), batch_size=spec["batch_size"] // spec["group_size"]
        ),
    )


def ppo(spec: Spec, gate: Gate) -> None:
    """PPO against a reward model with a random score, which costs what a trained one costs."""
    policy, scorer = with_adapter(spec, critic=True)
    judge = new_reward_model(
        spec["model"], precision=spec["precision"], max_tokens=64, seed=spec["seed"], **shape(spec)
    )
    judge.eval().requires_grad_(False)
    random_score(judge.model, spec["seed"])
    train_ppo(
        online_setup(policy, scorer, model_reward(judge, shared_trunk=True)),
        encode_prompts(policy.tokenizer, [row["prompt"] for row in spec["rows"]]),
        PPOSettings(
            max_new_tokens=spec["new_tokens"],
            kl_coef=spec["kl_coef"],
            epochs=spec["epochs"],
            minibatches=spec["minibatches"],
        ),
        optimiser=OptimiserSettings(learning_rate=spec["learning_rate"]),
        run=run_settings(spec, reporting(gate, "loss/policy")),
    )


TASKS: dict[str, Callable[[Spec, Gate], None]] = {
    "sft": sft,
    "reward": reward,
    "dpo": dpo,
    "dpo_cached": dpo,
    "rloo": groups,
    "grpo": groups,
    "ppo": ppo,
}


def main() -> None:
    """Read the specification and train until the parent says stop."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    TASKS[spec["task"]](spec, Gate())


if __name__ == "__main__":
    main()
