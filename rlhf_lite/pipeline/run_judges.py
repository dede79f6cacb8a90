"""The judges of runs and comparisons: made ready, and measured against people."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from rlhf_lite.evaluation.gold import GoldJudge, fit_gold_judge, judge_body
from rlhf_lite.evaluation.statistics import pair_quality
from rlhf_lite.models.policy import Policy
from rlhf_lite.models.reward_model import RewardModel
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.evaluation_cache import EvaluationCache
from rlhf_lite.training.reward import score_pairs
from rlhf_lite.types import Preference

_GAPS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


def fit_run_judge(run: Run, policy: Policy, cache: EvaluationCache) -> GoldJudge:
    """The gold judge of a run: fitted now, or before on the same texts and then found in the cache."""
    max_tokens = run.config.data.max_tokens

    def fit() -> dict[str, np.ndarray]:
        judge = fit_gold_judge(policy.model, policy.tokenizer, run.texts.gold, max_tokens=max_tokens)
        return {"weights": judge.weights, "bias": np.array(judge.bias)}

    line = cache.arrays("gold", fit)
    body = judge_body(policy.model)
    return GoldJudge(body, policy.tokenizer, line["weights"], float(line["bias"]), max_tokens)


def judge_reward_model(
    model: RewardModel, pairs: list[Preference], *, min_gap: float, bins: int | None = None
) -> dict[str, Any]:
    """`statistics.pair_quality` of a reward model on held-out pairs, and its accuracy by rating gap.

    Pairs that share texts are not independent: the interval counts at most one for every two texts.

    Args:
        model: the reward model.
        pairs: preferences that it was not trained on.
        min_gap: of these pairs, for the record.
        bins: of the reliability diagram; None leaves it out.
    """
    chosen, rejected = score_pairs(model, pairs)
    difference = (chosen - rejected).double().numpy()
    texts = {pair.prompt + text for pair in pairs for text in (pair.chosen, pair.rejected)}
    quality = pair_quality(difference, units=max(1, len(texts) // 2), bins=bins)
    right = (difference > 0) + 0.5 * (difference == 0)
    gaps = np.array([np.nan if pair.margin is None else pair.margin for pair in pairs])
    by_gap = []
    for low, high in pairwise(_GAPS):
        inside = (gaps > low) & (gaps <= high)
        if inside.any():
            accuracy, n = float(right[inside].mean()), int(inside.sum())
            by_gap.append({"gap_low": low, "gap_high": high, "accuracy": accuracy, "n_pairs": n})
    return quality | {"min_gap": min_gap, "accuracy_by_gap": by_gap}
