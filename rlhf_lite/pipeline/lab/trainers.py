"""The package's own PPO, RLOO, GRPO and DPO trainers on the tiny transformer, against the exact optimum.

Nothing here is a stand-in: sampler, log-probabilities, advantages, clipped losses, optimiser and trainers are
those of a real run. Only prompts, reward and reference are small enough to know the answer.

What has to agree for the answer of policy gradients to be the right one: the trainer pays the world's β for a
nat, in the reward, at temperature 1, with a fixed coefficient; the reward is not rescaled. Scaling whole
advantages (whitening, GRPO's standard deviation) does not move the optimum then, because reward and penalty
shrink together. It would with the penalty in the loss: see ``grpo_kl_in_loss``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.lab import World, optimal_policy, pretrained_world, sequence_probs
from rlhf_lite.models.policy import PolicyScorer, ValueHead
from rlhf_lite.models.runtime import compute_device
from rlhf_lite.pipeline.lab.results import Curve, LabResult, OnPoint, result
from rlhf_lite.rollout.rewards import Completions
from rlhf_lite.training.dpo import DPOSettings, train_dpo
from rlhf_lite.training.grpo import GRPOSettings, train_grpo
from rlhf_lite.training.ppo import PPOSettings, train_ppo
from rlhf_lite.training.rollouts import PolicyGradientSetup, frozen_reference
from rlhf_lite.training.settings import Hooks, OptimiserSettings, RunSettings, split

DPO_TRAINER = "dpo_transformer"
# The sentence for every algorithm that leads to π*.
SAME_OPTIMUM = "π ∝ π_ref exp(r/β), the maximum of E[r] - β KL(π || π_ref)"
# Shared by all trainers; see the table below for what differs.
_COMMON = {"temperature": 1.0, "epochs": 1, "minibatches": 2, "warmup_steps": 0, "max_grad_norm": 1.0,
           "clip": 0.2}


@dataclass(frozen=True)
class PolicyCase:
    """How one algorithm is run in a world, and where it should end.

    Attributes:
        train: the trainer.
        kind: the record of its settings.
        settings: what it is told, beside the common settings.
        aims_at: one sentence.
        optimal: whether its optimum is the world's π*.
    """

    train: Callable[..., None]
    kind: type[PPOSettings] | type[GRPOSettings]
    settings: Mapping[str, Any]
    aims_at: str = SAME_OPTIMUM
    optimal: bool = True


def _in_groups(estimator: str, aggregation: str, *, kl_in: str = "reward", **about: Any) -> PolicyCase:
    settings = {"estimator": estimator, "aggregation": aggregation, "kl_in": kl_in}
    return PolicyCase(train_grpo, GRPOSettings, settings, **about)


POLICY_CASES: Mapping[str, PolicyCase] = MappingProxyType({
    # γ = λ = 1: the advantage is the return minus the critic's guess, which is a baseline and no more.
    # No whitening: at the optimum r - β log π/π_ref is constant, so that the noise dies out by itself.
    "ppo": PolicyCase(train_ppo, PPOSettings, {
        "gamma": 1.0, "lam": 1.0, "value_clip": 0.5, "value_coef": 0.5, "kl_target": None, "kl_horizon": 1.0,
        "whiten_advantages": False,
    }),
    "rloo": _in_groups("rloo", "sequence"),
    "grpo": _in_groups(
        "grpo", "grpo",
        aims_at=f"{SAME_OPTIMUM}; with the KL in the reward, the deviation rescales a prompt's step, not its "
        "goal",
    ),
    "dr_grpo": _in_groups("dr_grpo", "dr_grpo"),
    # As published. Kept to show what its two changes do to the optimum; no bar.
    "grpo_kl_in_loss": _in_groups(
        "grpo", "grpo", kl_in="loss", optimal=False,
        aims_at="another policy: rewards are divided by their deviation σ in the group, the penalty is not, "
        "so that a nat costs β σ; and the expected gradient of k3 is that of KL(π_ref || π)",
    ),
})


class _WorldReward:
    """The world's reward as a function of token ids."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._numbers = {prompt: number for number, prompt in enumerate(world.prompts)}

    def __call__(self, batch: Completions) -> Tensor:
        width = batch.prompt_width
        rows = zip(batch.ids[:, :width].tolist(), batch.mask[:, :width].tolist(), strict=True)
        prompts = (tuple(token for token, counts in zip(*row, strict=True) if counts) for row in rows)
        return self.world.reward_of(torch.tensor([self._numbers[p] for p in prompts]), batch.response_ids)


class _Recorder(Curve):
    """Measures the model's exact distribution every few steps of a trainer."""

    def __init__(self, model: PreTrainedModel, world: World, *, every: int, last: int,
                 on_point: OnPoint | None) -> None:
        super().__init__(world, on_point)
        self.every, self.last = every, last
        self.probs = partial(sequence_probs, model, world)
        self.extra: dict[str, float] = {}
        self.add(0, self.probs)

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """For ``Hooks``."""
        if "ratio/first_error" in metrics:
            name = "largest_first_ratio_error"
            self.extra = {name: max(self.extra.get(name, 0.0), metrics["ratio/first_error"])}
        if step % self.every == 0 or step == self.last:
            self.add(step, self.probs)


def _train(train: Callable[..., None], kind: type, given: Mapping[str, Any], model: PreTrainedModel,
           world: World, *, seed: int, evaluate_every: int, on_point: OnPoint | None,
           **about: Any) -> LabResult:
    """Train with the settings ``given``, the algorithm's as a ``kind``; ``about`` is for the result."""
    recorder = _Recorder(model, world, every=evaluate_every, last=given["steps"], on_point=on_point)
    # A lab is too small for a GPU: its model and tables stay here.
    accelerator = Accelerator(cpu=compute_device().type == "cpu", device_placement=False)
    given = {**given, "seed": seed, "accelerator": accelerator, "hooks": Hooks(recorder.on_step)}
    settings, optimiser, run = split(given, kind, OptimiserSettings, RunSettings)
    train(settings, optimiser=optimiser, run=run)
    return result(world, recorder.probs(), recorder, policy="transformer", seed=seed, extra=recorder.extra,
                  **about)


def run_policy(algorithm: str, world: World, *, seed: int, steps: int, rows: int, learning_rate: float,
               evaluate_every: int, on_point: OnPoint | None = None, pretraining_steps: int = 150,
               kl_coef: float | None = None, value_head_std: float = 0.0, **changes: Any) -> LabResult:
    """Train the tiny transformer from its own pre-trained state towards the world's optimum.

    Args:
        algorithm: one of :data:`POLICY_CASES`.
        world: gives corpus, reward and β; its reference is replaced by the transformer's own distribution.
        seed: of pre-training, sampling and order.
        steps: rollouts.
        rows: completions per rollout, shared evenly by the prompts; a multiple of their number.
        learning_rate: peak; it falls to a tenth.
        evaluate_every: rollouts between exact measurements.
        on_point: called with every point of the curve as it is measured, for progress displays.
        pretraining_steps: of the reference.
        kl_coef: price of a nat in the trainer; None takes the world's β, which the measurement always uses. A
            run at another price aims at another optimum.
        value_head_std: standard deviation of the critic's first weights; 0 is the package's own start.
        **changes: other arguments of the trainer.

    Raises:
        ValueError: if the rows cannot be shared evenly.
    """
    each, rest = divmod(rows, len(world.prompts))
    if rest or not each:
        raise ValueError(f"rows must be a multiple of the {len(world.prompts)} prompts, got {rows}")
    case = POLICY_CASES[algorithm]
    has_critic = case.kind is PPOSettings
    model, world = pretrained_world(world, seed=seed, steps=pretraining_steps)
    head = _value_head(model.config.hidden_size, std=value_head_std, seed=seed) if has_critic else None
    price = world.beta if kl_coef is None else kl_coef
    setup = PolicyGradientSetup(scorer=PolicyScorer(model, top_layers=None, value_head=head),
                                reference=frozen_reference(model), sampling=lambda: nullcontext(model),
                                reward=_WorldReward(world), eos_token_id=None, pad_token_id=0)
    prompts = [list(prompt) for prompt in world.prompts]
    shape = {"prompts_per_step": len(prompts), "group_size": each}
    if has_critic:  # one completion per row
        prompts, shape = prompts * each, {"prompts_per_step": rows}
    settings = {**_COMMON, **case.settings, **shape, "learning_rate": learning_rate, "steps": steps} | changes
    given = settings | {"max_new_tokens": world.length, "kl_coef": price}
    given["batch_size"] = given.pop("prompts_per_step")
    solvable = case.optimal and price > 0  # at price 0 no tilt is best
    target = optimal_policy(world.reference, world.rewards, beta=price) if solvable else None
    return _train(
        partial(case.train, setup, prompts), case.kind, given, model, world, seed=seed,
        evaluate_every=evaluate_every, on_point=on_point, algorithm=algorithm,
        aims_at=case.aims_at if price == world.beta else f"the same at a price of {price:g} for a nat",
        target=target, settings=settings | {"rows": rows, "pretraining_steps": pretraining_steps,
                                            "kl_coef": price, "value_head_std": value_head_std},
    )


def _value_head(hidden_size: int, *, std: float, seed: int) -> ValueHead:
    """The critic at its start: zeros, or normal weights for those who want to see what zeros are good for."""
    head = ValueHead(hidden_size)
    if std > 0:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            head.linear.weight.normal_(0.0, std, generator=generator)
    return head


def sampled_pairs(world: World, n: int, *, sharpness: float, seed: int) -> list[EncodedPair]:
    """Preferences as people would give them: two draws from the reference, one Bradley-Terry verdict.

    Args:
        world: prompts take turns; strengths are its rewards times ``sharpness``.
        n: number of pairs.
        sharpness: higher for more decided raters.
        seed: of draws and verdicts.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.arange(n) % len(world.prompts)
    first, second = torch.multinomial(world.reference[prompts], 2, True, generator=generator).unbind(1)
    gaps = world.rewards[prompts, first] - world.rewards[prompts, second]
    chances = torch.sigmoid(sharpness * gaps)
    swapped = torch.rand(n, generator=generator, dtype=torch.float64) >= chances
    chosen, rejected = torch.where(swapped, second, first), torch.where(swapped, first, second)
    rows = zip(prompts.tolist(), world.sequences[chosen].tolist(), world.sequences[rejected].tolist(),
               strict=True)
    return [EncodedPair(list(world.prompts[p]), good, bad) for p, good, bad in rows]


def run_dpo_trainer(world: World, *, seed: int, steps: int, rows: int, learning_rate: float,
                    evaluate_every: int, on_point: OnPoint | None = None, sharpness: float = 10.0,
                    pretraining_steps: int = 150, **changes: Any) -> LabResult:
    """Train the tiny transformer with the package's DPO trainer on sampled verdicts, each pair seen once.

    Unlike the table in ``preferences`` this has noise: a verdict is one bit. With rewards between 0 and 1
    most verdicts would be close to a coin flip, so the raters are made more decided, and β grows by the same
    factor: π ∝ π_ref exp(c r / (c β)) is the same optimum.

    Args:
        world, seed, learning_rate, evaluate_every, on_point, pretraining_steps: as in :func:`run_policy`; the
            seed also draws the pairs.
        steps: optimiser steps.
        rows: completions per step, so twice the number of pairs.
        sharpness: the factor c.
        **changes: other arguments of the trainer.
    """
    model, world = pretrained_world(world, seed=seed, steps=pretraining_steps)
    model.get_input_embeddings().requires_grad_(False)  # this trainer stores what lies below its top layers
    settings = {"loss": "sigmoid", "accumulation": 1, "warmup_steps": 0, "max_grad_norm": 1.0,
                "learning_rate": learning_rate, "steps": steps, "batch_size": rows // 2} | changes
    pairs = sampled_pairs(world, steps * settings["batch_size"], sharpness=sharpness, seed=seed)
    given = settings | {"beta": sharpness * world.beta, "cache_megabytes": 0}
    train = partial(train_dpo, PolicyScorer(model, top_layers=None), pairs,
                    reference=frozen_reference(model), pad_token_id=0)
    return _train(
        train, DPOSettings, given, model, world, seed=seed, evaluate_every=evaluate_every, on_point=on_point,
        algorithm=DPO_TRAINER, aims_at=SAME_OPTIMUM, target=world.optimum,
        settings=settings | {"rows": rows, "pairs": len(pairs), "sharpness": sharpness,
                             "loss_beta": given["beta"], "pretraining_steps": pretraining_steps},
    )
