"""The loop that PPO, GRPO and RLOO share: sample, estimate advantages, then a few clipped updates.

One step is :func:`collect` and :func:`update`. What the algorithms differ in is an :class:`Algorithm`: how an
advantage is estimated, and what the loss of a token or a completion is. ``ppo`` and ``grpo`` hold one each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_lite.functional import kl_estimate
from rlhf_lite.models.policy import TokenScores
from rlhf_lite.rollout.sampler import row_seeds, step_seed
from rlhf_lite.training.batches import batch_rows, micro_batches, minibatch_rows
from rlhf_lite.training.rollouts import Batch, PolicyGradientSetup, roll_out, trainable_module
from rlhf_lite.training.settings import OptimiserSettings, RunSettings
from rlhf_lite.training.step import Optimisation, Progress


@dataclass(frozen=True, kw_only=True)
class PolicyGradientSettings:
    """What every policy-gradient algorithm is told.

    Attributes:
        max_new_tokens: length limit of a completion.
        kl_coef: β, the price of one nat of KL to the reference.
        temperature: of the sampling; the policy that is trained is the tempered one.
        epochs: passes over each step's samples.
        minibatches: updates per pass.
        clip: the ratio of new and old probability is clipped to 1 ± clip.
    """

    max_new_tokens: int
    kl_coef: float
    temperature: float = 1.0
    epochs: int = 1
    minibatches: int = 1
    clip: float = 0.2


class UnitLosses(NamedTuple):
    """Losses of the units of some rows: tokens ``[B, S]``, or whole completions ``[B, 1]``.

    Attributes:
        loss: with gradient.
        ratio: of new and old probability, without gradient.
        clipped: bool, whether the ratio is beyond its limits.
        terms: terms of the loss by their names in the log.
    """

    loss: Tensor
    ratio: Tensor
    clipped: Tensor
    terms: dict[str, Tensor]


class Algorithm(Protocol):
    """What PPO and GRPO differ in."""

    settings: PolicyGradientSettings
    group_size: int
    """Completions per prompt."""
    terms: tuple[str, ...]
    """Names of the terms of the loss."""

    def check(self, setup: PolicyGradientSetup) -> None:
        """Raise a ValueError if the algorithm cannot work with this setup."""

    def advantages(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        """The batch with its advantages, and what to log about them."""

    def weights(self, response_mask: Tensor) -> Tensor:
        """Weights ``[B, S]`` or ``[B, 1]`` of a whole minibatch's units: its loss is the weighted sum."""

    def losses(self, batch: Batch, new: TokenScores) -> UnitLosses:
        """Losses of some rows, from what the policy that is being trained says of them."""

    def after_step(self, metrics: dict[str, float], completions: int) -> dict[str, float]:
        """Adapt to what was measured; returns the numbers that a checkpoint must hold."""

    def load(self, numbers: dict[str, float]) -> None:
        """Continue from what :meth:`after_step` returned."""


@torch.no_grad()
def collect(algorithm: Algorithm, setup: PolicyGradientSetup, prompts: Sequence[list[int]], *,
            seeds: Sequence[int], micro_batch_size: int | None = None,
            accelerator: Accelerator | None = None) -> tuple[Batch, dict[str, float]]:
    """Sample ``group_size`` completions per prompt, score them, and estimate advantages.

    Arguments as for ``rollouts.roll_out``; the metrics are its metrics and those of the advantages.

    Raises:
        ValueError: if the algorithm cannot work with the setup.
    """
    algorithm.check(setup)
    batch, metrics = roll_out(setup, prompts, seeds=seeds, max_new_tokens=algorithm.settings.max_new_tokens,
                              temperature=algorithm.settings.temperature, repeats=algorithm.group_size,
                              micro_batch_size=micro_batch_size, accelerator=accelerator)
    batch, more = algorithm.advantages(batch)
    return batch, metrics | more


def update(algorithm: Algorithm, batch: Batch, optimisation: Optimisation, *, seed: int,
           micro_batch_size: int | None = None) -> dict[str, float]:
    """Several epochs of clipped updates on one batch; returns the mean of each metric over the updates.

    Minibatches are cut from all completions: the advantages are fixed by now. The loss of a minibatch is a
    sum with weights, such as 1 / tokens for a mean over tokens: it may be added up in parts, over
    micro-batches and over processes, and stays the same.

    ``ratio/first_error`` is the largest |ρ - 1| in the very first minibatch: nothing has moved yet, so that
    it must be zero up to rounding. It is the cheapest check that sampling, masks and shift agree.
    """
    settings, accelerator = algorithm.settings, optimisation.accelerator
    names = (*algorithm.terms, "clip/fraction", "ratio/mean", "kl/update_nats_per_token")
    # This process's contributions to the means: those of all parts and processes sum up to them.
    sums, norms, first_error = dict.fromkeys(names, 0.0), [], 0.0
    for index in minibatch_rows(len(batch), epochs=settings.epochs, minibatches=settings.minibatches,
                                seed=seed):
        counts, places = batch.response_mask[index], torch.arange(len(index))
        weights, token_weights = algorithm.weights(counts), counts / counts.sum()
        for place in micro_batches(places, size=micro_batch_size, accelerator=accelerator):
            part, weight, token = batch.rows(index[place]), weights[place], token_weights[place]
            new = optimisation.module(part.hidden, part.ids, part.mask, part.response_mask,
                                      temperature=settings.temperature)
            losses = algorithm.losses(part, new)
            loss = (weight * losses.loss).sum()
            optimisation.backward(loss, {"rows": index[place], "token_ids": part.ids})
            if not norms:
                first_error = max(first_error, float((losses.ratio - 1).abs().max()))
            unit = token if losses.ratio.shape == token.shape else 1 / len(index)
            shares = {name: weight * term.detach() for name, term in losses.terms.items()} | {
                "clip/fraction": unit * losses.clipped.float(),
                "ratio/mean": unit * losses.ratio,
                "kl/update_nats_per_token": token * kl_estimate(part.old_logps, new.logps.detach()),
            }
            for name, share in shares.items():
                sums[name] += float(share.sum())
        norms.append(optimisation.step())
    totals = accelerator.reduce(torch.tensor(list(sums.values()), device=accelerator.device), "sum")
    error = accelerator.gather(torch.tensor([first_error], device=accelerator.device)).max()
    means = dict(zip(sums, (totals / len(norms)).tolist(), strict=True))
    return means | {"ratio/first_error": float(error), "grad_norm": sum(norms) / len(norms)}


def train(algorithm: Algorithm, setup: PolicyGradientSetup, prompts: Sequence[list[int]], *,
          optimiser: OptimiserSettings, run: RunSettings) -> None:
    """Train the policy of ``setup`` on ``run.batch_size`` prompts per step.

    Every random number comes from the seed and the step: a resumed run is the same. Neither
    ``run.micro_batch_size`` nor the number of processes changes the trajectory beyond rounding.

    The metrics are those of :func:`collect` and :func:`update`; the book's metrics page explains each.

    Raises:
        ValueError: if the algorithm cannot work with the setup, or there are more minibatches than
            completions.
    """
    settings, group_size = algorithm.settings, algorithm.group_size
    if settings.minibatches > run.batch_size * group_size:
        raise ValueError(f"{run.batch_size} x {group_size} completions cannot make {settings.minibatches} "
                         "minibatches")
    updates = settings.epochs * settings.minibatches
    optimisation = Optimisation(trainable_module(setup.scorer), optimiser, run, updates_per_step=updates)
    if run.resume is not None:
        algorithm.load(dict(run.resume.numbers))
    progress = Progress(optimisation, run)
    for step in progress:
        rows = batch_rows(len(prompts), run.batch_size, step, seed=run.seed)
        batch, metrics = collect(algorithm, setup, [prompts[row] for row in rows],
                                 seeds=row_seeds(run.seed, step, rows=len(rows) * group_size),
                                 micro_batch_size=run.micro_batch_size, accelerator=run.accelerator)
        started, rate = time.perf_counter(), optimisation.learning_rate
        seed = step_seed(run.seed, step)
        metrics |= update(algorithm, batch, optimisation, seed=seed, micro_batch_size=run.micro_batch_size)
        metrics |= {"learning_rate": rate, "seconds/update": time.perf_counter() - started}
        progress.record(step, metrics, numbers=algorithm.after_step(metrics, len(batch)))
