"""How many comparisons a difference needs, and what a count of wins and losses proves."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats


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
