"""Rejection-sampling fine-tuning: sample n answers to each prompt, keep the best one, imitate it; repeat.

Source: RAFT (Dong et al. 2023, arXiv:2304.06767); Llama 2 (Touvron et al. 2023) calls it rejection sampling.
With one round from the reference it distils best-of-n into the weights. It needs no critic, no ratio and no
reference, and nothing but n and the number of rounds keeps the policy near where it started.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rlhf_lite.rollout.best_of_n import choose_best
from rlhf_lite.rollout.sampler import row_seeds, step_seed
from rlhf_lite.training.batches import batch_rows
from rlhf_lite.training.rollouts import Batch, PolicyGradientSetup, roll_out
from rlhf_lite.training.settings import Hooks, OptimiserSettings, RunSettings
from rlhf_lite.training.sft import Example, train_sft


@dataclass(frozen=True, kw_only=True)
class RejectionSettings:
    """What rejection sampling is told.

    Attributes:
        n: candidates per prompt, at least 2.
        max_new_tokens: length limit of a candidate.
        temperature: of the sampling.
        sft_steps: optimiser steps of the fine-tuning in each round.
        sft_batch_size: winners per optimiser step.
    """

    n: int
    max_new_tokens: int
    sft_steps: int
    sft_batch_size: int
    temperature: float = 1.0


def winners(batch: Batch, *, n: int) -> tuple[list[Example], list[float]]:
    """The best of every n adjacent rows, of equals the first, as training examples, with their scores.

    The end token is part of an example where it was sampled; a response that was cut has none to imitate.
    """
    scores = batch.scores.view(-1, n)
    place = choose_best(scores)
    best = batch.rows(torch.arange(len(place), device=place.device) * n + place)
    rows = zip(best.ids, best.mask & ~best.response_mask, best.response_mask, strict=True)
    examples = [Example(ids[prompt].tolist(), ids[response].tolist()) for ids, prompt, response in rows]
    return examples, best.scores.tolist()


def train_rejection(setup: PolicyGradientSetup, prompts: Sequence[list[int]], settings: RejectionSettings, *,
                    optimiser: OptimiserSettings, run: RunSettings) -> None:
    """Train the policy on the winners of ``run.steps`` rounds; each round starts with a new optimiser.

    Every random number comes from the seed and the round: a run that is resumed after a round is the same.
    The hooks are called once per round, not per optimiser step.

    Args:
        setup: as for GRPO; the reference only measures the distance, and may be None.
        prompts: token ids.
        settings: of sampling and fine-tuning.
        optimiser: of each round.
        run: its ``steps`` are rounds, its ``batch_size`` prompts per round.

    Metrics of a round: those of ``rollouts.roll_out`` for all candidates, ``reward/best`` (the winners' mean
    score), ``loss/nats_per_token`` (mean over the round's steps), ``grad_norm`` (likewise) and
    ``seconds/update``.

    Raises:
        ValueError: if n < 2, or a batch is larger than the number of winners.
    """
    n, hooks = settings.n, run.hooks
    if n < 2:
        raise ValueError(f"n must be at least 2: the best of {n} is no choice")
    if settings.sft_batch_size > run.batch_size:
        raise ValueError(f"{run.batch_size} winners a round cannot fill a batch of {settings.sft_batch_size}")
    trained = {name: p for name, p in setup.scorer.named_parameters() if p.requires_grad}
    done = 0
    if run.resume is not None:
        done = run.resume.step
        for name, parameter in trained.items():
            parameter.data.copy_(run.resume.tensors[f"weight/{name}"])
    for number in range(done, run.steps):
        rows = batch_rows(len(prompts), run.batch_size, number, seed=run.seed)
        batch, metrics = roll_out(setup, [prompts[row] for row in rows],
                                  seeds=row_seeds(run.seed, number, rows=len(rows) * n),
                                  max_new_tokens=settings.max_new_tokens, temperature=settings.temperature,
                                  repeats=n, micro_batch_size=run.micro_batch_size,
                                  accelerator=run.accelerator)
        examples, best = winners(batch, n=n)
        started, lines = time.perf_counter(), []
        recording = Hooks(lambda _, line, lines=lines: lines.append(line), bad_batches=hooks.bad_batches)
        one_round = replace(run, steps=settings.sft_steps, batch_size=settings.sft_batch_size,
                            seed=step_seed(run.seed, number), hooks=recording, resume=None)
        train_sft(setup.scorer, examples, pad_token_id=setup.pad_token_id, optimiser=optimiser, run=one_round)
        metrics |= {"reward/best": sum(best) / len(best),
                    "loss/nats_per_token": sum(line["loss/nats_per_token"] for line in lines) / len(lines),
                    "grad_norm": sum(line["grad_norm"] for line in lines) / len(lines),
                    "seconds/update": time.perf_counter() - started}
        hooks.on_step(number + 1, metrics)
        if hooks.save is not None and ((number + 1) % hooks.save_every == 0 or number + 1 == run.steps):
            hooks.save(number + 1, {f"weight/{name}": p.detach() for name, p in trained.items()}, {})
