"""Policy gradients without a critic: GRPO, Dr. GRPO, DAPO and RLOO in one trainer.

Several completions of the same prompt are each other's baseline. What the methods differ in, and what they
aim at, is in ``grpo_terms``; its ``METHODS`` are arguments of :func:`train_grpo`::

    train_grpo(pieces, prompts, **METHODS["rloo"], steps=..., group_size=4, ...)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_lite.functional import kl_estimate, masked_sum
from rlhf_lite.rollout.sampler import row_seeds
from rlhf_lite.training.grpo_terms import (
    ESTIMATORS,
    METHODS,
    Aggregation,
    Estimator,
    KLPlace,
    check_method,
    unit_losses,
    unit_weights,
)
from rlhf_lite.training.progress import Progress
from rlhf_lite.training.rollouts import UpdateMetrics, micro_rows, minibatch_rows, roll_out
from rlhf_lite.training.setup import PolicyGradientSetup, trainable_module
from rlhf_lite.training.step import Hooks, Optimisation, Resume, batch_rows

__all__ = ["METHODS", "GroupBatch", "collect_groups", "train_grpo", "update_groups"]


@dataclass(frozen=True)
class GroupBatch:
    """One rollout: B = prompts * group size rows, those of a prompt adjacent; ``[B, S]`` unless noted.

    Log-probabilities are 0 where ``response_mask`` is False.
    """

    hidden: Tensor  # (B, S, H), the frozen trunk's states
    ids: Tensor
    mask: Tensor
    response_mask: Tensor
    scores: Tensor  # (B,), what is maximised
    old_logps: Tensor
    ref_logps: Tensor  # equal to old_logps without a reference
    advantages: Tensor  # (B,)

    def rows(self, index: Tensor) -> GroupBatch:
        """The given rows."""
        return GroupBatch(**{name: tensor[index] for name, tensor in vars(self).items()})


@torch.no_grad()
def collect_groups(
    pieces: PolicyGradientSetup,
    prompts: Sequence[list[int]],
    *,
    group_size: int,
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    kl_coef: float,
    estimator: Estimator,
    kl_in: KLPlace,
    micro_batch_size: int | None = None,
    accelerator: Accelerator | None = None,
) -> tuple[GroupBatch, dict[str, float]]:
    """Sample ``group_size`` completions per prompt, score them, and compare each with its group.

    With ``kl_in="reward"`` the completion's log π/π_ref, times ``kl_coef``, comes off its score first.
    Metrics are those of ``rollouts.roll_out`` and: ``advantage/std``, ``reward/group_std`` (the scores'
    deviation within a group, mean over groups) and ``group/zero_variance_fraction``, the share of groups
    without any difference, from which nothing is learnt.
    """
    found, metrics = roll_out(
        pieces,
        prompts,
        seeds=seeds,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        repeats=group_size,
        micro_batch_size=micro_batch_size,
        accelerator=accelerator,
    )
    ref_logps = found.old_logps if found.ref_logps is None else found.ref_logps
    rewards = found.scores
    if kl_in == "reward":
        rewards = rewards - kl_coef * masked_sum(
            kl_estimate(found.old_logps, ref_logps), found.response_mask, dim=1
        )
    advantages = ESTIMATORS[estimator](rewards, group_size=group_size)
    flat = (advantages.view(-1, group_size) == 0).all(1)
    metrics |= {
        "kl_coef": kl_coef,
        "advantage/std": float(advantages.std()),
        "reward/group_std": float(found.scores.view(-1, group_size).std(1).mean()),
        "group/zero_variance_fraction": float(flat.float().mean()),
    }
    batch = GroupBatch(
        hidden=found.hidden,
        ids=found.ids,
        mask=found.mask,
        response_mask=found.response_mask,
        scores=found.scores,
        old_logps=found.old_logps,
        ref_logps=ref_logps,
        advantages=advantages,
    )
    return batch, metrics


_UPDATE = ("loss/policy", "clip/fraction", "ratio/mean", "kl/update_nats_per_token")


def update_groups(
    batch: GroupBatch,
    optimisation: Optimisation,
    *,
    epochs: int,
    minibatches: int,
    aggregation: Aggregation,
    kl_in: KLPlace,
    kl_coef: float,
    clip: float,
    clip_high: float | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    micro_batch_size: int | None = None,
) -> dict[str, float]:
    """Several epochs of clipped updates on one rollout; returns the mean of each metric over the updates.

    Minibatches are cut from all completions, whatever their group: the advantages are fixed by now. The
    metrics mean what they mean for PPO, for tokens or, with ``aggregation="sequence"``, for completions.
    """
    accelerator = optimisation.accelerator
    totals, norms = UpdateMetrics(accelerator), []
    high = clip if clip_high is None else clip_high
    for index in minibatch_rows(len(batch.ids), epochs=epochs, minibatches=minibatches, seed=seed):
        response_mask = batch.response_mask[index]
        found = unit_weights(response_mask, aggregation=aggregation, max_tokens=max_new_tokens)
        weights = found.new_zeros(len(batch.ids), found.shape[1]).index_copy(0, index, found)
        for rows in micro_rows(index, micro_batch_size=micro_batch_size, accelerator=accelerator):
            part, weight = batch.rows(rows), weights[rows]
            now = optimisation.module(
                part.hidden, part.ids, part.mask, part.response_mask, temperature=temperature
            )
            losses, ratio = unit_losses(
                now.logps,
                part.old_logps,
                part.ref_logps,
                part.advantages,
                part.response_mask,
                aggregation=aggregation,
                kl_in=kl_in,
                kl_coef=kl_coef,
                clip=clip,
                clip_high=clip_high,
            )
            loss = (weight * losses).sum()
            # Processes average their gradients; the factor turns that average back into a sum.
            optimisation.backward(loss * accelerator.num_processes, {"rows": rows, "token_ids": part.ids})
            if not norms:
                totals.largest("ratio/first_error", (ratio - 1).abs().max())
            units = (
                part.response_mask if aggregation != "sequence" else torch.ones_like(ratio, dtype=torch.bool)
            )
            share = units / (response_mask.sum() if aggregation != "sequence" else len(index))
            clipped = (ratio < 1 - clip) | (ratio > 1 + high)
            drift = kl_estimate(part.old_logps, now.logps.detach())
            values = (
                loss.detach(),
                (share * clipped).sum(),
                (share * ratio).sum(),
                masked_sum(drift, part.response_mask) / response_mask.sum(),
            )
            totals.add(dict(zip(_UPDATE, values, strict=True)))
        norms.append(optimisation.step())
    found = totals.means(len(norms), _UPDATE, ["ratio/first_error"])
    return found | {"grad_norm": sum(norms) / len(norms)}


def train_grpo(
    pieces: PolicyGradientSetup,
    prompts: Sequence[list[int]],
    *,
    steps: int,
    prompts_per_step: int,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    epochs: int,
    minibatches: int,
    learning_rate: float,
    warmup_steps: int,
    max_grad_norm: float,
    clip: float,
    kl_coef: float,
    seed: int,
    accelerator: Accelerator,
    hooks: Hooks,
    estimator: Estimator = "grpo",
    aggregation: Aggregation = "grpo",
    kl_in: KLPlace = "loss",
    clip_high: float | None = None,
    schedule: str = "linear",
    micro_batch_size: int | None = None,
    resume: Resume | None = None,
) -> None:
    """Train the policy on ``prompts_per_step * group_size`` completions per step.

    Every random number comes from ``seed`` and the step: a resumed run is the same. Neither
    ``micro_batch_size`` nor the number of processes changes the trajectory beyond rounding. ``clip_high`` is
    DAPO's upper limit of the ratio, 1 + clip_high; None takes ``clip``.

    Raises:
        ValueError: if the choices of a method do not fit together (see ``grpo_terms``), the scorer has
            a critic, or there are more minibatches than completions.
    """
    check_method(
        estimator=estimator,
        aggregation=aggregation,
        kl_in=kl_in,
        kl_coef=kl_coef,
        reference=pieces.reference is not None,
    )
    if pieces.scorer.value_head is not None:
        raise ValueError("the group is the baseline here: build the PolicyScorer without a value_head")
    if minibatches > prompts_per_step * group_size:
        raise ValueError(
            f"{prompts_per_step} x {group_size} completions cannot make {minibatches} minibatches"
        )
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
    progress = Progress(optimisation, steps=steps, hooks=hooks, resume=resume)
    for step in progress:
        rows = batch_rows(len(prompts), prompts_per_step, step, seed=seed)
        batch, metrics = collect_groups(
            pieces,
            [prompts[row] for row in rows],
            group_size=group_size,
            seeds=row_seeds(seed, step, rows=len(rows) * group_size),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            kl_coef=kl_coef,
            estimator=estimator,
            kl_in=kl_in,
            micro_batch_size=micro_batch_size,
            accelerator=accelerator,
        )
        started, rate = time.perf_counter(), optimisation.learning_rate
        metrics |= update_groups(
            batch,
            optimisation,
            epochs=epochs,
            minibatches=minibatches,
            aggregation=aggregation,
            kl_in=kl_in,
            kl_coef=kl_coef,
            clip=clip,
            clip_high=clip_high,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed * 1_000_003 + step,
            micro_batch_size=micro_batch_size,
        )
        metrics |= {"learning_rate": rate, "seconds/update": time.perf_counter() - started}
        progress.record(step, metrics)
