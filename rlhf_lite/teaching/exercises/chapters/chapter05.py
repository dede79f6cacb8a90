"""Chapter 5 (reward modelling): last token, gradient, ceiling of agreement, calibration, best of n."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from statistics import fmean as mean
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.loading import Mistakes

if TYPE_CHECKING:
    from torch import Tensor

Row = list[float]
Bins = list[tuple[float, float, int]]
MISTAKES: Mistakes = {}


def last_token_index(mask: Tensor) -> Tensor:
    """Where does a reward model read its score?"""
    return mask.shape[1] - 1 - mask.long().flip(1).argmax(1)


MISTAKES["last_token_index"] = {
    "the number of tokens minus one": lambda m: m.sum(1) - 1,
    "the last column": lambda m: m.long().sum(1) * 0 + m.shape[1] - 1,
    "the first token": lambda m: m.long().argmax(1),
    "counted from the end": lambda m: m.long().flip(1).argmax(1),
    "one too far": lambda m: last_token_index(m) + 1,
    "before the first padding": lambda m: m.long().argmin(1) - 1,
    "the number of tokens": lambda m: m.sum(1),
    "one place for the whole batch": lambda m: m.any(0).nonzero().max(),
}


def bt_gradient(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The gradient of the Bradley-Terry loss by the chosen score, for each pair."""
    return -(rejected - chosen).sigmoid()


MISTAKES["bt_gradient"] = {
    "the sign": lambda c, r: (r - c).sigmoid(),
    "how right instead of how wrong": lambda c, r: -(c - r).sigmoid(),
    "the loss itself": lambda c, r: -(c - r).sigmoid().clamp_min(1e-300).log(),
    "the logarithm forgotten": lambda c, r: -(c - r).sigmoid() * (r - c).sigmoid(),
    "the mean over the batch": lambda c, r: -(r - c).sigmoid() / len(c),
    "no probability at all": lambda c, r: -((c - r) * 0 + 1),
    "one score only": lambda c, r: -(-c).sigmoid(),
    "an overflow": lambda c, r: -(r - c).exp() / (1 + (r - c).exp()),
    "one number for the batch": lambda c, r: -(r - c).sigmoid().sum(),
}


def single_rater_accuracy(right: Tensor, agreement: Tensor) -> float:
    """How often does the model agree with one person?"""
    return float((right * agreement + (1 - right) * (1 - agreement)).mean())


MISTAKES["single_rater_accuracy"] = {
    "the raters forgotten": lambda right, a: right.mean(),
    "the model forgotten": lambda right, a: a.mean(),
    "nothing for a wrong answer": lambda right, a: (right * a).mean(),
    "the product of the means": lambda right, a: right.mean() * a.mean(),
    "the means mixed": lambda right, a: single_rater_accuracy(right.mean(), a.mean()),
    "the share of the ceiling": lambda right, a: single_rater_accuracy(right, a) / a.mean(),
    "weights": lambda right, a: (right * a).sum() / a.sum(),
}


def calibration_error(probabilities: Row, outcomes: Row, bins: int) -> float:
    """The expected calibration error."""
    parts = _bins(probabilities, outcomes, bins)
    return sum(n * abs(observed - predicted) for predicted, observed, n in parts) / len(probabilities)


def _bins(p: Row, y: Row, bins: int) -> Bins:
    """Mean forecast, mean outcome and size of every bin that is not empty."""
    members: list[list[int]] = [[] for _ in range(bins)]
    for i, value in enumerate(p):
        members[min(int(value * bins), bins - 1)].append(i)
    return [(mean(p[i] for i in rows), mean(y[i] for i in rows), len(rows)) for rows in members if rows]


MISTAKES["calibration_error"] = {
    "bins that count the same": lambda p, y, bins: mean(abs(o - q) for q, o, _ in _bins(p, y, bins)),
    "empty bins counted": lambda p, y, bins: sum(abs(o - q) for q, o, _ in _bins(p, y, bins)) / bins,
    "no bins": lambda p, y, bins: mean(abs(a - b) for a, b in zip(p, y, strict=True)),
    "one bin for all": lambda p, y, bins: abs(sum(p) - sum(y)) / len(p),
    "gaps that cancel": lambda p, y, bins: sum(n * (o - q) for q, o, n in _bins(p, y, bins)) / len(p),
    "the largest gap": lambda p, y, bins: max(abs(o - q) for q, o, _ in _bins(p, y, bins)),
    "squared gaps": lambda p, y, bins: sum(n * (o - q) ** 2 for q, o, n in _bins(p, y, bins)) / len(p),
    "a sum, not a mean": lambda p, y, bins: len(p) * calibration_error(p, y, bins),
}


def best_of_n_unbiased(scores: Row, values: Row, n: int) -> float:
    """What does the best of n score, estimated from one pool of samples?"""
    return mean(values[_winner(scores, subset)] for subset in combinations(range(len(scores)), n))


def _winner(scores: Row, rows: Iterable[int]) -> int:
    return max(rows, key=lambda i: scores[i])


def _drawn_with_replacement(scores: Row, values: Row, n: int) -> float:
    order, pool = sorted(range(len(scores)), key=lambda i: scores[i]), len(scores)
    return sum(values[i] * (((rank + 1) / pool) ** n - (rank / pool) ** n) for rank, i in enumerate(order))


MISTAKES["best_of_n_unbiased"] = {
    "drawn with replacement": _drawn_with_replacement,
    "the first n samples": lambda s, v, n: v[_winner(s, range(n))],
    "the best of the whole pool": lambda s, v, n: v[_winner(s, range(len(s)))],
    "the mean of the n best": lambda s, v, n: mean(
        v[i] for i in sorted(range(len(s)), key=lambda i: s[i], reverse=True)[:n]
    ),
    "blocks": lambda s, v, n: mean(
        v[_winner(s, range(start, start + n))] for start in range(0, len(s) - n + 1, n)
    ),
    "the value chooses": lambda s, v, n: best_of_n_unbiased(v, v, n),
    "the score counts": lambda s, v, n: best_of_n_unbiased(s, s, n),
    "the worst of n": lambda s, v, n: best_of_n_unbiased([-x for x in s], v, n),
}
