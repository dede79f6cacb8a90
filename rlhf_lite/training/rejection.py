"""Rejection-sampling fine-tuning: sample n answers to each prompt, keep the best one, imitate it; repeat.

Source: RAFT (Dong et al. 2023, arXiv:2304.06767); Llama 2 (Touvron et al. 2023) calls it rejection sampling.
With one round from the reference it distils best-of-n into the weights. It needs no critic, no ratio and no
reference, and nothing but n and the number of rounds keeps the policy near where it started.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from accelerate import Accelerator

from rlhf_lite.rollout.best_of_n import choose_best
from rlhf_lite.rollout.sampler import row_seeds
from rlhf_lite.training.rollouts import Scored, roll_out
from rlhf_lite.training.setup import PolicyGradientSetup
from rlhf_lite.training.sft import Example, train_sft
from rlhf_lite.training.step import Hooks, Resume, batch_rows


def winners(batch: Scored, *, n: int) -> tuple[list[Example], list[float]]:
    """The best of every n adjacent rows, of equals the first, as training examples, with their scores.

    The end token is part of an example where it was sampled; a response that was cut has none to imitate.
    """
    scores = batch.scores.view(-1, n)
    place = choose_best(scores)
    rows = torch.arange(len(place), device=place.device) * n + place
    examples = []
    for ids, mask, response_mask in zip(
        batch.ids[rows], batch.mask[rows], batch.response_mask[rows], strict=True
    ):
        examples.append(Example(ids[mask & ~response_mask].tolist(), ids[response_mask].tolist()))
    return examples, batch.scores[rows].tolist()


def train_rejection(
    pieces: PolicyGradientSetup,
    prompts: Sequence[list[int]],
    *,
    rounds: int,
    prompts_per_round: int,
    n: int,
    max_new_tokens: int,
    temperature: float,
    steps_per_round: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    max_grad_norm: float,
    seed: int,
    accelerator: Accelerator,
    hooks: Hooks,
    weight_decay: float = 0.0,
    accumulation: int = 1,
    schedule: str = "linear",
    micro_batch_size: int | None = None,
    resume: Resume | None = None,
) -> None:
    """Train the policy on the winners of ``rounds`` rounds; each round starts with a new optimiser.

    Every random number comes from ``seed`` and the round: a run that is resumed after a round is the same.
    ``hooks`` are called once per round, not per optimiser step.

    Args:
        pieces: as for GRPO; the reference only measures the distance, and may be None.
        prompts: token ids.
        rounds: of sampling and imitating.
        prompts_per_round: how many prompts are answered n times each.
        n: candidates per prompt, at least 2.
        max_new_tokens: length limit of a candidate.
        temperature: of the sampling.
        steps_per_round, batch_size, learning_rate, warmup_steps, max_grad_norm, weight_decay, accumulation,
            schedule: of the fine-tuning, see ``sft.train_sft``.
        micro_batch_size: rows per forward pass when candidates are scored.

    Metrics of a round: those of ``rollouts.roll_out`` for all candidates, ``reward/best`` (the winners' mean
    score), ``loss/nats_per_token`` (mean over the round's steps), ``grad_norm`` (likewise) and
    ``seconds/update``.

    Raises:
        ValueError: if n < 2, or a batch is larger than the number of winners.
    """
    if n < 2:
        raise ValueError(f"n must be at least 2: the best of {n} is no choice")
    if batch_size > prompts_per_round:
        raise ValueError(f"{prompts_per_round} winners a round cannot fill a batch of {batch_size}")
    trained = {name: p for name, p in pieces.scorer.named_parameters() if p.requires_grad}
    done = 0
    if resume is not None:
        done = resume.step
        for name, parameter in trained.items():
            parameter.data.copy_(resume.tensors[f"weight/{name}"])
    for number in range(done, rounds):
        rows = batch_rows(len(prompts), prompts_per_round, number, seed=seed)
        batch, metrics = roll_out(
            pieces,
            [prompts[row] for row in rows],
            seeds=row_seeds(seed, number, rows=len(rows) * n),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            repeats=n,
            micro_batch_size=micro_batch_size,
            accelerator=accelerator,
        )
        examples, best = winners(batch, n=n)
        started, lines = time.perf_counter(), []
        train_sft(
            pieces.scorer,
            examples,
            validation=[],
            pad_token_id=pieces.pad_token_id,
            steps=steps_per_round,
            batch_size=batch_size,
            accumulation=accumulation,
            schedule=schedule,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            max_grad_norm=max_grad_norm,
            weight_decay=weight_decay,
            validate_every=steps_per_round,
            seed=seed * 1_000_003 + number,
            accelerator=accelerator,
            hooks=Hooks(lambda _, line, lines=lines: lines.append(line), bad_batches=hooks.bad_batches),
        )
        # The accelerator remembers every optimiser it prepared; without this they would add up.
        accelerator.free_memory()
        metrics |= {
            "reward/best": sum(best) / len(best),
            "loss/nats_per_token": sum(line["loss/nats_per_token"] for line in lines) / len(lines),
            "grad_norm": sum(line["grad_norm"] for line in lines) / len(lines),
            "seconds/update": time.perf_counter() - started,
        }
        hooks.on_step(number + 1, metrics)
        if hooks.save is not None and ((number + 1) % hooks.save_every == 0 or number + 1 == rounds):
            hooks.save(number + 1, {f"weight/{name}": p.detach() for name, p in trained.items()}, {})
