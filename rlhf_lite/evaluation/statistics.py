"""Intervals and calibration scores for the numbers a run reports.

Pure numpy. Every function checks its input and refuses NaN: a missing score has
to be dropped (or explained) by the caller, not averaged away here.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CalibrationBin",
    "Interval",
    "bootstrap_mean_ci",
    "brier_score",
    "calibration_bins",
    "expected_calibration_error",
    "paired_difference_ci",
    "pearson_ci",
    "wilson_interval",
]

_CHUNK = 4_000_000  # resampled values held in memory at once: 32 MB


class Interval(NamedTuple):
    """An estimate with the two ends of its confidence interval, in the unit of the data."""

    estimate: float
    low: float
    high: float

    @property
    def ends(self) -> list[float]:
        """``[low, high]``, the form that `metrics.json` uses."""
        return [self.low, self.high]


class CalibrationBin(NamedTuple):
    """One bar of a reliability diagram; forecasts lie in (``low``, ``high``], and 0 in the first bin."""

    low: float
    high: float
    predicted: float
    observed: float
    n: int


def _vector(values: ArrayLike, name: str, minimum: int = 1) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers, got {values!r:.80}") from error
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {array.shape}; flatten it first")
    if array.size < minimum:
        raise ValueError(f"{name}: expected at least {minimum} values, got {array.size}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(
            f"{name}: {bad.size} of {array.size} values are NaN or infinite (the first at index {bad[0]}); "
            "drop those rows and report how many"
        )
    return array


def _pair(
    first: ArrayLike, second: ArrayLike, names: tuple[str, str], minimum: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _vector(first, names[0], minimum), _vector(second, names[1], minimum)
    if a.size != b.size:
        raise ValueError(
            f"{names[0]} has {a.size} values and {names[1]} has {b.size}; they must describe the same items "
            f"in order"
        )
    return a, b


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: expected a number between 0 and 1 such as 0.95, got {level!r}")


def _normal_quantile(level: float) -> float:
    _check_level(level)
    return NormalDist().inv_cdf(0.5 + level / 2.0)


def bootstrap_mean_ci(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int
) -> Interval:
    """Mean of ``values`` (shape ``[n]``) with a percentile bootstrap interval.

    The rows are resampled with replacement, so they must be independent: pass one
    value per prompt, not one per token. With fewer than about 20 rows the
    percentile interval is too narrow.

    Source: Efron and Tibshirani 1993, chapter 13.

    Raises:
        ValueError: if ``values`` is empty, not one-dimensional or not finite, or a setting is out of range.
    """
    data = _vector(values, "values")
    _check_level(level)
    if isinstance(resamples, bool) or int(resamples) != resamples or resamples < 100:
        raise ValueError(f"resamples: expected a whole number of 100 or more, got {resamples!r}")
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // data.size)
    means = np.concatenate(
        [
            data[rng.integers(0, data.size, size=(min(rows, resamples - start), data.size))].mean(axis=1)
            for start in range(0, int(resamples), rows)
        ]
    )
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(data.mean()), float(low), float(high))


def paired_difference_ci(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int
) -> Interval:
    """Mean of ``a - b`` (both ``[n]``, the same items in the same order) with a bootstrap interval.

    Pairing removes the spread between items: two policies scored on the same prompts
    are compared prompt by prompt.

    Raises:
        ValueError: as `bootstrap_mean_ci`, or if the lengths differ.
    """
    first, second = _pair(a, b, ("a", "b"))
    return bootstrap_mean_ci(first - second, level=level, resamples=resamples, seed=seed)


def wilson_interval(successes: float, n: int, level: float = 0.95) -> Interval:
    """Share ``successes / n`` with Wilson's score interval, which stays inside [0, 1].

    ``successes`` may be fractional, so that a tie can count one half.

        centre = (p + z²/2n) / (1 + z²/n)
        half   = z / (1 + z²/n) · sqrt(p(1−p)/n + z²/4n²)

    Source: Wilson 1927, in the notation of Brown, Cai and DasGupta 2001, eq. 4.

    Raises:
        ValueError: if ``n`` < 1 or ``successes`` lies outside [0, n].
    """
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise ValueError(f"n: expected a whole number of 1 or more, got {n!r}")
    if not 0 <= successes <= n:  # also catches NaN
        raise ValueError(f"successes: expected a number from 0 to n = {n}, got {successes!r}")
    z = _normal_quantile(level)
    share = successes / n
    scale = 1.0 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    # At 0 and n one end is exactly 0 or 1; rounding would leave it a hair inside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(float(share), float(low), float(high))


def pearson_ci(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> Interval:
    """Pearson correlation of ``x`` and ``y`` (both ``[n]``, n ≥ 4) with Fisher's z interval.

        z = artanh(r) ± q / sqrt(n − 3)

    Source: Fisher 1921. Exact only for normal data; fine for a few hundred texts.

    Raises:
        ValueError: if the lengths differ, n < 4, or one side is constant.
    """
    first, second = _pair(x, y, ("x", "y"), minimum=4)
    q = _normal_quantile(level)
    for name, side in (("x", first), ("y", second)):
        if np.ptp(side) == 0:
            raise ValueError(f"{name}: all {side.size} values are {side[0]:g}; a correlation needs spread")
    r = float(np.clip(np.corrcoef(first, second)[0, 1], -1.0, 1.0))
    if abs(r) == 1.0:
        return Interval(r, r, r)
    z, half = np.arctanh(r), q / np.sqrt(first.size - 3)
    return Interval(r, float(np.tanh(z - half)), float(np.tanh(z + half)))


def _forecast(
    probabilities: ArrayLike, outcomes: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, y = _pair(probabilities, outcomes, ("probabilities", "outcomes"))
    for name, side in (("probabilities", p), ("outcomes", y)):
        wrong = np.flatnonzero((side < 0) | (side > 1))
        if wrong.size:
            raise ValueError(f"{name}: value {side[wrong[0]]:g} at index {wrong[0]} is outside [0, 1]")
    return p, y


def brier_score(probabilities: ArrayLike, outcomes: ArrayLike) -> float:
    """Mean squared distance between forecast and outcome (both ``[n]`` in [0, 1]); 0 is perfect.

    Always saying 0.5 scores 0.25. Outcomes may be fractions, such as the share of raters who agree.

    Source: Brier 1950.

    Raises:
        ValueError: if the lengths differ or a value is outside [0, 1].
    """
    p, y = _forecast(probabilities, outcomes)
    return float(np.mean((p - y) ** 2))


def calibration_bins(
    probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int = 10
) -> Sequence[CalibrationBin]:
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
    for bin_index in range(int(bins)):
        chosen = index == bin_index
        if chosen.any():
            result.append(
                CalibrationBin(
                    float(edges[bin_index]),
                    float(edges[bin_index + 1]),
                    float(p[chosen].mean()),
                    float(y[chosen].mean()),
                    int(chosen.sum()),
                )
            )
    return result


def expected_calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int = 10) -> float:
    """Mean gap between forecast and outcome over equal-width bins, weighted by their size.

    For the reward model pass the probability of the *chosen* answer only together with an
    order that does not depend on the label (otherwise every outcome is 1).

    Source: Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, eq. 3.

    Raises:
        ValueError: as `calibration_bins`.
    """
    parts = calibration_bins(probabilities, outcomes, bins=bins)
    total = sum(part.n for part in parts)
    return float(sum(part.n * abs(part.observed - part.predicted) for part in parts) / total)
