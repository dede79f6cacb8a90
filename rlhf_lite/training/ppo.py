"""Proximal policy optimisation on a language model, with a penalty on every token's drift from the reference.

Follows Ziegler et al. 2019 and Stiennon et al. 2020: one batch of continuations, a score for each from the
reward model, a KL penalty for each token, a critic, generalised advantage estimates, then a few epochs of
clipped updates. Deviations from those papers: the critic is a linear head on the policy's own hidden states;
only LoRA weights are trained; the frozen trunk below them is computed once per batch and shared by policy,
reference and reward model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_lite.functional import (
    AdaptiveKLController,
    FixedKLController,
    gae,
    kl_estimate,
    masked_var,
    masked_whiten,
    ppo_policy_loss,
    ppo_value_loss,
)
from rlhf_lite.rollout.sampler import row_seeds
from rlhf_lite.training.progress import Progress
from rlhf_lite.training.rollouts import UpdateMetrics, micro_rows, minibatch_rows, roll_out
from rlhf_lite.training.setup import PolicyGradientSetup, trainable_module
from rlhf_lite.training.step import Hooks, Optimisation, Resume, batch_rows

Controller = AdaptiveKLController | FixedKLController


@dataclass(frozen=True)
class Batch:
    """One rollout; B rows, S = prompt + response columns, every tensor ``[B, S]`` unless noted.

    Log-probabilities, values, advantages and returns are 0 where ``response_mask`` is False.
    """

    hidden: Tensor  # (B, S, H), the frozen trunk's states
    ids: Tensor
    mask: Tensor
    response_mask: Tensor
    scores: Tensor  # (B,), what is maximised
    old_logps: Tensor
    ref_logps: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor) -> Batch:
        """The given rows."""
        return Batch(**{name: tensor[index] for name, tensor in vars(self).items()})


def token_rewards(
    old_logps: Tensor, ref_logps: Tensor, scores: Tensor, response_mask: Tensor, *, kl_coef: float
) -> Tensor:
    """Reward of each token: -β (log π - log π_ref), plus the score on the last token of the row.

    Source: Ziegler et al. 2019, equation 2, spread over tokens.

    Args:
        old_logps: ``[B, S]`` under the policy that sampled.
        ref_logps: ``[B, S]`` under the reference.
        scores: ``[B]``.
        response_mask: bool ``[B, S]``, the response tokens; at least one per row.
        kl_coef: β.
    """
    penalty = kl_coef * kl_estimate(old_logps, ref_logps)
    rewards = torch.where(response_mask, -penalty, torch.zeros_like(penalty))
    last = response_mask.shape[1] - 1 - response_mask.long().flip(-1).argmax(-1)  # (B,)
    rewards[torch.arange(len(last)), last] += scores
    return rewards


@torch.no_grad()
def collect(
    pieces: PolicyGradientSetup,
    prompts: Sequence[list[int]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    kl_coef: float,
    gamma: float,
    lam: float,
    whiten: bool,
    micro_batch_size: int | None = None,
    accelerator: Accelerator | None = None,
) -> tuple[Batch, dict[str, float]]:
    """Sample one continuation per prompt, score it, and estimate advantages.

    The arguments, also ``accelerator``, are those of :func:`rollouts.roll_out` and :func:`functional.gae`.

    Raises:
        ValueError: if the scorer has no value head, or there is no reference.
    """
    if pieces.scorer.value_head is None or pieces.reference is None:
        raise ValueError("PPO needs a scorer with a value head and a reference; GRPO and RLOO do without")
    found, metrics = roll_out(
        pieces,
        prompts,
        seeds=seeds,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        micro_batch_size=micro_batch_size,
        accelerator=accelerator,
    )
    response_mask, response = found.response_mask, found.response
    rewards = token_rewards(found.old_logps, found.ref_logps, found.scores, response_mask, kl_coef=kl_coef)
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    advantages[:, response], returns[:, response] = gae(
        rewards[:, response], found.old_values[:, response], response_mask[:, response], gamma=gamma, lam=lam
    )
    error = masked_var(returns - found.old_values, response_mask)
    metrics |= {
        "kl_coef": kl_coef,
        "advantage/std": float(masked_var(advantages, response_mask).sqrt()),
        "value/explained_variance": float(1 - error / masked_var(returns, response_mask).clamp_min(1e-8)),
    }
    batch = Batch(
        hidden=found.hidden,
        ids=found.ids,
        mask=found.mask,
        response_mask=response_mask,
        scores=found.scores,
        old_logps=found.old_logps,
        ref_logps=found.ref_logps,
        old_values=found.old_values,
        advantages=masked_whiten(advantages, response_mask) if whiten else advantages,
        returns=returns,
    )
    return batch, metrics


_UPDATE = ("loss/policy", "loss/value", "clip/fraction", "ratio/mean", "kl/update_nats_per_token")


def update(
    batch: Batch,
    optimisation: Optimisation,
    *,
    epochs: int,
    minibatches: int,
    clip: float,
    value_clip: float | None,
    value_coef: float,
    temperature: float,
    seed: int,
    micro_batch_size: int | None = None,
) -> dict[str, float]:
    """Several epochs of clipped updates on one rollout; returns the mean of each metric over the updates.

    A mean over a minibatch's tokens is a sum with weights 1 / tokens: it may be added up in parts, over
    micro-batches and over processes, and stays the same.

    ``ratio/first_error`` is the largest |ρ - 1| in the very first minibatch: nothing has moved yet, so that
    it must be zero up to rounding. It is the cheapest check that sampling, masks and shift agree.
    """
    accelerator = optimisation.accelerator
    totals, norms = UpdateMetrics(accelerator), []
    for index in minibatch_rows(len(batch.ids), epochs=epochs, minibatches=minibatches, seed=seed):
        tokens = batch.response_mask[index].sum()
        for rows in micro_rows(index, micro_batch_size=micro_batch_size, accelerator=accelerator):
            part, weights = batch.rows(rows), batch.response_mask[rows] / tokens
            now = optimisation.module(
                part.hidden, part.ids, part.mask, part.response_mask, temperature=temperature
            )
            policy = ppo_policy_loss(now.logps, part.old_logps, part.advantages, clip=clip)
            value = ppo_value_loss(now.values, part.old_values, part.returns, clip=value_clip)
            loss = (weights * (policy + value_coef * value)).sum()
            # Processes average their gradients; the factor turns that average back into a sum.
            optimisation.backward(loss * accelerator.num_processes, {"rows": rows, "token_ids": part.ids})
            logps = now.logps.detach()
            ratio = (logps - part.old_logps).exp()
            if not norms:
                totals.largest("ratio/first_error", (ratio - 1).abs().max())
            values = (
                policy.detach(),
                value.detach(),
                ((ratio - 1).abs() > clip).float(),
                ratio,
                kl_estimate(part.old_logps, logps),
            )
            totals.add({name: (weights * each).sum() for name, each in zip(_UPDATE, values, strict=True)})
        norms.append(optimisation.step())
    found = totals.means(len(norms), _UPDATE, ["ratio/first_error"])
    return found | {"grad_norm": sum(norms) / len(norms)}


def train_ppo(
    pieces: PolicyGradientSetup,
    prompts: Sequence[list[int]],
    *,
    steps: int,
    prompts_per_step: int,
    max_new_tokens: int,
    temperature: float,
    epochs: int,
    minibatches: int,
    learning_rate: float,
    warmup_steps: int,
    max_grad_norm: float,
    clip: float,
    value_clip: float | None,
    value_coef: float,
    gamma: float,
    lam: float,
    kl_coef: float,
    kl_target: float | None,
    kl_horizon: float,
    whiten_advantages: bool,
    seed: int,
    accelerator: Accelerator,
    hooks: Hooks,
    schedule: str = "linear",
    micro_batch_size: int | None = None,
    resume: Resume | None = None,
) -> None:
    """Train the policy. Every random number comes from ``seed`` and the step: a resumed run is the same.

    Neither ``micro_batch_size`` (rows per forward pass; None takes a whole minibatch) nor the number of
    processes changes the trajectory beyond rounding.

    The scorer of ``pieces`` needs a value head.

    The metrics are those of :func:`collect` and :func:`update`; the book's metrics page explains each.
    """
    updates = epochs * minibatches
    optimisation = Optimisation(
        trainable_module(pieces.scorer),
        accelerator=accelerator,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps * updates,
        total_steps=steps * updates,
        max_grad_norm=max_grad_norm,
        schedule=schedule,
        bad_batches=hooks.bad_batches,
    )
    controller: Controller = FixedKLController(kl_coef)
    if kl_target is not None:
        controller = AdaptiveKLController(kl_coef, kl_target, kl_horizon)
    if resume is not None:
        controller.value = resume.numbers["kl_coef"]
    progress = Progress(optimisation, steps=steps, hooks=hooks, resume=resume)
    for step in progress:
        rows = batch_rows(len(prompts), prompts_per_step, step, seed=seed)
        batch, metrics = collect(
            pieces,
            [prompts[row] for row in rows],
            seeds=row_seeds(seed, step, rows=len(rows)),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            kl_coef=controller.value,
            gamma=gamma,
            lam=lam,
            whiten=whiten_advantages,
            micro_batch_size=micro_batch_size,
            accelerator=accelerator,
        )
        started, rate = time.perf_counter(), optimisation.learning_rate
        metrics |= update(
            batch,
            optimisation,
            epochs=epochs,
            minibatches=minibatches,
            clip=clip,
            value_clip=value_clip,
            value_coef=value_coef,
            temperature=temperature,
            seed=seed * 1_000_003 + step,
            micro_batch_size=micro_batch_size,
        )
        metrics |= {"learning_rate": rate, "seconds/update": time.perf_counter() - started}
        controller.update(metrics["kl/nats_per_seq"], len(rows))
        progress.record(step, metrics, numbers={"kl_coef": controller.value})
