"""Means, shares and correlations with their intervals.

Every function checks its input and refuses NaN: a missing score has to be dropped (or explained) by the
caller, not averaged away here.

Three of these are our own although libraries have relatives. Wilson's interval takes fractional counts (a tie
is half a success) and effective numbers of prompts, which SciPy's takes not. The bootstrap is kept to the
last digit, because recorded runs hold its intervals. Both are checked against SciPy in the tests.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

# Below this many units Student's quantile stands in for the normal one where a variance was estimated.
FEW = 20
# Below this many values a percentile bootstrap is too narrow (it covers 0.90 to 0.93 with 20 values, where
# Student's interval covers 0.92 to 0.95: benchmarks/coverage.py), and Student's t stands in for it.
_BOOTSTRAP = 50
# Below this many units there is no interval: nobody can see the shape of so few values.
FEWEST = 5
# Squares of larger numbers overflow, and no score is that large.
_LARGEST = 1e100
_CHUNK = 4_000_000  # resampled values held in memory at once: 32 MB


class Interval(NamedTuple):
    """An estimate with the two ends of its confidence interval, in the unit of the data.

    The ends are NaN where nothing is known about the spread (too few values, or all of them equal): no
    comparison with them is true, so nothing is called a difference.
    """

    estimate: float
    low: float
    high: float

    @property
    def ends(self) -> list[float]:
        """``[low, high]``, the form that `metrics.json` uses."""
        return [self.low, self.high]


def vector(values: ArrayLike, name: str, minimum: int = 1) -> NDArray[np.float64]:
    """``values`` as finite float64 ``[n]``.

    Raises:
        ValueError: if they are no numbers, not one-dimensional, too few, or not finite.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers, got {values!r:.80}") from error
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {array.shape}; flatten it first")
    if array.size < minimum:
        raise ValueError(f"{name}: expected at least {minimum} values, got {array.size}")
    bad = np.flatnonzero(~(np.abs(array) < _LARGEST))
    if bad.size:
        raise ValueError(f"{name}: {bad.size} of {array.size} values are NaN or infinite (or above "
                         f"{_LARGEST:g}; the first at index {bad[0]}); drop those rows and report how many")
    return array


def pair(first: ArrayLike, second: ArrayLike, names: tuple[str, str],
         minimum: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two vectors of one length.

    Raises:
        ValueError: as `vector`, or if the lengths differ.
    """
    a, b = vector(first, names[0], minimum), vector(second, names[1], minimum)
    if a.size != b.size:
        raise ValueError(f"{names[0]} has {a.size} values and {names[1]} has {b.size}; they must "
                         "describe the same items in order")
    return a, b


def quantile(level: float, *, degrees: float | None = None) -> float:
    """How many standard errors an interval of this level reaches to each side.

    Args:
        level: between 0 and 1, such as 0.95.
        degrees: of freedom, where the standard error is estimated from few units: then Student's quantile.

    Raises:
        ValueError: if the level is outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: expected a number between 0 and 1 such as 0.95, got {level!r}")
    place = 0.5 + level / 2.0
    return float(stats.norm.ppf(place) if degrees is None else stats.t.ppf(place, degrees))


def group_numbers(groups: ArrayLike | None, n: int) -> NDArray[np.int64]:
    """Each row's group as a number from 0, in the order of appearance, ``[n]``; None: each row is its own.

    Raises:
        ValueError: if there is not one group for each row.
    """
    if groups is None:
        return np.arange(n)
    names = np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups: expected one for each of {n} rows, got shape {names.shape}")
    _, first, place = np.unique(names, return_index=True, return_inverse=True)
    return first.argsort().argsort()[place.reshape(n)]


def group_means(values: ArrayLike, groups: ArrayLike | None) -> NDArray[np.float64]:
    """Mean of each group, ``[G]``: the values of one prompt share its difficulty and are not independent.

    Args:
        values: ``[n]``.
        groups: ``[n]`` the prompt, chain or whatever else of each value; None if each has its own.
    """
    data = vector(values, "values")
    numbers = group_numbers(groups, data.size)
    return data if groups is None else np.bincount(numbers, weights=data) / np.bincount(numbers)


def mean_ci(values: ArrayLike, *, groups: ArrayLike | None = None, level: float = 0.95,
            seed: int) -> Interval:
    """Mean over groups with an interval: percentile bootstrap, Student's t below 50 groups, none below 5.

    Equal values say nothing about the spread: they have no interval either.

    Args:
        values: ``[n]``.
        groups: ``[n]``, see `group_means`.
        level: of the interval.
        seed: of the bootstrap.

    Raises:
        ValueError: as `bootstrap_mean_ci`.
    """
    data = group_means(values, groups)
    if data.size >= _BOOTSTRAP:
        return bootstrap_mean_ci(data, level=level, seed=seed)
    mean, half = float(data.mean()), float("nan")
    if data.size >= FEWEST and not _equal(data):
        degrees = data.size - 1
        half = quantile(level, degrees=degrees) * float(data.std(ddof=1)) / data.size**0.5
    return Interval(mean, mean - half, mean + half)


def bootstrap_mean_ci(values: ArrayLike, *, level: float = 0.95, resamples: int = 2000,
                      seed: int) -> Interval:
    """Mean of ``values`` (shape ``[n]``) with a percentile bootstrap interval.

    The rows are resampled with replacement, so they must be independent: pass one value per prompt, not one
    per token. With fewer than about 50 rows the percentile interval is too narrow: see `mean_ci`. Equal
    values have no interval.

    Source: Efron and Tibshirani 1993, chapter 13.

    Raises:
        ValueError: if ``values`` is empty, not one-dimensional or not finite, or a setting is out of range.
    """
    data = vector(values, "values")
    quantile(level)
    if isinstance(resamples, bool) or int(resamples) != resamples or resamples < 100:
        raise ValueError(f"resamples: expected a whole number of 100 or more, got {resamples!r}")
    if _equal(data):
        return Interval(float(data.mean()), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // data.size)
    means = np.concatenate(
        [data[rng.integers(0, data.size, size=(min(rows, resamples - start), data.size))].mean(axis=1)
         for start in range(0, int(resamples), rows)]
    )
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(data.mean()), float(low), float(high))


def _equal(data: NDArray[np.float64]) -> bool:
    """Whether all values are the same, up to the rounding of their means."""
    return float(np.ptp(data)) <= 1e-12 * max(1.0, float(np.abs(data).max()))


def paired_difference_ci(a: ArrayLike, b: ArrayLike, *, groups: ArrayLike | None = None, level: float = 0.95,
                         seed: int) -> Interval:
    """Mean of ``a - b`` (both ``[n]``, the same items in the same order) with the interval of `mean_ci`.

    Pairing removes the spread between items: two policies scored on the same prompts are compared prompt by
    prompt.

    Raises:
        ValueError: as `mean_ci`, or if the lengths differ.
    """
    first, second = pair(a, b, ("a", "b"))
    return mean_ci(first - second, groups=groups, level=level, seed=seed)


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
    return score_interval(successes / n, n, quantile(level))


def score_interval(share: float, n: float, z: float) -> Interval:
    """Wilson's interval; ``n`` is any number above 0, such as an effective number of independent units."""
    scale = 1.0 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    # At 0 and 1 one end is exactly 0 or 1; rounding would leave it a hair inside.
    low = 0.0 if share == 0 else max(0.0, centre - half)
    high = 1.0 if share == 1 else min(1.0, centre + half)
    return Interval(float(share), float(low), float(high))


def share_ci(values: ArrayLike, *, groups: ArrayLike | None = None, level: float = 0.95) -> Interval:
    """Mean of values in [0, 1] over groups, with Wilson's interval for an effective number of groups.

        m_j = mean of group j,  p = mean of m_j,  v = variance of m_j,  n_eff = G · p(1 − p) / v   (G groups)

    Of yes-or-no values, one in a group, v is p(1 − p), so n_eff = G and this is Wilson's interval. Ties (one
    half) make v smaller and the interval narrower; values of one group that agree make it wider than their
    number suggests. Where v has to be estimated like that from fewer than 20 groups, Student's quantile
    stands in for the normal one.

    Source: Wilson 1927; the effective sample size for clusters follows Kish 1965.

    Raises:
        ValueError: if a value is outside [0, 1], or ``groups`` does not fit.
    """
    means = group_means(values, groups)
    if means.min() < 0 or means.max() > 1:
        raise ValueError(f"values: expected shares from 0 to 1, got {means.min():g} to {means.max():g}")
    p, spread, n = float(means.mean()), float(means.var()), means.size
    coin = p * (1 - p)
    # No spread at all, as when every comparison is a tie: the groups are all that is known.
    effective = n * coin / spread if spread > 1e-12 else float(n)
    estimated = spread > 1e-12 and abs(spread - coin) > 1e-12
    z = quantile(level, degrees=n - 1 if estimated and n < FEW else None)
    return score_interval(p, effective, z)


def pearson_ci(x: ArrayLike, y: ArrayLike, *, held_fixed: int = 0, level: float = 0.95) -> Interval:
    """Pearson correlation of ``x`` and ``y`` (both ``[n]``, n ≥ 4) with Fisher's z interval.

        artanh r ± z / sqrt(n − 3 − held_fixed)

    A perfect line (r = ±1) has no interval.

    Source: Fisher 1921, and 1924 for partial correlations. Exact only for normal data; fine for a few hundred
    texts.

    Args:
        x, y: the two sides; of a partial correlation, what the regressions on the other variables left.
        held_fixed: how many variables those were, beside the mean.
        level: of the interval.

    Raises:
        ValueError: if the lengths differ, n < 4 + held_fixed, or one side is constant.
    """
    first, second = pair(x, y, ("x", "y"), minimum=4 + held_fixed)
    for name, side in (("x", first), ("y", second)):
        if np.ptp(side) == 0:
            raise ValueError(f"{name}: all {side.size} values are {side[0]:g}; a correlation needs spread")
    half = quantile(level) / (first.size - 3 - held_fixed) ** 0.5
    r = float(stats.pearsonr(first, second).statistic)
    if abs(r) > 1 - 1e-12:
        return Interval(r, float("nan"), float("nan"))
    low, high = np.tanh(np.arctanh(r) + np.array([-half, half]))
    return Interval(r, float(low), float(high))
