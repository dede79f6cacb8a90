"""Train a reward model on preference pairs with the Bradley-Terry loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf_lite.data.collate import pad_right
from rlhf_lite.functional import bradley_terry_loss, centring_penalty
from rlhf_lite.models.reward_model import RewardModel
from rlhf_lite.training.batches import BatchMeans, compute_by_length
from rlhf_lite.training.pairs import TextPair
from rlhf_lite.training.settings import OptimiserSettings, RunSettings
from rlhf_lite.training.step import Optimisation, Progress, evaluating, require_frozen_trunk
from rlhf_lite.types import Preference


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """What the training of a reward model is told.

    Attributes:
        centre: weight of the penalty (r_chosen + r_rejected)², which keeps scores around zero.
    """

    centre: float = 0.01


def pair_texts(pairs: Sequence[Preference]) -> list[str]:
    """Chosen texts, then rejected texts, each prompt and answer together."""
    return [p.prompt + p.chosen for p in pairs] + [p.prompt + p.rejected for p in pairs]


def score_pairs(model: RewardModel, pairs: Sequence[Preference]) -> tuple[Tensor, Tensor]:
    """Raw scores ``[B]`` of the chosen and of the rejected texts."""
    scores = model.score_texts(pair_texts(pairs), [p.prompt for p in pairs] * 2)
    return scores[: len(pairs)], scores[len(pairs) :]


def _batch_scores(model: RewardModel, module: nn.Module,
                  pairs: Sequence[TextPair]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Scores ``[B]`` of chosen and rejected texts, with gradient, and the tokens they were computed from."""
    texts = [p.chosen_ids for p in pairs] + [p.rejected_ids for p in pairs]
    lengths = [p.characters[0] for p in pairs] + [p.characters[1] for p in pairs]

    def compute(rows: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        pad = model.tokenizer.pad_token_id
        ids, mask = pad_right([texts[i] for i in rows], pad, device=model.body.device)
        return module(model.body.trunk(ids, mask), mask), {"ids": ids, "mask": mask}

    scores, seen = compute_by_length(lengths, compute)
    return *scores.chunk(2), seen


def pair_metrics(model: RewardModel, pairs: Sequence[Preference]) -> dict[str, float]:
    """Loss in nats per pair and accuracy on pairs, in evaluation mode; equal scores count half."""
    with evaluating(model):
        chosen, rejected = score_pairs(model, pairs)
    right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
    loss = float(bradley_terry_loss(chosen, rejected).mean())
    return {"loss/nats_per_pair": loss, "accuracy/fraction": float(right.mean())}


_METRICS = ("loss/nats_per_pair", "loss/centring", "accuracy/fraction", "margin/score")


def train_reward(model: RewardModel, pairs: Sequence[TextPair], settings: RewardSettings, *,
                 optimiser: OptimiserSettings, run: RunSettings,
                 validation: Sequence[Preference] = ()) -> None:
    """Train adapter and score head on ``pairs``.

    The loss of a pair is -log σ(r_chosen - r_rejected), the negative log-likelihood of a Bradley-Terry model
    (Ouyang et al. 2022, equation 1), plus the centring penalty.

    Args:
        model: a new or partly trained reward model.
        pairs: from ``pairs.encode_texts``; the loss of each counts the same.
        settings: of the loss.
        validation: held-out preferences, or none.

    Metrics: ``loss/nats_per_pair`` (log 2 = 0.693 for a model that knows nothing), ``loss/centring`` (the
    penalty times its weight; the sum of the two is minimised), ``accuracy/fraction`` on the batch before its
    own update, ``margin/score``, ``grad_norm``, ``learning_rate``; with ``validation`` also
    ``val_loss/nats_per_pair`` and ``val_accuracy/fraction``.
    """
    require_frozen_trunk(model.body)
    model.body.checkpoint_top(run.gradient_checkpointing)
    optimisation = Optimisation(model, optimiser, run)
    progress = Progress(optimisation, run)
    for step, rows, parts in progress.batches([max(pair.characters) for pair in pairs]):
        rate, means = optimisation.learning_rate, BatchMeans(_METRICS, run.accelerator)
        for part in parts:
            chosen, rejected, seen = _batch_scores(model, optimisation.module, [pairs[row] for row in part])
            losses = bradley_terry_loss(chosen, rejected)
            penalty = settings.centre * centring_penalty(chosen, rejected)
            loss = (losses + penalty).sum() / len(rows)
            optimisation.backward(loss, {"rows": torch.tensor(part)} | seen)
            margin = chosen - rejected
            values = (losses, penalty, (margin > 0).float(), margin)
            means.add(dict(zip(_METRICS, values, strict=True)))
        norm = optimisation.step()
        metrics = means.result() | {"grad_norm": norm, "learning_rate": rate}
        if validation and progress.due(step, run.validate_every):
            metrics |= {f"val_{name}": value for name, value in pair_metrics(model, validation).items()}
        progress.record(step, metrics)
