"""The three training phases of a run. Each builds on the verified result of the one before."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from peft import PeftModel
from safetensors.torch import save_file

from rlhf_lite.data.formatting import encode_prompts
from rlhf_lite.models.adapters import (
    add_adapter,
    load_adapter,
    lora_config,
    merged,
    save_adapter,
    using_adapter,
)
from rlhf_lite.models.heads import ValueHead, load_value_head
from rlhf_lite.models.policy import Policy, PolicyScorer, load_policy
from rlhf_lite.models.reward_model import RewardModel, load_reward_model, new_reward_model
from rlhf_lite.pipeline.context import Run
from rlhf_lite.rollout.rewards import Mixture, Part, Reward, Scale, model_reward
from rlhf_lite.training.ppo import train_ppo
from rlhf_lite.training.reward import reward_steps, train_reward
from rlhf_lite.training.setup import PolicyGradientSetup
from rlhf_lite.training.sft import encode_examples, train_sft

# Names of the adapters on the one policy network.
POLICY, REFERENCE, DPO = "policy", "reference", "dpo"


def run_sft(run: Run) -> None:
    """Fine-tune the model on openings and their human continuations; writes ``sft/adapter``."""
    config = run.config
    policy = load_policy(config.model.name, precision=run.precision)
    adapter = lora_config(policy.model, **config.lora.model_dump())
    model = add_adapter(policy.model, adapter, POLICY, seed=config.seed)
    scorer = PolicyScorer(model, top_layers=config.lora.top_layers)
    encode = partial(encode_examples, policy.tokenizer, max_tokens=config.data.max_tokens)
    settings = config.sft.model_dump()

    def live(metrics: Mapping[str, float]) -> str:
        return f"loss {metrics['loss/nats_per_token']:.3f} nats/token"

    with run.steps("sft", config.sft.steps, live) as (hooks, resume):
        train_sft(
            scorer,
            encode(run.texts.sft_train),
            validation=encode(run.texts.sft_validation),
            pad_token_id=policy.tokenizer.pad_token_id,
            validate_every=max(1, config.sft.steps // 2),
            seed=config.seed,
            accelerator=run.accelerator,
            hooks=hooks,
            resume=resume,
            **settings,
        )
    with run.result("sft", steps=config.sft.steps) as folder:
        save_adapter(model, folder / "adapter", POLICY, base=policy.name)
        policy.tokenizer.save_pretrained(str(folder / "adapter"))
    shutil.rmtree(run.checkpoints("sft"), ignore_errors=True)


def run_reward(run: Run) -> None:
    """Train the reward model on human pairs; writes ``reward/adapter``."""
    config = run.config
    model = new_reward_model(
        config.model.name,
        precision=run.precision,
        max_tokens=config.data.max_tokens,
        seed=config.seed,
        **config.lora.model_dump(),
    )
    settings = config.reward.model_dump()
    for name in ("pairs", "min_gap", "prompt_words", "eval_pairs", "eval_min_gap"):
        settings.pop(name)
    pairs = run.texts.train_pairs
    total = reward_steps(len(pairs), batch_size=config.reward.batch_size, epochs=config.reward.epochs)

    def live(metrics: Mapping[str, float]) -> str:
        loss, accuracy = metrics["loss/nats_per_pair"], metrics["accuracy/fraction"]
        return f"loss {loss:.3f} nats/pair, accuracy {accuracy:.2f}"

    with run.steps("reward", total, live) as (hooks, resume):
        train_reward(
            model,
            pairs,
            seed=config.seed,
            accelerator=run.accelerator,
            hooks=hooks,
            resume=resume,
            **settings,
        )
    model.eval()
    scores = model.score_texts(run.texts.scale_texts)
    model.mean, model.std = float(scores.mean()), float(scores.std())
    with run.result("reward", steps=total) as folder:
        model.save(folder / "adapter")
    shutil.rmtree(run.checkpoints("reward"), ignore_errors=True)


@dataclass(frozen=True)
class AdapterPolicies:
    """The policy network with its adapters, and contexts in which it is one policy or another.

    Attributes:
        model: the network; adapters "reference" (if there was SFT) and "policy".
        reference: name of the reference's adapter; None is the bare model.
    """

    model: PeftModel
    reference: str | None

    def scoring(self, adapter: str | None) -> Callable[[], AbstractContextManager[None]]:
        """A context in which the network computes with ``adapter``; None is the bare model."""
        return lambda: using_adapter(self.model, adapter)

    def sampling(self, adapter: str | None) -> Callable[[], AbstractContextManager[object]]:
        """A context that yields the causal model with ``adapter`` folded into its weights."""

        @contextmanager
        def sampling() -> Iterator[object]:
            with using_adapter(self.model, None) if adapter is None else merged(self.model, adapter):
                yield self.model.get_base_model()

        return sampling


def build_adapter_policies(run: Run, policy: Policy, *, trained: bool) -> AdapterPolicies:
    """Attach the reference and the policy adapter to a freshly loaded model.

    Args:
        run: the run.
        policy: the model they are attached to.
        trained: take the policy's adapter from ``ppo/``; otherwise it starts as a copy of the reference. What
            DPO made, if it did, is attached in either case, as the adapter "dpo".
    """
    config, has_sft = run.config, run.finished("sft")
    model, reference = policy.model, None
    if has_sft:
        run.verify("sft")
        reference = REFERENCE
        model = load_adapter(model, run.output / "sft" / "adapter", REFERENCE)
    if trained:
        run.verify("ppo")
        model = load_adapter(model, run.output / "ppo" / "adapter", POLICY)
    elif has_sft:
        model = load_adapter(model, run.output / "sft" / "adapter", POLICY, trainable=True)
    else:
        shape = lora_config(model, **config.lora.model_dump())
        model = add_adapter(model, shape, POLICY, seed=config.seed)
    if run.finished("dpo"):
        run.verify("dpo")
        model = load_adapter(model, run.output / "dpo" / "adapter", DPO)
    model.set_adapter(POLICY)
    model.eval()
    return AdapterPolicies(model, reference)


def shared_reward(run: Run, reward: RewardModel, policy: Policy) -> Reward:
    """Raw scores of the reward model, from the policy's trunk states where both models share the trunk."""
    same = reward.name == policy.name and reward.top_layers == run.config.lora.top_layers
    return model_reward(reward, shared_trunk=same)


def load_run_reward(run: Run) -> RewardModel:
    """The run's reward model, verified."""
    run.verify("reward")
    return load_reward_model(run.output / "reward" / "adapter", precision=run.precision)


@dataclass(frozen=True)
class PPOSetup:
    """Everything that PPO works with.

    Attributes:
        policy: the model and its tokenizer.
        adapters: the policies that its adapters make.
        reward: the reward model.
        training: what the trainer takes: the scorer with its critic, the reference, the reward.
    """

    policy: Policy
    adapters: AdapterPolicies
    reward: RewardModel
    training: PolicyGradientSetup


def build_ppo_setup(run: Run, *, trained: bool, reward: RewardModel | None = None) -> PPOSetup:
    """Load everything that PPO works with. Notebooks begin with it.

    Args:
        run: with a finished ``reward`` phase.
        trained: take policy and critic from ``ppo/``; otherwise the policy starts as a copy of the reference
            and the critic at zero.
        reward: the run's reward model, if it is in memory already.
    """
    config = run.config
    reward = load_run_reward(run) if reward is None else reward
    policy = load_policy(config.model.name, precision=run.precision)
    adapters = build_adapter_policies(run, policy, trained=trained)
    size = policy.model.config.hidden_size
    critic = load_value_head(run.output / "ppo", hidden_size=size) if trained else ValueHead(size)
    scale = Scale(mean=reward.mean, std=reward.std)
    training = PolicyGradientSetup(
        scorer=PolicyScorer(adapters.model, top_layers=config.lora.top_layers, value_head=critic),
        reference=adapters.scoring(adapters.reference),
        sampling=adapters.sampling(POLICY),
        reward=Mixture({"rm": Part(shared_reward(run, reward, policy), scale=scale)}),
        eos_token_id=policy.tokenizer.eos_token_id,
        pad_token_id=policy.tokenizer.pad_token_id,
        decode=policy.tokenizer.batch_decode,
    )
    return PPOSetup(policy, adapters, reward, training)


def run_ppo(run: Run) -> None:
    """Train the policy against the reward model; writes ``ppo/adapter``, the critic, and a merged model."""
    config, setup = run.config, build_ppo_setup(run, trained=False)

    def live(metrics: Mapping[str, float]) -> str:
        return f"reward {metrics['reward/rm_raw']:+.2f}, KL {metrics['kl/nats_per_seq']:.1f} nats/sequence"

    with run.steps("ppo", config.ppo.steps, live) as (hooks, resume):
        train_ppo(
            setup.training,
            encode_prompts(setup.policy.tokenizer, run.texts.ppo_prompts),
            seed=config.seed,
            accelerator=run.accelerator,
            hooks=hooks,
            resume=resume,
            **config.ppo.model_dump(),
        )
    save_run_ppo(run, setup)
    shutil.rmtree(run.checkpoints("ppo"), ignore_errors=True)


def save_run_ppo(run: Run, setup: PPOSetup) -> None:
    """Write the trained policy and its critic as the result of the phase ``ppo``."""
    config, policy, adapters = run.config, setup.policy, setup.adapters
    with run.result(
        "ppo", steps=config.ppo.steps, reference="sft" if adapters.reference else "base"
    ) as folder:
        save_adapter(adapters.model, folder / "adapter", POLICY, base=policy.name)
        policy.tokenizer.save_pretrained(str(folder / "adapter"))
        setup.training.scorer.value_head.save(folder)
        if config.checkpoint.save_merged:
            with adapters.sampling(POLICY)() as model:
                save_merged(model, policy, folder / "merged")


def save_merged(model, policy: Policy, folder) -> None:
    """Write the sampling model as a plain Hugging Face folder, without any trace of adapters.

    PEFT renames a layer's weight to ``base_layer.weight``; the plain names are restored.
    """
    weights = {
        name.replace(".base_layer.", "."): tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    if getattr(model.config, "tie_word_embeddings", False):
        weights.pop("lm_head.weight", None)
    folder.mkdir(parents=True)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    model.config.save_pretrained(str(folder))
    model.generation_config.save_pretrained(str(folder))
    policy.tokenizer.save_pretrained(str(folder))
