"""The three training phases of a run. Each builds on the verified result of the one before."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_lite.config.settings import LoraConfig
from rlhf_lite.data.formatting import fit_prompts
from rlhf_lite.data.row_counts import RowCounts
from rlhf_lite.models.adapters import (
    add_adapter,
    load_adapter,
    lora_config,
    merged,
    save_adapter,
    using_adapter,
)
from rlhf_lite.models.names import loading, resolve_model
from rlhf_lite.models.policy import (
    Policy,
    PolicyScorer,
    ValueHead,
    end_tokens,
    load_tokenizer,
    load_value_head,
)
from rlhf_lite.models.reward_model import RewardModel, load_reward_model, new_reward_model
from rlhf_lite.models.runtime import quiet_loading
from rlhf_lite.models.trunk import norm_name
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.texts import thin
from rlhf_lite.rollout.rewards import Mixture, Part, Reward, Scale, model_reward, text_decoder
from rlhf_lite.training.batches import epoch_steps
from rlhf_lite.training.pairs import encode_texts
from rlhf_lite.training.ppo import PPOSettings, train_ppo
from rlhf_lite.training.reward import RewardSettings, train_reward
from rlhf_lite.training.rollouts import PolicyGradientSetup
from rlhf_lite.training.settings import OptimiserSettings, pick
from rlhf_lite.training.sft import Example, encode_examples, train_sft

# Names of the adapters on the one policy network.
POLICY, REFERENCE, DPO = "policy", "reference", "dpo"


def check_model(name_or_path: str | None, lora: LoraConfig, *, reward: bool) -> None:
    """Look, before anything is written, whether a model is there and takes the adapters of the settings.

    It is built without weights.

    Args:
        name_or_path: as in the settings.
        lora: what is adapted.
        reward: whether it is also the base of a reward model.

    Raises:
        PhaseError, ConfigError: if a phase could not begin.
    """
    name = resolve_model(name_or_path)
    load_tokenizer(name)
    kinds = [("CAUSAL_LM", AutoModelForCausalLM, "a model")]
    kinds += [("SEQ_CLS", AutoModelForSequenceClassification, "a reward model")] * reward
    for task, kind, what in kinds:
        with quiet_loading(), loading(name, what), torch.device("meta"):
            model = kind.from_config(AutoConfig.from_pretrained(name))
            norm_name(model.base_model)
            lora_config(model, **lora.model_dump(), task=task)


def adapter_to_train(run: Run) -> tuple[Policy, PeftModel]:
    """The untouched policy, and its network with a new adapter named "policy"."""
    config = run.config
    policy = run.load_policy()
    shape = lora_config(policy.model, **config.lora.model_dump())
    return policy, add_adapter(policy.model, shape, POLICY, seed=config.seed)


def save_policy(model: PeftModel, policy: Policy, folder: Path) -> None:
    """Write the adapter "policy" and the tokenizer into ``folder/adapter``."""
    save_adapter(model, folder / "adapter", POLICY, base=policy.name)
    policy.tokenizer.save_pretrained(str(folder / "adapter"))


def run_sft(run: Run) -> None:
    """Fine-tune the model on openings and their human continuations; writes ``sft/adapter``."""
    policy, model = adapter_to_train(run)
    encode = partial(encode_examples, policy.tokenizer, max_tokens=run.max_tokens)
    counts = RowCounts(run.max_tokens)
    examples = encode(run.texts.sft_train, counts=counts)
    run.account("sft", counts)
    fine_tune(run, policy, model, examples, validation=encode(run.texts.sft_validation))


def fine_tune(run: Run, policy: Policy, model: PeftModel, examples: Sequence[Example], /, *,
              validation: Sequence[Example] = (), **record: Any) -> None:
    """Train the adapter "policy" on examples, and write it as the result of the phase ``sft``.

    Args:
        run: the run.
        policy: the model and its tokenizer.
        model: its network with the adapter.
        examples: prompts with their answers.
        validation: the same, for the held-out loss in the middle and at the end.
        **record: what the phase's record says of the examples.
    """
    sft, status = run.config.sft, "loss {loss/nats_per_token:.3f} nats/token"
    with run.training("sft", status, validate_every=max(1, sft.steps // 2)) as settings:
        train_sft(PolicyScorer(model, top_layers=run.config.lora.top_layers), examples, validation=validation,
                  pad_token_id=policy.tokenizer.pad_token_id, optimiser=pick(OptimiserSettings, sft),
                  run=settings)
    with run.result("sft", steps=sft.steps, **record) as folder:
        save_policy(model, policy, folder)


def run_reward(run: Run) -> None:
    """Train the reward model on human pairs; writes ``reward/adapter``."""
    config, max_tokens, counts = run.config, run.max_tokens, RowCounts(run.max_tokens)
    model = new_reward_model(config.model.name, precision=run.precision, max_tokens=max_tokens,
                             seed=config.seed, device=run.device, **config.lora.model_dump())
    given = thin(run.texts.train_pairs, config.reward.pairs)
    pairs = encode_texts(model.tokenizer, given, max_tokens=max_tokens, counts=counts).pairs
    run.account("reward", counts)
    steps = epoch_steps(len(pairs), batch_size=config.reward.batch_size, epochs=config.reward.epochs)

    status = "loss {loss/nats_per_pair:.3f} nats/pair, accuracy {accuracy/fraction:.2f}"
    with run.training("reward", status, steps=steps) as settings:
        train_reward(model, pairs, pick(RewardSettings, config.reward),
                     optimiser=pick(OptimiserSettings, config.reward), run=settings)
    model.eval()
    model.template = run.template
    scale = run.texts.scale_texts
    scores = model.score_texts([prompt + text for prompt, text in scale], [prompt for prompt, _ in scale])
    model.mean, model.std = float(scores.mean()), float(scores.std())
    with run.result("reward", steps=steps) as folder:
        model.save(folder / "adapter")


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
    return load_reward_model(run.output / "reward" / "adapter", precision=run.precision, device=run.device)


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
    policy = run.load_policy()
    adapters = build_adapter_policies(run, policy, trained=trained)
    size = policy.model.config.hidden_size
    critic = load_value_head(run.output / "ppo", hidden_size=size) if trained else ValueHead(size)
    scale = Scale(mean=reward.mean, std=reward.std)
    training = PolicyGradientSetup(
        scorer=PolicyScorer(adapters.model, top_layers=config.lora.top_layers, value_head=critic),
        reference=adapters.scoring(adapters.reference), sampling=adapters.sampling(POLICY),
        reward=Mixture({"rm": Part(shared_reward(run, reward, policy), scale=scale)}),
        eos_token_id=end_tokens(policy.model, policy.tokenizer), pad_token_id=policy.tokenizer.pad_token_id,
        decode=text_decoder(policy.tokenizer),
    )
    return PPOSetup(policy, adapters, reward, training)


def run_ppo(run: Run) -> None:
    """Train the policy against the reward model; writes ``ppo/adapter``, the critic, and a merged model."""
    config, setup, counts = run.config, build_ppo_setup(run, trained=False), RowCounts(run.max_tokens)
    prompts = fit_prompts(setup.policy.tokenizer, run.texts.ppo_prompts, answer=config.ppo.max_new_tokens,
                          max_tokens=run.max_tokens, counts=counts)
    run.account("ppo", counts)
    status = "reward {reward/rm_raw:+.2f}, KL {kl/nats_per_seq:.1f} nats/sequence"
    with run.training("ppo", status, batch_size=config.ppo.prompts_per_step) as settings:
        train_ppo(setup.training, prompts, pick(PPOSettings, config.ppo),
                  optimiser=pick(OptimiserSettings, config.ppo), run=settings)
    save_run_ppo(run, setup)


def save_run_ppo(run: Run, setup: PPOSetup) -> None:
    """Write the trained policy and its critic as the result of the phase ``ppo``."""
    reference = "sft" if setup.adapters.reference else "base"
    with run.result("ppo", steps=run.config.ppo.steps, reference=reference) as folder:
        save_policy(setup.adapters.model, setup.policy, folder)
        setup.training.scorer.value_head.save(folder)
        if run.config.checkpoint.save_merged and run.is_main:
            save_merged(setup.adapters, setup.policy, folder / "merged")


def save_merged(adapters: AdapterPolicies, policy: Policy, folder: Path) -> None:
    """Write the trained policy as a plain Hugging Face folder, without any trace of adapters.

    PEFT renames a layer's weight to ``base_layer.weight``; the plain names are restored. Where embedding and
    vocabulary head are tied and only one of them was adapted, they are two tensors from then on.
    """
    with adapters.sampling(POLICY)() as model:
        layout = {"memory_format": torch.contiguous_format}
        weights = {name.replace(".base_layer.", "."): tensor.detach().clone(**layout)
                   for name, tensor in model.state_dict().items() if ".lora_" not in name}
        config = copy.deepcopy(model.config)
        if getattr(config, "tie_word_embeddings", False):
            parts = (model.get_output_embeddings(), model.get_input_embeddings())
            head, embedding = (f"{name}.weight" for part in parts
                               for name, module in model.named_modules() if module is part)
            config.tie_word_embeddings = torch.equal(weights[head], weights[embedding])
            if config.tie_word_embeddings:
                del weights[head]
        folder.mkdir(parents=True)
        save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
        config.save_pretrained(str(folder))
        model.generation_config.save_pretrained(str(folder))
    policy.tokenizer.save_pretrained(str(folder))
