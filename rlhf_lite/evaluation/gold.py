"""The gold judge: an estimate of the human rating that no policy and no reward model was trained against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rlhf_lite.data.collate import pad_right
from rlhf_lite.data.formatting import encode_whole
from rlhf_lite.evaluation.judges import Scores, ask
from rlhf_lite.evaluation.statistics import pearson_ci, wilson_interval
from rlhf_lite.models.trunk import SplitBody, layers_name, split_body
from rlhf_lite.types import Preference, Rating

# Share of the layers above the features. Sentiment is easiest to read in the middle: in five-fold
# cross-validation on the gold split the correlation was 0.75 after 15 to 21 of the 30 layers, and 0.69 after
# 12 or after all of them.
_ABOVE = 0.4


@torch.no_grad()
def mean_features(body: SplitBody, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str],
                  prompts: Sequence[str] | None = None, *, max_tokens: int,
                  batch_size: int = 64) -> np.ndarray:
    """Mean hidden state of each text after the lower half of a body, ``[B, H]`` float32.

    The first token is left out of the mean: it carries an activation hundreds of times larger than all others
    in models of this family, whatever the text says. ``prompts`` is what the texts begin with: a text that is
    too long is cut by ``formatting.fit_lengths``.
    """
    rows = [row.ids for row in encode_whole(tokenizer, texts, prompts, max_tokens=max_tokens)]
    rows = [row if len(row) > 1 else row * 2 for row in rows]
    features = np.empty((len(rows), body.lower.config.hidden_size), dtype=np.float32)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        ids, mask = pad_right([rows[i] for i in index], tokenizer.pad_token_id or 0, device=body.device)
        hidden = body.trunk(ids, mask).float()
        counted = mask.clone()
        counted[:, 0] = False
        mean = (hidden * counted.unsqueeze(-1)).sum(1) / counted.sum(1, keepdim=True)
        features[index] = mean.cpu().numpy()
    return features


@dataclass(frozen=True)
class GoldJudge:
    """Ridge regression from frozen mid-layer features of the *untouched* model to the mean human rating.

    ``weights`` are ``[H]``, in points per unit of each feature; ``bias`` is in points.

    It differs from the reward model in kind (linear, on averaged frozen features, fitted to ratings; not a
    fine-tuned network read at the last token and fitted to pairs) and in data (the gold split).
    """

    body: SplitBody
    tokenizer: PreTrainedTokenizerBase
    weights: np.ndarray
    bias: float
    max_tokens: int

    takes_prompts = True

    def __call__(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> np.ndarray:
        """Predicted mean ratings ``[B]`` of whole texts, on the human scale of -4 to +4.

        ``prompts`` is what the texts begin with, see :func:`mean_features`. If adapters were
        added to the model's lower layers since, switch them off around this call.
        """
        features = mean_features(self.body, self.tokenizer, texts, prompts, max_tokens=self.max_tokens)
        return features @ self.weights + self.bias


def as_ratings(rows: Sequence[Rating] | Sequence[Preference]) -> list[Rating]:
    """Rated texts as they are; a preference as two texts, the better one rated +1 and the other one -1.

    Least squares on these labels is a linear classifier of better against worse: a judge of the same kind for
    data that has preferences and no ratings.
    """
    rated: list[Rating] = []
    for number, row in enumerate(rows):
        if isinstance(row, Rating):
            rated.append(row)
            continue
        for name, text, label in (("chosen", row.chosen, 1), ("rejected", row.rejected, -1)):
            rated.append(Rating(f"{number}-{name}", row.prompt + text, (label,), "preferences"))
    return rated


def prompts_of(rows: Sequence[Rating] | Sequence[Preference]) -> list[str]:
    """What each text of :func:`as_ratings` begins with; a rated text has no prompt."""
    return [prompt for row in rows for prompt in ([""] if isinstance(row, Rating) else [row.prompt] * 2)]


def fit_gold_judge(model, tokenizer: PreTrainedTokenizerBase,
                   ratings: Sequence[Rating] | Sequence[Preference], *, max_tokens: int) -> GoldJudge:
    """Fit the judge to rated texts, which must come from the gold split alone.

    Args:
        model: the untouched causal model; without adapters, or with adapters that are switched off.
        max_tokens: longer texts are cut by ``formatting.fit_lengths``.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    ratings, prompts = as_ratings(ratings), prompts_of(ratings)
    split = judge_body(model)
    features = mean_features(split, tokenizer, [r.text for r in ratings], prompts, max_tokens=max_tokens)
    scaler, ridge = StandardScaler(), RidgeCV(alphas=np.logspace(1, 5, 13))
    ridge.fit(scaler.fit_transform(features), np.array([r.mean for r in ratings]))
    weights = ridge.coef_ / scaler.scale_
    return GoldJudge(split, tokenizer, weights, float(ridge.intercept_ - scaler.mean_ @ weights), max_tokens)


def judge_body(model) -> SplitBody:
    """The layers of the untouched model that a gold judge reads, whatever adapters stand above them."""
    body = model.base_model if not hasattr(model, "get_base_model") else model.get_base_model().base_model
    return split_body(body, max(1, round(_ABOVE * len(getattr(body, layers_name(body))))))


def agreement_with_humans(judge: Scores, ratings: Sequence[Rating] | Sequence[Preference], *, min_gap: float,
                          bins: int | None = None) -> dict[str, object]:
    """How well the judge predicts ratings that it was not fitted to.

    Args:
        judge: whole texts to predicted ratings.
        ratings: rated texts, or preferences, that it was not fitted to.
        min_gap: of the pairs that it has to put in order.
        bins: groups of equal size, by prediction, whose mean predicted and mean human rating are listed; None
            leaves them out.

    Returns:
        Pearson correlation with its 95 % interval, Spearman correlation, the number of texts, and the
        fraction of all pairs of these texts with a rating gap above ``min_gap`` that the judge orders like
        the people did. Pairs share texts: the interval of that fraction takes the texts as its sample. What
        cannot be had is None, and ``missing`` says why.
    """
    from scipy.stats import spearmanr

    missing: dict[str, str] = {}
    ratings, prompts = as_ratings(ratings), prompts_of(ratings)
    predicted = np.asarray(ask(judge, [r.text for r in ratings], prompts))
    actual = np.array([r.mean for r in ratings])
    try:
        pearson = pearson_ci(predicted, actual)
        ends = pearson.ends if np.isfinite(pearson.low) else None  # a perfect line has none
        found = {"pearson": pearson.estimate, "ci95": ends,
                 "spearman": float(spearmanr(predicted, actual).statistic)}
    except ValueError as error:  # too few texts, or no spread
        found, missing["pearson"] = dict.fromkeys(("pearson", "ci95", "spearman")), str(error)
    first, second = np.triu_indices(len(actual), 1)
    gaps = actual[first] - actual[second]
    far = np.abs(gaps) > min_gap
    accuracy, ends = None, None
    if far.any():
        accuracy = float(((predicted[first] - predicted[second]) * gaps > 0)[far].mean())
        ends = wilson_interval(round(accuracy * len(actual)), len(actual)).ends
    else:
        missing["pair_accuracy"] = f"no two of these texts differ by more than {min_gap:g} points"
    agreement: dict[str, object] = {
        **found, "n_texts": len(actual), "pair_accuracy": accuracy, "pair_accuracy_ci95": ends,
        "pair_min_gap": min_gap, **({"missing": missing} if missing else {}),
    }
    if bins is not None:
        groups = np.array_split(np.argsort(predicted, kind="stable"), bins)
        means = [(predicted[rows].mean(), actual[rows].mean(), len(rows)) for rows in groups if len(rows)]
        agreement["bins"] = [{"predicted": float(p), "observed": float(o), "n": n} for p, o, n in means]
    return agreement
