"""Train a reward model on preference pairs with the Bradley-Terry loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_lite.functional import bradley_terry_loss, centring_penalty
from rlhf_lite.models.reward_model import RewardModel
from rlhf_lite.training.step import Hooks, Optimisation, Resume, batch_rows, micro_batches
from rlhf_lite.types import Preference


def pair_texts(pairs: Sequence[Preference]) -> list[str]:
    """Chosen texts, then rejected texts, each prompt and answer together."""
    return [p.prompt + p.chosen for p in pairs] + [p.prompt + p.rejected for p in pairs]


def score_pairs(model: RewardModel, pairs: Sequence[Preference]) -> tuple[Tensor, Tensor]:
    """Raw scores ``[B]`` of the chosen and of the rejected texts."""
    scores = model.score_texts(pair_texts(pairs))
    return scores[: len(pairs)], scores[len(pairs) :]


def _batch_scores(model: RewardModel, module: nn.Module, texts: Sequence[str]) -> Tensor:
    """Scores ``[B]`` of a batch of texts, with gradient.

    The shorter and the longer half go through the model apart: the two texts of a pair differ in length, and
    padding costs as much as text.
    """
    order = torch.tensor(sorted(range(len(texts)), key=lambda i: len(texts[i])))
    parts = []
    for rows in order.tensor_split(min(2, len(texts))):
        ids, mask = model.encode([texts[i] for i in rows.tolist()])
        parts.append(module(model.body.trunk(ids, mask), mask))
    return torch.cat(parts)[order.argsort()]


def train_reward(
    model: RewardModel,
    pairs: Sequence[Preference],
    *,
    epochs: int,
    batch_size: int,
    accumulation: int,
    learning_rate: float,
    warmup_steps: int,
    max_grad_norm: float,
    weight_decay: float,
    centre: float,
    seed: int,
    accelerator: Accelerator,
    hooks: Hooks,
    resume: Resume | None = None,
) -> None:
    """Train adapter and score head on ``pairs``.

    Args:
        model: a new or partly trained reward model.
        pairs: preferences; the loss of each counts the same.
        centre: weight of the penalty that keeps scores around zero.

    Metrics: ``loss/nats_per_pair`` (log 2 = 0.693 for a model that knows nothing), ``accuracy/fraction`` on
    the batch before its own update, ``margin/score``, ``grad_norm``, ``learning_rate``.
    """
    steps = reward_steps(len(pairs), batch_size=batch_size, epochs=epochs)
    optimisation = Optimisation(
        model,
        accelerator=accelerator,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        total_steps=steps,
        max_grad_norm=max_grad_norm,
        weight_decay=weight_decay,
    )
    # Characters stand in for tokens: only the order matters.
    lengths = [len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in pairs]
    done = 0
    if resume is not None:
        optimisation.load(resume.tensors)
        done = resume.step
    for step in range(done, steps):
        # Dropout draws from torch's global generator; a resumed run must draw the same.
        torch.manual_seed(seed * 1_000_003 + step)
        rows = batch_rows(len(pairs), batch_size, step, seed=seed, lengths=lengths)
        rate, sums = optimisation.learning_rate, torch.zeros(3)
        for part in micro_batches(rows, accumulation=accumulation, accelerator=accelerator):
            scores = _batch_scores(model, optimisation.module, pair_texts([pairs[row] for row in part]))
            chosen, rejected = scores[: len(part)], scores[len(part) :]
            losses = bradley_terry_loss(chosen, rejected)
            penalty = centre * centring_penalty(chosen, rejected)
            optimisation.backward((losses + penalty).sum() / len(rows) * accelerator.num_processes)
            margin = (chosen - rejected).detach()
            sums += torch.stack([losses.detach().sum(), (margin > 0).float().sum(), margin.sum()])
        norm = optimisation.step()
        loss, accuracy, margin = (accelerator.reduce(sums, "sum") / len(rows)).tolist()
        hooks.on_step(
            step + 1,
            {
                "loss/nats_per_pair": loss,
                "accuracy/fraction": accuracy,
                "margin/score": margin,
                "grad_norm": norm,
                "learning_rate": rate,
            },
        )
        if hooks.save is not None and ((step + 1) % hooks.save_every == 0 or step + 1 == steps):
            hooks.save(step + 1, optimisation.tensors(), {})


def reward_steps(n_pairs: int, *, batch_size: int, epochs: int) -> int:
    """Optimiser steps of a training run: whole batches only."""
    if n_pairs < batch_size:
        raise ValueError(f"a batch of {batch_size} pairs needs at least that many pairs, got {n_pairs}")
    return epochs * (n_pairs // batch_size)
