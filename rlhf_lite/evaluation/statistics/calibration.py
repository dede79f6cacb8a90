"""How well scores tell the better of two texts from the other, and what their probabilities are worth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from rlhf_lite.evaluation.statistics.intervals import (
    FEW,
    Interval,
    pair,
    quantile,
    score_interval,
    vector,
    wilson_interval,
)
from rlhf_lite.types import Preference

Units = Sequence[tuple[str | int, str | int]]


class CalibrationBin(NamedTuple):
    """One bar of a reliability diagram; forecasts lie in (``low``, ``high``], and 0 in the first bin."""

    low: float
    high: float
    predicted: float
    observed: float
    n: int


def _forecast(probabilities: ArrayLike,
              outcomes: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, y = pair(probabilities, outcomes, ("probabilities", "outcomes"))
    for name, side in (("probabilities", p), ("outcomes", y)):
        wrong = np.flatnonzero((side < 0) | (side > 1))
        if wrong.size:
            raise ValueError(f"{name}: value {side[wrong[0]]:g} at index {wrong[0]} is outside [0, 1]")
    return p, y


def brier_score(probabilities: ArrayLike, outcomes: ArrayLike) -> float:
    """Mean squared distance between forecast and outcome (both ``[n]`` in [0, 1]); 0 is perfect.

    Always saying 0.5 scores 0.25. Outcomes may be fractions, such as the share of raters who agree, which
    scikit-learn's ``brier_score_loss`` refuses.

    Source: Brier 1950.

    Raises:
        ValueError: if the lengths differ or a value is outside [0, 1].
    """
    p, y = _forecast(probabilities, outcomes)
    return float(np.mean((p - y) ** 2))


def calibration_bins(probabilities: ArrayLike, outcomes: ArrayLike, *,
                     bins: int = 10) -> Sequence[CalibrationBin]:
    """Mean forecast and mean outcome in ``bins`` bins of equal width; empty bins are left out.

    Raises:
        ValueError: as `brier_score`, or if ``bins`` < 1.
    """
    p, y = _forecast(probabilities, outcomes)
    if isinstance(bins, bool) or int(bins) != bins or bins < 1:
        raise ValueError(f"bins: expected a whole number of 1 or more, got {bins!r}")
    edges = np.linspace(0.0, 1.0, int(bins) + 1)
    index = np.clip(np.searchsorted(edges, p, side="left") - 1, 0, bins - 1)
    result = []
    for number, (low, high) in enumerate(pairwise(edges)):
        chosen = index == number
        if chosen.any():
            predicted, observed = float(p[chosen].mean()), float(y[chosen].mean())
            result.append(CalibrationBin(float(low), float(high), predicted, observed, int(chosen.sum())))
    return result


def expected_calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int = 10) -> float:
    """Mean gap between forecast and outcome over equal-width bins, weighted by their size.

    For the reward model pass the probability of the *chosen* answer only together with an order that does not
    depend on the label (otherwise every outcome is 1).

    Source: Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, eq. 3.

    Raises:
        ValueError: as `calibration_bins`.
    """
    parts = calibration_bins(probabilities, outcomes, bins=bins)
    total = sum(part.n for part in parts)
    return float(sum(part.n * abs(part.observed - part.predicted) for part in parts) / total)


def units_of(pairs: Sequence[Preference]) -> Units:
    """What each pair shares with others, for `pair_accuracy`: its two texts, or twice its prompt.

    Answers to one prompt share its difficulty, so the prompt is the unit of chance. That is not so where all
    pairs have one prompt (or none), nor for pairs made of rated texts: those share opening words only.
    """
    asked = len({one.prompt for one in pairs}) > 1
    return [(one.prompt, one.prompt) if asked and one.prompt and "chosen_id" not in one.meta
            else (one.prompt + one.chosen, one.prompt + one.rejected) for one in pairs]


def pair_accuracy(difference: ArrayLike, *, units: Units | None = None, weights: ArrayLike | None = None,
                  level: float = 0.95) -> Interval:
    """Share of pairs in which the better text scores higher, with Wilson's interval; ties count one half.

    Pairs that share a unit are not independent. With e the weighted deviations from the share p,

        v = (Σ_u (Σ_{i with u} e_i)² − Σ_{i with two units} e_i²) · m/(m − 1),   n_eff = n² p(1 − p) / v

    and m = (Σ_u c_u)² / Σ_u c_u² independent units (half of that where pairs have two; c_u pairs have unit
    u). With m below 20 Student's quantile takes the place of the normal one. v is never taken below Σ e_i²,
    and pairs that are all right count as m.

    Source: Aronow, Samii and Assenova 2015, *Cluster-Robust Variance Estimation for Dyadic Data*; the
    effective size follows Kish 1965.

    Args:
        difference: ``[n]`` score of the better text minus score of the other one.
        units: ``[n]`` two names of what a pair may share with others, see `units_of`; None if nothing is.
        weights: ``[n]`` of the pairs, of positive sum; None for equal ones.
        level: of the interval.
    """
    gap = vector(difference, "difference")
    n, right = gap.size, (gap > 0) + 0.5 * (gap == 0)
    named = [(2 * i, 2 * i + 1) for i in range(n)] if units is None else units
    if len(named) != n:
        raise ValueError(f"units: expected one for each of {n} pairs, got {len(named)}")
    numbers: dict[str | int, int] = {}
    rows = [[numbers.setdefault(unit, len(numbers)) for unit in both] for both in named]
    first, second = np.array(rows).T
    two = first != second

    def sums(of: NDArray[np.float64]) -> NDArray[np.float64]:
        places = np.concatenate([first, second[two]])
        return np.bincount(places, weights=np.concatenate([of, of[two]]))

    counts = sums(np.ones(n))
    if weights is None and counts.max() == 1:
        return wilson_interval(float(right.sum()), n, level)
    w = np.ones(n) if weights is None else vector(weights, "weights")
    share = float(w @ right / w.sum())
    e, p = w * (right - share) * (n / w.sum()), min(max(share, 0.0), 1.0)
    m = float(counts.sum() ** 2 / (counts @ counts)) / (2 if two.any() else 1)
    shared = float(sums(e) @ sums(e) - e[two] @ e[two]) * (m / (m - 1) if m > 1 else 1.0)
    variance = max(shared, float(e @ e))
    effective = n * n * p * (1 - p) / variance if variance > 1e-12 else 0.0
    z = quantile(level, degrees=max(m - 1, 1.0) if m < FEW else None)
    return score_interval(p, effective or min(m, w.sum() ** 2 / float(w @ w)), z)._replace(estimate=share)


def pair_quality(difference: ArrayLike, *, units: Units | None = None,
                 bins: int | None = None) -> dict[str, Any]:
    """Accuracy and calibration of score differences, read as log-odds that the better text wins.

    Which text of a pair comes first says nothing, so each pair enters the calibration both ways round.

    Args:
        difference: ``[n]`` score of the better text minus score of the other one.
        units: see `pair_accuracy`.
        bins: of the reliability diagram; None leaves it out.

    Returns:
        ``accuracy`` with ``ci95``, ``n_pairs``, ``brier``, ``ece`` and, with ``bins``, a list of bins.
    """
    gap = vector(difference, "difference")
    accuracy = pair_accuracy(gap, units=units)
    forecast, outcomes = np.concatenate([expit(gap), expit(-gap)]), np.repeat([1.0, 0.0], gap.size)
    quality: dict[str, Any] = {
        "accuracy": accuracy.estimate, "ci95": accuracy.ends, "n_pairs": gap.size,
        "brier": brier_score(forecast, outcomes), "ece": expected_calibration_error(forecast, outcomes),
    }
    if bins is not None:
        quality["bins"] = [part._asdict() for part in calibration_bins(forecast, outcomes, bins=bins)]
    return quality


def auc(better: ArrayLike, others: ArrayLike) -> float:
    """The chance that any of the better texts scores above any of the others; ties count one half."""
    from sklearn.metrics import roc_auc_score

    high, low = vector(better, "better"), vector(others, "others")
    labels = np.repeat([1, 0], [high.size, low.size])
    return float(roc_auc_score(labels, np.concatenate([high, low])))
