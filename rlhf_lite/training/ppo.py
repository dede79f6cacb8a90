"""Proximal policy optimisation on a language model, with a penalty on every token's drift from the reference.

Follows Ziegler et al. 2019 and Stiennon et al. 2020: one batch of continuations, a score for each from the
reward model, a KL penalty for each token, a critic, generalised advantage estimates, then a few epochs of
clipped updates. Deviations from those papers: the critic is a linear head on the policy's own hidden states;
only LoRA weights are trained; the frozen trunk below them is computed once per batch and shared by policy,
reference and reward model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_lite.data.collate import pad_left
from rlhf_lite.functional import (
    AdaptiveKLController,
    FixedKLController,
    gae,
    kl_estimate,
    masked_mean,
    masked_sum,
    masked_var,
    masked_whiten,
    ppo_policy_loss,
    ppo_value_loss,
)
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.rollout.sampler import join, row_seeds, sample
from rlhf_lite.training.step import Hooks, Optimisation, Resume, batch_rows

Controller = AdaptiveKLController | FixedKLController


@dataclass(frozen=True)
class PPOPieces:
    """What PPO needs besides numbers.

    Attributes:
        scorer: the policy with its value head; only adapter and head are trainable.
        reference: a context in which ``scorer`` computes the reference policy.
        sampling: a context that yields a model ready to sample the current policy.
        reward: maps (trunk states ``[B, S, H]``, ids ``[B, S]``, mask ``[B, S]`` without end tokens) to
            (scores that PPO maximises ``[B]``, raw scores ``[B]``).
        eos_token_id: ends a continuation.
        pad_token_id: fills rows.
    """

    scorer: PolicyScorer
    reference: Callable[[], AbstractContextManager[None]]
    sampling: Callable[[], AbstractContextManager[object]]
    reward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    eos_token_id: int
    pad_token_id: int


@dataclass(frozen=True)
class Batch:
    """One rollout; B rows, S = prompt + response columns, every tensor ``[B, S]`` unless noted.

    ``wanted`` marks the response tokens. Log-probabilities, values, advantages and returns are 0 elsewhere.
    """

    hidden: Tensor  # (B, S, H), the frozen trunk's states
    ids: Tensor
    mask: Tensor
    wanted: Tensor
    old_logps: Tensor
    ref_logps: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor) -> Batch:
        """The given rows."""
        return Batch(**{name: tensor[index] for name, tensor in vars(self).items()})


def token_rewards(
    old_logps: Tensor, ref_logps: Tensor, scores: Tensor, wanted: Tensor, *, kl_coef: float
) -> Tensor:
    """Reward of each token: -β (log π - log π_ref), plus the score on the last token of the row.

    Source: Ziegler et al. 2019, equation 2, spread over tokens.

    Args:
        old_logps: ``[B, S]`` under the policy that sampled.
        ref_logps: ``[B, S]`` under the reference.
        scores: ``[B]``.
        wanted: bool ``[B, S]``, the response tokens; at least one per row.
        kl_coef: β.
    """
    penalty = kl_coef * kl_estimate(old_logps, ref_logps)
    rewards = torch.where(wanted, -penalty, torch.zeros_like(penalty))
    last = wanted.shape[1] - 1 - wanted.long().flip(-1).argmax(-1)  # (B,)
    rewards[torch.arange(len(last)), last] += scores
    return rewards


@torch.no_grad()
def collect(
    pieces: PPOPieces,
    prompts: Sequence[list[int]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    kl_coef: float,
    gamma: float,
    lam: float,
    whiten: bool,
) -> tuple[Batch, dict[str, float]]:
    """Sample one continuation per prompt, score it, and estimate advantages."""
    started = time.perf_counter()
    prompt_ids, prompt_mask = pad_left(prompts, pieces.pad_token_id)
    with pieces.sampling() as model:
        rollout = sample(
            model,
            prompt_ids,
            prompt_mask,
            max_new_tokens=max_new_tokens,
            eos_token_id=pieces.eos_token_id,
            pad_token_id=pieces.pad_token_id,
            seeds=seeds,
            temperature=temperature,
        )
    sampled = time.perf_counter()
    ids, mask, wanted = join(rollout)
    hidden = pieces.scorer.body.trunk(ids, mask)
    old = pieces.scorer(hidden, ids, mask, wanted, temperature=temperature, with_entropy=True)
    with pieces.reference():
        ref_logps = pieces.scorer(hidden, ids, mask, wanted, temperature=temperature).logps
    # The reward model never saw an end token: it reads the last token of the text.
    scores, raw = pieces.reward(hidden, ids, mask & ~(wanted & (ids == pieces.eos_token_id)))

    rewards = token_rewards(old.logps, ref_logps, scores, wanted, kl_coef=kl_coef)
    prompt_width = prompt_ids.shape[1]
    response = slice(prompt_width, None)
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    advantages[:, response], returns[:, response] = gae(
        rewards[:, response], old.values[:, response], wanted[:, response], gamma=gamma, lam=lam
    )
    raw_std = float(masked_var(advantages, wanted).sqrt())
    error = masked_var(returns - old.values, wanted)
    metrics = {
        "reward/rm_raw": float(raw.mean()),
        "reward/rm_std": float(raw.std()),
        "reward/score": float(scores.mean()),
        "kl/nats_per_seq": float(masked_sum(kl_estimate(old.logps, ref_logps), wanted, dim=1).mean()),
        "kl_coef": kl_coef,
        "entropy/nats_per_token": float(masked_mean(old.entropies, wanted)),
        "length/tokens": float(wanted.sum(1).float().mean()),
        "ended/fraction": float(rollout.ended.float().mean()),
        "advantage/std": raw_std,
        "value/explained_variance": float(1 - error / masked_var(returns, wanted).clamp_min(1e-8)),
        "seconds/sampling": sampled - started,
        "seconds/scoring": time.perf_counter() - sampled,
    }
    if whiten:
        advantages = masked_whiten(advantages, wanted)
    batch = Batch(
        hidden=hidden,
        ids=ids,
        mask=mask,
        wanted=wanted,
        old_logps=old.logps,
        ref_logps=ref_logps,
        old_values=old.values,
        advantages=advantages,
        returns=returns,
    )
    return batch, metrics


def update(
    batch: Batch,
    optimisation: Optimisation,
    *,
    epochs: int,
    minibatches: int,
    clip: float,
    value_clip: float,
    value_coef: float,
    temperature: float,
    seed: int,
) -> dict[str, float]:
    """Several epochs of clipped updates on one rollout; returns the mean of each metric over the updates.

    ``ratio/first_error`` is the largest |ρ - 1| in the very first minibatch: nothing has moved yet, so that
    it must be zero up to rounding. It is the cheapest check that sampling, masks and shift agree.
    """
    totals: dict[str, list[float]] = {}
    first_error = 0.0
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order = torch.randperm(len(batch.ids), generator=generator)
        for number, index in enumerate(order.tensor_split(minibatches)):
            part = batch.rows(index)
            now = optimisation.module(part.hidden, part.ids, part.mask, part.wanted, temperature=temperature)
            policy = ppo_policy_loss(now.logps, part.old_logps, part.advantages, clip=clip)
            value = ppo_value_loss(now.values, part.old_values, part.returns, clip=value_clip)
            policy_loss, value_loss = masked_mean(policy, part.wanted), masked_mean(value, part.wanted)
            optimisation.backward(policy_loss + value_coef * value_loss)
            norm = optimisation.step()
            difference = (now.logps - part.old_logps).detach()
            ratio = difference.exp()
            if epoch == 0 and number == 0:
                first_error = float((ratio - 1).abs().max())
            for name, number_ in {
                "loss/policy": policy_loss.detach(),
                "loss/value": value_loss.detach(),
                "clip/fraction": masked_mean(((ratio - 1).abs() > clip).float(), part.wanted),
                "ratio/mean": masked_mean(ratio, part.wanted),
                "kl/update_nats_per_token": masked_mean(
                    kl_estimate(part.old_logps, now.logps.detach()), part.wanted
                ),
                "grad_norm": norm,
            }.items():
                totals.setdefault(name, []).append(float(number_))
    means = {name: sum(values) / len(values) for name, values in totals.items()}
    return means | {"ratio/first_error": first_error}


def train_ppo(
    pieces: PPOPieces,
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
    value_clip: float,
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
    resume: Resume | None = None,
) -> None:
    """Train the policy. Every random number comes from ``seed`` and the step: a resumed run is the same.

    In a distributed run each process samples and updates on its own prompts; gradients are averaged.

    The metrics are those of :func:`collect` and :func:`update`; the book's metrics page explains each.
    """
    updates = epochs * minibatches
    optimisation = Optimisation(
        pieces.scorer,
        accelerator=accelerator,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps * updates,
        total_steps=steps * updates,
        max_grad_norm=max_grad_norm,
    )
    controller: Controller = FixedKLController(kl_coef)
    if kl_target is not None:
        controller = AdaptiveKLController(kl_coef, kl_target, kl_horizon)
    done = 0
    if resume is not None:
        optimisation.load(resume.tensors)
        controller.value, done = resume.numbers["kl_coef"], resume.step
    for step in range(done, steps):
        rows = batch_rows(len(prompts), prompts_per_step, step, seed=seed)
        seeds = row_seeds(seed, step, rows=len(rows))
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        batch, metrics = collect(
            pieces,
            [prompts[row] for row in rows[mine]],
            seeds=seeds[mine],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            kl_coef=controller.value,
            gamma=gamma,
            lam=lam,
            whiten=whiten_advantages,
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
        )
        metrics |= {"learning_rate": rate, "seconds/update": time.perf_counter() - started}
        names = sorted(metrics)
        numbers = torch.tensor([metrics[name] for name in names], dtype=torch.float64)
        means = accelerator.reduce(numbers, "mean").tolist()
        metrics = dict(zip(names, means, strict=True))
        controller.update(metrics["kl/nats_per_seq"], len(rows))
        hooks.on_step(step + 1, metrics)
        if hooks.save is not None and ((step + 1) % hooks.save_every == 0 or step + 1 == steps):
            hooks.save(step + 1, optimisation.tensors(), {"kl_coef": controller.value})
