"""Policy gradients without a critic: GRPO, Dr. GRPO and RLOO in one trainer.

Several completions of the same prompt are each other's baseline. The published methods differ in three
choices, and :data:`METHODS` names their combinations:

- ``estimator``: reward minus the group's mean, divided by its standard deviation (``grpo``, Shao et al. 2024)
  or not (``dr_grpo``, Liu et al. 2025), or minus the mean of the *others* (``rloo``, Ahmadian et al. 2024);
- ``aggregation``: how tokens become a loss, see ``functional.aggregation_weights``; ``sequence`` takes whole
  completions as the unit, with one ratio for each, as RLOO does;
- ``kl_in``: the penalty for leaving the reference is taken off each completion's reward before the baseline
  (``reward``), or added to the loss of each token as k3 (``loss``).

Only some combinations aim at the optimum of E[r] - β KL(π || π_ref). With ``kl_in="reward"`` and ``rloo`` or
``dr_grpo`` the expected gradient points there. Dividing by the deviation gives every prompt a β of its own.
The gradient of k3 in the loss is that of KL(π_ref || π) instead, the other direction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_lite.functional import (
    aggregation_weights,
    group_advantages,
    grpo_loss,
    kl_estimate,
    masked_sum,
    rloo_advantages,
)
from rlhf_lite.rollout.sampler import row_seeds
from rlhf_lite.training.pieces import PolicyPieces, trainable_module
from rlhf_lite.training.progress import Progress
from rlhf_lite.training.rollouts import UpdateMetrics, micro_rows, minibatch_rows, roll_out
from rlhf_lite.training.step import Hooks, Optimisation, Resume, batch_rows

Estimator = Literal["grpo", "dr_grpo", "rloo"]
Aggregation = Literal["grpo", "dapo", "bnpo", "dr_grpo", "sequence"]
KLPlace = Literal["reward", "loss"]

_ESTIMATORS: Mapping[str, Callable[..., Tensor]] = {
    "grpo": partial(group_advantages, scale="std"),
    "dr_grpo": partial(group_advantages, scale="none"),
    "rloo": rloo_advantages,
}
_AGGREGATIONS = ("grpo", "dapo", "bnpo", "dr_grpo", "sequence")

# The published methods, as arguments of train_grpo.
METHODS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "grpo": {"estimator": "grpo", "aggregation": "grpo", "kl_in": "loss"},
        "dapo": {"estimator": "grpo", "aggregation": "dapo", "kl_in": "loss"},
        "dr_grpo": {"estimator": "dr_grpo", "aggregation": "dr_grpo", "kl_in": "loss"},
        "rloo": {"estimator": "rloo", "aggregation": "sequence", "kl_in": "reward"},
    }
)


@dataclass(frozen=True)
class GroupBatch:
    """One rollout: B = prompts * group size rows, those of a prompt adjacent; ``[B, S]`` unless noted.

    Log-probabilities are 0 where ``wanted`` is False.
    """

    hidden: Tensor  # (B, S, H), the frozen trunk's states
    ids: Tensor
    mask: Tensor
    wanted: Tensor
    scores: Tensor  # (B,), what is maximised
    old_logps: Tensor
    ref_logps: Tensor  # equal to old_logps without a reference
    advantages: Tensor  # (B,)

    def rows(self, index: Tensor) -> GroupBatch:
        """The given rows."""
        return GroupBatch(**{name: tensor[index] for name, tensor in vars(self).items()})


def check_method(*, estimator: str, aggregation: str, kl_in: str, kl_coef: float, reference: bool) -> None:
    """Raise a ValueError for a choice that does not exist, or two that do not fit together."""
    for name, value, known in (
        ("estimator", estimator, tuple(_ESTIMATORS)),
        ("aggregation", aggregation, _AGGREGATIONS),
        ("kl_in", kl_in, ("reward", "loss")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if aggregation == "sequence" and kl_in == "loss" and kl_coef > 0:
        raise ValueError("a KL in the loss is paid per token: use kl_in='reward' with aggregation='sequence'")
    if kl_coef > 0 and not reference:
        raise ValueError(
            f"kl_coef is {kl_coef}, but there is no reference to keep near: give one, or set it to 0"
        )


@torch.no_grad()
def collect_groups(
    pieces: PolicyPieces,
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
        rewards = rewards - kl_coef * masked_sum(kl_estimate(found.old_logps, ref_logps), found.wanted, dim=1)
    advantages = _ESTIMATORS[estimator](rewards, group_size=group_size)
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
        wanted=found.wanted,
        scores=found.scores,
        old_logps=found.old_logps,
        ref_logps=ref_logps,
        advantages=advantages,
    )
    return batch, metrics


def unit_losses(
    logps: Tensor,
    batch: GroupBatch,
    *,
    aggregation: Aggregation,
    clip: float,
    clip_high: float | None,
    kl_coef: float,
) -> tuple[Tensor, Tensor]:
    """Loss and ratio of each unit: tokens ``[B, S]``, or sequences ``[B, 1]``.

    Args:
        logps: ``[B, S]`` of the policy that is being trained.
        batch: the same rows.
        aggregation: only ``sequence`` matters here.
        clip, clip_high: see ``functional.grpo_loss``.
        kl_coef: price of a nat of k3 in the loss; 0 where the reward pays it.
    """
    old, ref = batch.old_logps, batch.ref_logps
    if aggregation == "sequence":
        logps, old, ref = (masked_sum(each, batch.wanted, dim=1).unsqueeze(1) for each in (logps, old, ref))
    advantages = batch.advantages.unsqueeze(1).expand_as(logps)
    loss = grpo_loss(logps, old, advantages, clip=clip, clip_high=clip_high, ref_logp=ref, kl_coef=kl_coef)
    return loss, (logps.detach() - old).exp()


def unit_weights(wanted: Tensor, *, aggregation: Aggregation, max_tokens: int) -> Tensor:
    """Weights of the units of a whole minibatch, ``[B, S]`` or ``[B, 1]``; the loss is their weighted sum."""
    if aggregation == "sequence":
        return torch.full((len(wanted), 1), 1 / len(wanted), device=wanted.device)
    return aggregation_weights(wanted, aggregation=aggregation, max_tokens=max_tokens)


_UPDATE = ("loss/policy", "clip/fraction", "ratio/mean", "kl/update_nats_per_token")


def update_groups(
    batch: GroupBatch,
    optimisation: Optimisation,
    *,
    epochs: int,
    minibatches: int,
    aggregation: Aggregation,
    clip: float,
    clip_high: float | None,
    kl_coef: float,
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
        wanted = batch.wanted[index]
        found = unit_weights(wanted, aggregation=aggregation, max_tokens=max_new_tokens)
        weights = found.new_zeros(len(batch.ids), found.shape[1]).index_copy(0, index, found)
        for rows in micro_rows(index, micro_batch_size=micro_batch_size, accelerator=accelerator):
            part, weight = batch.rows(rows), weights[rows]
            now = optimisation.module(part.hidden, part.ids, part.mask, part.wanted, temperature=temperature)
            losses, ratio = unit_losses(
                now.logps,
                part,
                aggregation=aggregation,
                clip=clip,
                clip_high=clip_high,
                kl_coef=kl_coef,
            )
            loss = (weight * losses).sum()
            # Processes average their gradients; the factor turns that average back into a sum.
            optimisation.backward(loss * accelerator.num_processes, {"rows": rows, "token_ids": part.ids})
            if not norms:
                totals.largest("ratio/first_error", (ratio - 1).abs().max())
            units = part.wanted if aggregation != "sequence" else torch.ones_like(ratio, dtype=torch.bool)
            share = units / (wanted.sum() if aggregation != "sequence" else len(index))
            clipped = (ratio < 1 - clip) | (ratio > 1 + high)
            drift = kl_estimate(part.old_logps, now.logps.detach())
            values = (
                loss.detach(),
                (share * clipped).sum(),
                (share * ratio).sum(),
                masked_sum(drift, part.wanted) / wanted.sum(),
            )
            totals.add(dict(zip(_UPDATE, values, strict=True)))
        norms.append(optimisation.step())
    found = totals.means(len(norms), _UPDATE, ["ratio/first_error"])
    return found | {"grad_norm": sum(norms) / len(norms)}


def train_grpo(
    pieces: PolicyPieces,
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
    micro_batch_size: int | None = None,
    resume: Resume | None = None,
) -> None:
    """Train the policy on ``prompts_per_step * group_size`` completions per step.

    Every random number comes from ``seed`` and the step: a resumed run is the same. Neither
    ``micro_batch_size`` nor the number of processes changes the trajectory beyond rounding. ``clip_high`` is
    DAPO's upper limit of the ratio, 1 + clip_high; None takes ``clip``.

    Raises:
        ValueError: if the choices of a method do not fit together (see the head of this file), the scorer has
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
            clip=clip,
            clip_high=clip_high,
            kl_coef=kl_coef if kl_in == "loss" else 0.0,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed * 1_000_003 + step,
            micro_batch_size=micro_batch_size,
        )
        metrics |= {"learning_rate": rate, "seconds/update": time.perf_counter() - started}
        progress.record(step, metrics)
