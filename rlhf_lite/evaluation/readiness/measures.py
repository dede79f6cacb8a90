"""The measurements behind ``evaluation.readiness``, each a function of plain arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rlhf_lite.evaluation.statistics import Interval, expected_calibration_error, pearson_ci
from rlhf_lite.functional import best_of_n_estimate

__all__ = ["best_of_n_curve", "calibration_error_ci", "length_correlation", "powers_of_two", "skill_ci"]


def skill_ci(
    difference: ArrayLike, agreement: ArrayLike | None = None, *, resamples: int = 2000, seed: int
) -> Interval:
    """Accuracy on a scale where 0 is guessing and 1 is the ceiling that the raters' disagreement sets.

        skill = (A - 1/2) / (C - 1/2)

    A is the probability that the model agrees with a *single* rater of each text, C the same for somebody who
    knows every mean rating. Pair i weighs 2 agreement_i - 1 in both: a pair that divides people says little.

    Args:
        difference: ``[n]`` score of the chosen text minus score of the rejected one; 0 is a tie.
        agreement: ``[n]`` in [0, 1]; None counts every label as certain, so that C is 1.
        resamples: of the percentile bootstrap over pairs.
        seed: of the bootstrap.

    Raises:
        ValueError: if lengths differ, a number is not finite or an agreement is outside [0, 1], or the raters
            do not side with the chosen texts at all.
    """
    sign = np.sign(_finite(difference, "difference"))
    weight = np.ones_like(sign)
    if agreement is not None:
        sided = _finite(agreement, "agreement")
        if sided.size != sign.size or sided.min() < 0 or sided.max() > 1:
            raise ValueError(f"agreement: expected {sign.size} numbers between 0 and 1, got {sided.size}")
        weight = 2 * sided - 1
    if not weight.sum() > 0:
        raise ValueError("agreement: raters side with the rejected texts; are chosen and rejected swapped?")
    rows = np.random.default_rng(seed).integers(0, sign.size, size=(resamples, sign.size))
    below = weight[rows].sum(1)
    drawn = (weight * sign)[rows].sum(1)[below > 0] / below[below > 0]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float((weight * sign).sum() / weight.sum()), float(low), float(high))


def calibration_error_ci(
    difference: ArrayLike, *, bins: int = 10, resamples: int = 500, seed: int
) -> Interval:
    """Expected calibration error of sigmoid(difference), with a bootstrap interval over pairs.

    Each pair enters both ways round, so that outcomes are 1 and 0 equally often. The error of a resample is
    larger than that of the data on average (empty noise counts as error): the interval is shifted upwards,
    which is the careful side here.

    Args:
        difference: ``[n]`` score of the chosen text minus score of the rejected one.
        bins: of equal width.
        resamples: of the percentile bootstrap over pairs.
        seed: of the bootstrap.
    """
    values = _finite(difference, "difference")
    forecast = torch.sigmoid(torch.from_numpy(values)).numpy()

    def error(p: NDArray[np.float64]) -> float:
        outcomes = np.repeat([1.0, 0.0], p.size)
        return expected_calibration_error(np.concatenate([p, 1 - p]), outcomes, bins=bins)

    rng = np.random.default_rng(seed)
    drawn = [error(forecast[rng.integers(0, values.size, values.size)]) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    estimate = error(forecast)
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))


def length_correlation(scores: ArrayLike, words: ArrayLike, ratings: ArrayLike) -> Interval:
    """Correlation of score and length among texts that people rate alike, with Fisher's interval.

    What a parabola in the rating explains is taken out of both first (a partial correlation). A score that is
    the same for every text correlates with nothing: 0.

    Args:
        scores, words, ratings: ``[k]`` of the same texts, k >= 8.
    """
    y, x, rating = (_finite(v, n) for v, n in ((scores, "scores"), (words, "words"), (ratings, "ratings")))
    if not y.size == x.size == rating.size >= 8:
        raise ValueError(f"expected equal lengths of 8 or more, got {y.size}, {x.size} and {rating.size}")
    if np.ptp(y) == 0 or np.ptp(x) == 0:
        return Interval(0.0, 0.0, 0.0)
    basis = np.stack([np.ones_like(rating), rating, rating**2], axis=1)  # (k, 3)

    def rest(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return v - basis @ np.linalg.lstsq(basis, v, rcond=None)[0]

    return pearson_ci(rest(y), rest(x))


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, ... and ``largest`` itself."""
    return [2**k for k in range(largest.bit_length()) if 2**k < largest] + [largest]


def best_of_n_curve(scores: ArrayLike, values: ArrayLike, ns: Sequence[int]) -> NDArray[np.float64]:
    """Expected value of the best of n for each prompt and each n, ``[P, len(ns)]``; unbiased.

    Args:
        scores: ``[P, M]`` of the judge that chooses.
        values: ``[P, M]`` of the judge that is asked about the winner.
        ns: numbers of samples, each between 1 and M.
    """
    rows = list(zip(torch.as_tensor(scores).double(), torch.as_tensor(values).double(), strict=True))
    return np.array([[float(best_of_n_estimate(s, v, n=n)) for n in ns] for s, v in rows])


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected a list of finite numbers, got shape {array.shape}")
    return array
