"""Win rates: how often one policy's text is preferred to another's on the same prompt, with an interval;
how many comparisons a difference needs, and what a count of wins and losses proves.

A tie counts one half. The unit of chance is the prompt: several comparisons of one prompt are averaged before
anything else, because they share the prompt's difficulty and are not independent.

The length-controlled rate is our own: no library fits a logistic regression with a ridge and variances that
are robust to clusters. Deviation from AlpacaEval 2: it compares two policies and has no term for the
difficulty of each instruction, which AlpacaEval estimates from many models.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import expit

from rlhf_lite.evaluation.statistics.intervals import (
    FEW,
    FEWEST,
    group_numbers,
    pair,
    quantile,
    share_ci,
    vector,
)


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
    a, b = pair(first, second, ("first", "second"))
    if not 0 <= margin < np.inf:  # also catches NaN
        raise ValueError(f"margin: expected 0 or more, got {margin!r}")
    gap = a - b
    return np.where(np.abs(gap) <= margin, 0.5, (gap > 0).astype(np.float64))


def win_rate(first: ArrayLike, second: ArrayLike, *, margin: float = 0.0, clusters: ArrayLike | None = None,
             level: float = 0.95) -> WinRate:
    """How often ``first`` has the higher score; see `outcomes` and `win_rate_of`."""
    return win_rate_of(outcomes(first, second, margin=margin), clusters=clusters, level=level)


def win_rate_of(outcome: ArrayLike, *, clusters: ArrayLike | None = None, level: float = 0.95) -> WinRate:
    """Mean of outcomes with the interval of `intervals.share_ci`, over prompts.

    Args:
        outcome: ``[n]`` of 1 (won), 0 (lost) and 0.5 (tie).
        clusters: ``[n]`` the prompt of each comparison; None if each has its own.

    Raises:
        ValueError: if an outcome is none of 0, 0.5 and 1, or ``clusters`` does not fit.
    """
    y = _outcome(outcome)
    prompts = group_numbers(clusters, y.size)
    rate = share_ci(y, groups=prompts, level=level)
    wins, ties = int((y == 1).sum()), int((y == 0.5).sum())
    return WinRate(*rate, wins, ties, y.size - wins - ties, int(prompts.max()) + 1)


def length_controlled_win_rate(outcome: ArrayLike, first_lengths: ArrayLike, second_lengths: ArrayLike, *,
                               clusters: ArrayLike | None = None, penalty: float = 0.001,
                               level: float = 0.95) -> LengthControlled:
    """The win rate that is expected if both texts were of equal length.

    A logistic regression of the outcomes on the difference in length d = len_first − len_second:

        P(first wins) = σ(θ + φ · tanh(d / sd(d)));      length-controlled rate = σ(θ)

    A tie enters as half a win and half a loss. The interval is that of θ, carried through σ, with variances
    that are robust to prompts with several comparisons: the sandwich, with each prompt's residuals corrected
    for its own pull on the fit (CR3, the jackknife). With fewer than 20 prompts it takes Student's quantile;
    with fewer than 5 there is none. Where every comparison is a tie it is that of the plain rate.

    Source: Dubois, Galambosi, Liang and Hashimoto 2024, section 3 (arXiv:2404.04475), for two policies; Bell
    and McCaffrey 2002 for the variances.

    Args:
        outcome: ``[n]`` of 1, 0.5 and 0, from the view of the first policy.
        first_lengths: ``[n]`` lengths of its texts, in words or characters (tokens of different tokenizers
            are different units).
        second_lengths: ``[n]`` lengths of the other policy's texts.
        clusters: as in `win_rate_of`.
        penalty: weight of φ²/2 per comparison. It keeps φ finite when length alone decides everything.

    Raises:
        ValueError: if every outcome is a win (or a loss), or all differences in length are the same and not
            0: then length and policy cannot be told apart.
    """
    y = _outcome(outcome)
    a, b = pair(first_lengths, second_lengths, ("first_lengths", "second_lengths"))
    if a.size != y.size:
        raise ValueError(f"outcome has {y.size} values and the lengths have "
                         f"{a.size}; they must fit row by row")
    if y.min() == y.max() and y[0] != 0.5:
        raise ValueError("every comparison has the same winner: no rate at equal lengths can be fitted")
    if not 0 <= penalty < np.inf:
        raise ValueError(f"penalty: expected 0 or more, got {penalty!r}")
    prompts = group_numbers(clusters, y.size)
    if y.min() == y.max():
        return LengthControlled(*share_ci(y, groups=prompts, level=level), 0.0)
    gap = a - b
    scale = float(gap.std())
    if scale == 0 and gap[0] != 0:
        raise ValueError(f"one policy is longer by {abs(gap[0]):g} in every comparison: length "
                         "and policy cannot be told apart")
    columns = [np.ones(y.size)] + ([np.tanh(gap / scale)] if scale > 0 else [])
    x = np.stack(columns, axis=1)  # [n, 1 or 2]
    coefficients, covariance = _logistic(x, y, prompts, penalty)
    n, half = int(prompts.max()) + 1, math.nan
    if covariance is not None:
        z = quantile(level, degrees=n - x.shape[1] if n < FEW else None)
        half = z * float(np.sqrt(covariance[0, 0]))
    theta = float(coefficients[0])
    effect = float(coefficients[1]) if scale > 0 else 0.0
    return LengthControlled(*(float(expit(theta + d)) for d in (0.0, -half, half)), effect)


def _logistic(x: NDArray[np.float64], y: NDArray[np.float64], clusters: NDArray[np.int64],
              penalty: float) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Coefficients ``[k]`` by Newton's method and their cluster-robust covariance ``[k, k]``.

    With fewer than 5 clusters there is no covariance.
    """
    weights = np.zeros(x.shape[1])
    ridge = np.diag([0.0] + [penalty * len(y)] * (x.shape[1] - 1))  # the intercept is free
    for _ in range(100):
        p = expit(x @ weights)
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
    p = expit(x @ weights)
    groups, k = int(clusters.max()) + 1, x.shape[1]
    if groups < FEWEST:
        return weights, None
    scores, curvature = np.zeros((groups, k)), np.zeros((groups, k, k))
    np.add.at(scores, clusters, x * (y - p)[:, None])
    np.add.at(curvature, clusters, x[:, :, None] * x[:, None, :] * (p * (1 - p))[:, None, None])
    bread = np.linalg.inv(curvature.sum(0) + ridge)
    # Without a prompt the fit would move by this much, to first order: (I - its curvature x bread)^-1.
    own = np.linalg.solve(np.eye(k) - curvature @ bread, scores[:, :, None])[:, :, 0]
    return weights, (1 - 1 / groups) * bread @ (own.T @ own) @ bread


def _outcome(values: ArrayLike) -> NDArray[np.float64]:
    y = vector(values, "outcome")
    odd = np.flatnonzero(~np.isin(y, (0.0, 0.5, 1.0)))
    if odd.size:
        raise ValueError(f"outcome: value {y[odd[0]]:g} at index {odd[0]} is none of 0, 0.5 and 1")
    return y


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value: how often a fair coin splits ``wins + losses`` throws at least this unevenly.

    Ties are left out. For paired right/wrong answers this is the exact McNemar test, with the two numbers of
    discordant pairs.

    Source: Arbuthnot 1710; McNemar 1947 (exact form).

    Raises:
        ValueError: if a count is negative or not whole.
    """
    for name, count in (("wins", wins), ("losses", losses)):
        if int(count) != count or count < 0:
            raise ValueError(f"{name}: expected a whole number of 0 or more, got {count!r}")
    n = int(wins + losses)
    return float(stats.binomtest(int(wins), n).pvalue) if n else 1.0


def comparisons_needed(rate: float, *, ties: float = 0.0, power: float = 0.8, level: float = 0.95) -> int:
    """Prompts after which a true win rate is told from one half with probability ``power``.

    With ``t`` the share of ties, one outcome (1, 0.5 or 0) has variance (1 − t)/4 if both are equally good,
    and p(1 − p) − t/4 at the rate p:

        n = ((z_level · sqrt((1 − t)/4) + z_power · sqrt(p(1 − p) − t/4)) / (p − 1/2))²

    Source: the normal approximation of any textbook, for instance Fleiss, Levin and Paik 2003, section 2.4.

    Raises:
        ValueError: if the rate is 0.5, or cannot be reached with so many ties.
    """
    _check(rate, ties)
    if rate == 0.5:
        raise ValueError("rate: one half is no difference; no number of comparisons can show it")
    z_level, z_power = _quantiles(power, level)
    equal, there = (1 - ties) / 4, max(rate * (1 - rate) - ties / 4, 0.0)
    reach = z_level * math.sqrt(equal) + z_power * math.sqrt(there)
    return max(1, math.ceil((reach / (rate - 0.5)) ** 2))


def prompts_needed(difference: float, spread: float, *, power: float = 0.8, level: float = 0.95) -> int:
    """Prompts after which a true mean difference of scores is told from 0 with probability ``power``.

        n = ((z_level + z_power) · spread / difference)²

    Args:
        difference: the true mean of first minus second.
        spread: standard deviation of that difference *between prompts*: with paired texts, of the paired
            differences, not of the scores.

    Raises:
        ValueError: if the difference is 0 or the spread is not positive.
    """
    if difference == 0 or not math.isfinite(difference):
        raise ValueError(f"difference: expected a number other than 0, got {difference!r}")
    if not 0 < spread < math.inf:
        raise ValueError(f"spread: expected a positive number, got {spread!r}")
    return max(1, math.ceil((sum(_quantiles(power, level)) * spread / difference) ** 2))


def sign_test_power(rate: float, n: int, *, ties: float = 0.0, level: float = 0.95) -> float:
    """Exact probability that `sign_test` on ``n`` comparisons finds a true win rate, in its direction or not.

    The number of decided comparisons is binomial, and so are the wins among them; both sums are exact.

    Raises:
        ValueError: if ``n`` < 1, or the rate cannot be reached with so many ties.
    """
    _check(rate, ties)
    _quantiles(0.5, level)
    if int(n) != n or n < 1:
        raise ValueError(f"n: expected a whole number of 1 or more, got {n!r}")
    if ties == 1:
        return 0.0
    win = min(1.0, max(0.0, (rate - ties / 2) / (1 - ties)))  # P(win | no tie)
    tail = (1 - level) / 2 + 1e-12
    decided = np.arange(int(n) + 1)
    # The largest count that the test still calls significant, -1 if none is.
    last = stats.binom.ppf(tail, decided, 0.5)
    last = np.where(stats.binom.cdf(last, decided, 0.5) > tail, last - 1, last)
    rejected = stats.binom.cdf(last, decided, win) + stats.binom.sf(decided - last - 1, decided, win)
    return float(min(1.0, (stats.binom.pmf(decided, int(n), 1 - ties) * rejected).sum()))


def _quantiles(power: float, level: float) -> tuple[float, float]:
    if not 0 < power < 1 or not 0 < level < 1:
        raise ValueError(f"power and level lie between 0 and 1, got {power!r} and {level!r}")
    return float(stats.norm.ppf(0.5 + level / 2)), float(stats.norm.ppf(power))


def _check(rate: float, ties: float) -> None:
    if not 0 <= ties <= 1:
        raise ValueError(f"ties: expected a share from 0 to 1, got {ties!r}")
    if not ties / 2 <= rate <= 1 - ties / 2:
        ends = f"[{ties / 2:g}, {1 - ties / 2:g}]"
        raise ValueError(f"rate: with a share {ties:g} of ties it lies in {ends}, got {rate!r}")
