"""Win rates: how often one policy's text is preferred to another's on the same prompt, with an interval.

A tie counts one half. The unit of chance is the prompt: several comparisons of one prompt are averaged before
anything else, because they share the prompt's difficulty and are not independent.

Deviation from AlpacaEval 2: the length-controlled rate here compares two policies and has no term for the
difficulty of each instruction, which AlpacaEval estimates from many models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_lite.evaluation.statistics import _normal_quantile, _pair, _vector

__all__ = [
    "LengthControlled",
    "WinRate",
    "length_controlled_win_rate",
    "outcomes",
    "win_rate",
    "win_rate_of",
]


class WinRate(NamedTuple):
    """A win rate with the ends of its interval, and the counts that it comes from."""

    estimate: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    prompts: int

    @property
    def ends(self) -> list[float]:
        """``[low, high]``, the form that `metrics.json` uses."""
        return [self.low, self.high]

    @property
    def n(self) -> int:
        """How many comparisons were made."""
        return self.wins + self.ties + self.losses


class LengthControlled(NamedTuple):
    """The win rate expected at equal lengths, its interval, and how much length counts.

    ``length_effect`` is in log-odds per unit of ``tanh(difference / standard deviation)``: above 0 the judge
    prefers longer texts.
    """

    estimate: float
    low: float
    high: float
    length_effect: float

    @property
    def ends(self) -> list[float]:
        """``[low, high]``."""
        return [self.low, self.high]


def outcomes(first: ArrayLike, second: ArrayLike, *, margin: float = 0.0) -> NDArray[np.float64]:
    """1 where ``first`` wins, 0 where it loses, 0.5 for a tie; shape ``[n]``.

    Args:
        first: scores ``[n]`` of one policy.
        second: scores ``[n]`` of the other one for the same prompts in the same order.
        margin: a difference of up to this much, in the judge's unit, is a tie.

    Raises:
        ValueError: if a score is missing or not finite, the lengths differ, or the margin is negative.
    """
    a, b = _pair(first, second, ("first", "second"))
    if not 0 <= margin < np.inf:  # also catches NaN
        raise ValueError(f"margin: expected 0 or more, got {margin!r}")
    gap = a - b
    return np.where(np.abs(gap) <= margin, 0.5, (gap > 0).astype(np.float64))


def win_rate(
    first: ArrayLike,
    second: ArrayLike,
    *,
    margin: float = 0.0,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> WinRate:
    """How often ``first`` has the higher score; see `outcomes` and `win_rate_of`."""
    return win_rate_of(outcomes(first, second, margin=margin), clusters=clusters, level=level)


def win_rate_of(outcome: ArrayLike, *, clusters: ArrayLike | None = None, level: float = 0.95) -> WinRate:
    """Mean of outcomes with an interval.

    Wilson's interval for the number of fair comparisons that would be as precise as what was seen:

        m_j = mean outcome of prompt j,  p = mean of m_j,  v = variance of m_j,
        n_eff = P · p(1 − p) / v         (P prompts)

    Without ties and with one comparison per prompt v = p(1 − p), so n_eff = P and this is Wilson's interval.
    Ties make v smaller, and the interval narrower; samples of one prompt that agree make it wider than their
    number suggests.

    Source: Wilson 1927; the effective sample size for clusters follows Kish 1965.

    Args:
        outcome: ``[n]`` of 1 (won), 0 (lost) and 0.5 (tie).
        clusters: ``[n]`` the prompt of each comparison; None if each has its own.

    Raises:
        ValueError: if an outcome is none of 0, 0.5 and 1, or ``clusters`` does not fit.
    """
    y = _outcome(outcome)
    means = _by_cluster(y, _clusters(clusters, y.size))
    p, spread = float(means.mean()), float(means.var())
    # No spread at all, as when every comparison is a tie: the prompts are all that is known.
    effective = means.size * p * (1 - p) / spread if spread > 1e-12 else float(means.size)
    low, high = _wilson(p, effective, level)
    wins, ties = int((y == 1).sum()), int((y == 0.5).sum())
    return WinRate(p, low, high, wins, ties, y.size - wins - ties, means.size)


def length_controlled_win_rate(
    outcome: ArrayLike,
    first_lengths: ArrayLike,
    second_lengths: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    penalty: float = 0.001,
    level: float = 0.95,
) -> LengthControlled:
    """The win rate that is expected if both texts were of equal length.

    A logistic regression of the outcomes on the difference in length d = len_first − len_second:

        P(first wins) = σ(θ + φ · tanh(d / sd(d)));      length-controlled rate = σ(θ)

    A tie enters as half a win and half a loss. The interval is that of θ, with variances that are robust to
    prompts with several comparisons (the sandwich), carried through σ.

    Source: Dubois, Galambosi, Liang and Hashimoto 2024, section 3 (arXiv:2404.04475), for two policies.

    Args:
        outcome: ``[n]`` of 1, 0.5 and 0, from the view of the first policy.
        first_lengths: ``[n]`` lengths of its texts, in any unit.
        second_lengths: ``[n]`` lengths of the other policy's texts.
        clusters: as in `win_rate_of`.
        penalty: weight of φ²/2 per comparison. It keeps φ finite when length alone decides everything.

    Raises:
        ValueError: if every outcome is a win (or a loss), or all differences in length are the same and not
            0: then length and policy cannot be told apart.
    """
    y = _outcome(outcome)
    a, b = _pair(first_lengths, second_lengths, ("first_lengths", "second_lengths"))
    if a.size != y.size:
        raise ValueError(
            f"outcome has {y.size} values and the lengths have {a.size}; they must fit row by row"
        )
    if y.min() == y.max() and y[0] != 0.5:
        raise ValueError("every comparison has the same winner: no rate at equal lengths can be fitted")
    if not 0 <= penalty < np.inf:
        raise ValueError(f"penalty: expected 0 or more, got {penalty!r}")
    gap = a - b
    scale = float(gap.std())
    if scale == 0 and gap[0] != 0:
        raise ValueError(
            f"one policy is longer by {abs(gap[0]):g} in every comparison: length and policy cannot be told "
            "apart"
        )
    columns = [np.ones(y.size)] + ([np.tanh(gap / scale)] if scale > 0 else [])
    x = np.stack(columns, axis=1)  # [n, 1 or 2]
    coefficients, covariance = _logistic(x, y, _clusters(clusters, y.size), penalty)
    half = _normal_quantile(level) * float(np.sqrt(covariance[0, 0]))
    theta = float(coefficients[0])
    effect = float(coefficients[1]) if scale > 0 else 0.0
    return LengthControlled(_sigmoid(theta), _sigmoid(theta - half), _sigmoid(theta + half), effect)


def _logistic(
    x: NDArray[np.float64], y: NDArray[np.float64], clusters: NDArray[np.int64], penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients ``[k]`` by Newton's method and their cluster-robust covariance ``[k, k]``."""
    weights = np.zeros(x.shape[1])
    ridge = np.diag([0.0] + [penalty * len(y)] * (x.shape[1] - 1))  # the intercept is free
    for _ in range(100):
        p = 1 / (1 + np.exp(-(x @ weights)))
        slope = x.T @ (y - p) - ridge @ weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
        try:
            step = np.linalg.solve(hessian, slope)
        except np.linalg.LinAlgError as error:
            raise ValueError("no finite fit at equal lengths: use penalty > 0") from error
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))  # no wild first steps
        weights = weights + step
        if float(np.abs(step).max()) < 1e-10:
            break
    else:
        raise ValueError("length decides every comparison: without a penalty there is no finite fit")
    p = 1 / (1 + np.exp(-(x @ weights)))
    scores = x * (y - p)[:, None]  # [n, k]
    summed = np.zeros((int(clusters.max()) + 1, x.shape[1]))
    np.add.at(summed, clusters, scores)
    bread = np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x + ridge)
    many = len(summed) / max(len(summed) - 1, 1)  # small-sample factor
    return weights, many * bread @ (summed.T @ summed) @ bread


def _outcome(values: ArrayLike) -> NDArray[np.float64]:
    y = _vector(values, "outcome")
    odd = np.flatnonzero(~np.isin(y, (0.0, 0.5, 1.0)))
    if odd.size:
        raise ValueError(f"outcome: value {y[odd[0]]:g} at index {odd[0]} is none of 0, 0.5 and 1")
    return y


def _clusters(clusters: ArrayLike | None, n: int) -> NDArray[np.int64]:
    """Each row's cluster as a number from 0, ``[n]``."""
    if clusters is None:
        return np.arange(n)
    names = np.asarray(clusters)
    if names.shape != (n,):
        raise ValueError(f"clusters: expected one prompt for each of {n} rows, got shape {names.shape}")
    return np.unique(names, return_inverse=True)[1].reshape(n)


def _by_cluster(values: NDArray[np.float64], clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.bincount(clusters, weights=values) / np.bincount(clusters)


def _wilson(p: float, n: float, level: float) -> tuple[float, float]:
    """Wilson's interval for a number of comparisons that need not be whole."""
    z = _normal_quantile(level)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return (0.0 if p == 0 else max(0.0, centre - half)), (1.0 if p == 1 else min(1.0, centre + half))


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))
