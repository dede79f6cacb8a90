"""Train a reward model on preference pairs with the Bradley-Terry loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_lite.functional import bradley_terry_loss, centring_penalty
from rlhf_lite.models.reward_model import RewardModel
from rlhf_lite.training.batches import epoch_steps, split_by_length
from rlhf_lite.training.checks import require_frozen_trunk
from rlhf_lite.training.progress import Progress
from rlhf_lite.training.step import (
    Hooks,
    Optimisation,
    Resume,
    batch_rows,
    evaluating,
    micro_batches,
)
from rlhf_lite.types import Preference


def pair_texts(pairs: Sequence[Preference]) -> list[str]:
    """Chosen texts, then rejected texts, each prompt and answer together."""
    return [p.prompt + p.chosen for p in pairs] + [p.prompt + p.rejected for p in pairs]


def score_pairs(model: RewardModel, pairs: Sequence[Preference]) -> tuple[Tensor, Tensor]:
    """Raw scores ``[B]`` of the chosen and of the rejected texts."""
    scores = model.score_texts(pair_texts(pairs))
    return scores[: len(pairs)], scores[len(pairs) :]


def _batch_scores(
    model: RewardModel, module: nn.Module, texts: Sequence[str], device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    """Scores ``[B]`` of a batch of texts, with gradient, and the tokens they were computed from."""
    scores, seen = torch.zeros(len(texts), device=device), {}
    for number, rows in enumerate(split_by_length([len(text) for text in texts])):
        ids, mask = (tensor.to(device) for tensor in model.encode([texts[i] for i in rows]))
        part = module(model.body.trunk(ids, mask), mask)
        scores = scores.index_put((torch.tensor(rows, device=device),), part)
        seen |= {f"ids-{number}": ids, f"mask-{number}": mask}
    return scores, seen


def pair_metrics(model: RewardModel, pairs: Sequence[Preference]) -> dict[str, float]:
    """Loss in nats per pair and accuracy on pairs, in evaluation mode; equal scores count half."""
    with evaluating(model):
        chosen, rejected = score_pairs(model, pairs)
    right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
    return {
        "loss/nats_per_pair": float(bradley_terry_loss(chosen, rejected).mean()),
        "accuracy/fraction": float(right.mean()),
    }


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
    schedule: str = "linear",
    gradient_checkpointing: bool = False,
    validation: Sequence[Preference] = (),
    validate_every: int = 50,
) -> None:
    """Train adapter and score head on ``pairs``.

    Args:
        model: a new or partly trained reward model.
        pairs: preferences; the loss of each counts the same.
        centre: weight of the penalty that keeps scores around zero.
        validation: held-out preferences, or none.
        validate_every: steps between measurements on them; the last step is always measured.

    Metrics: ``loss/nats_per_pair`` (log 2 = 0.693 for a model that knows nothing), ``loss/centring`` (the
    penalty times its weight; the sum of the two is minimised), ``accuracy/fraction`` on
    the batch before its own update, ``margin/score``, ``grad_norm``, ``learning_rate``; with ``validation``
    also ``val_loss/nats_per_pair`` and ``val_accuracy/fraction``.
    """
    require_frozen_trunk(model.body)
    model.body.checkpoint_top(gradient_checkpointing)
    steps = reward_steps(len(pairs), batch_size=batch_size, epochs=epochs)
    optimisation = Optimisation(
        model,
        accelerator=accelerator,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        total_steps=steps,
        max_grad_norm=max_grad_norm,
        weight_decay=weight_decay,
        schedule=schedule,
        bad_batches=hooks.bad_batches,
    )
    progress = Progress(optimisation, steps=steps, hooks=hooks, resume=resume)
    # Characters stand in for tokens: only the order matters.
    lengths = [len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in pairs]
    device = accelerator.device
    for step in progress:
        # Dropout draws from torch's global generator; a resumed run must draw the same.
        torch.manual_seed(seed * 1_000_003 + step)
        rows = batch_rows(len(pairs), batch_size, step, seed=seed, lengths=lengths)
        rate, sums = optimisation.learning_rate, torch.zeros(4, device=device)
        for part in micro_batches(rows, accumulation=accumulation, accelerator=accelerator):
            texts = pair_texts([pairs[row] for row in part])
            scores, seen = _batch_scores(model, optimisation.module, texts, device)
            chosen, rejected = scores[: len(part)], scores[len(part) :]
            losses = bradley_terry_loss(chosen, rejected)
            penalty = centre * centring_penalty(chosen, rejected)
            # Processes average their gradients; the factor turns that average back into a sum.
            loss = (losses + penalty).sum() / len(rows) * accelerator.num_processes
            optimisation.backward(loss, {"rows": torch.tensor(part)} | seen)
            margin = (chosen - rejected).detach()
            right = (margin > 0).float()
            sums += torch.stack([x.detach().sum() for x in (losses, penalty, right, margin)])
        norm = optimisation.step()
        loss, centring, accuracy, margin = (accelerator.reduce(sums, "sum") / len(rows)).tolist()
        metrics = {
            "loss/nats_per_pair": loss,
            "loss/centring": centring,
            "accuracy/fraction": accuracy,
            "margin/score": margin,
            "grad_norm": norm,
            "learning_rate": rate,
        }
        if validation and progress.due(step, validate_every):
            metrics |= {f"val_{name}": value for name, value in pair_metrics(model, validation).items()}
        progress.record(step, metrics)


def reward_steps(n_pairs: int, *, batch_size: int, epochs: int) -> int:
    """Optimiser steps of a training run: whole batches only."""
    return epoch_steps(n_pairs, batch_size=batch_size, epochs=epochs)
