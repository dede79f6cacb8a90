"""The judges of ``rlhf-lite eval``: made ready, and measured against people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from rlhf_lite.config import PipelineConfig
from rlhf_lite.evaluation.compare import Scores
from rlhf_lite.evaluation.gold import GoldJudge, agreement_with_humans, fit_gold_judge
from rlhf_lite.evaluation.statistics import brier_score, calibration_bins, wilson_interval
from rlhf_lite.models.adapters import using_adapter
from rlhf_lite.models.policy import Policy
from rlhf_lite.models.reward_model import RewardModel, load_reward_model
from rlhf_lite.pipeline.sources import Texts
from rlhf_lite.training.reward import score_pairs

__all__ = ["gold_judge", "on_bare_model", "on_human_pairs", "rating_bins", "reward_scores"]

_BINS = 5


def gold_judge(policy: Policy | None, texts: Texts | None) -> tuple[GoldJudge | None, dict[str, Any]]:
    """The gold judge on the bundled model, and how far it agrees with people."""
    if policy is None or texts is None:
        return None, {}
    max_tokens = PipelineConfig().data.max_tokens
    judge = fit_gold_judge(policy.model, policy.tokenizer, texts.gold, max_tokens=max_tokens)
    predicted = judge([row.text for row in texts.gold_check])  # once, for both of what follows
    gap = PipelineConfig().reward.eval_min_gap
    found = agreement_with_humans(lambda _: predicted, texts.gold_check, min_gap=gap)
    actual = np.array([row.mean for row in texts.gold_check])
    found |= {"n_fitted": len(texts.gold), "bins": rating_bins(predicted, actual)}
    return judge, {"gold_judge": found}


def rating_bins(predicted: np.ndarray, actual: np.ndarray) -> list[dict[str, float]]:
    """Mean predicted and mean human rating (both ``[n]``) in groups of equal size, by prediction."""
    groups = np.array_split(np.argsort(predicted, kind="stable"), _BINS)
    return [
        {"predicted": float(predicted[rows].mean()), "observed": float(actual[rows].mean()), "n": len(rows)}
        for rows in groups
        if len(rows)
    ]


def on_bare_model(judge: GoldJudge, network: PeftModel | None) -> Scores:
    """The judge with all adapters of its network off, whoever calls it."""

    def scores(texts: Sequence[str]) -> np.ndarray:
        if network is None:
            return judge(texts)
        with using_adapter(network, None):
            return judge(texts)

    return scores


def reward_scores(place: Path | None, texts: Texts | None) -> tuple[Scores | None, dict[str, Any]]:
    """The reward model's scores, and its calibration on held-out human pairs."""
    if place is None:
        return None, {}
    model: RewardModel = load_reward_model(place)
    found: dict[str, Any] = {}
    if texts is not None:
        found = on_human_pairs(*score_pairs(model, texts.test_pairs))
    return lambda texts: model.score_texts(texts).double().numpy(), {"reward_model": found}


def on_human_pairs(chosen: torch.Tensor, rejected: torch.Tensor) -> dict[str, Any]:
    """Accuracy, Brier score and calibration from the scores ``[n]`` of preferred and other texts."""
    right = (chosen > rejected).double() + 0.5 * (chosen == rejected).double()
    accuracy = wilson_interval(float(right.sum()), len(right))
    p_chosen = torch.sigmoid((chosen - rejected).double()).numpy()
    # Which text comes first says nothing, so each pair enters both ways round.
    forecast = np.concatenate([p_chosen, 1 - p_chosen])
    outcome = np.repeat([1.0, 0.0], len(p_chosen))
    return {
        "accuracy": accuracy.estimate,
        "ci95": accuracy.ends,
        "n_pairs": len(right),
        "brier": brier_score(forecast, outcome),
        "bins": [part._asdict() for part in calibration_bins(forecast, outcome, bins=2 * _BINS)],
    }
