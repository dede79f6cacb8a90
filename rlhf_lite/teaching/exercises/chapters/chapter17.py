"""Chapter 17: ties, the unit of chance, length, sample size, a trap of mixtures."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from statistics import mean, pvariance, variance

from rlhf_lite.teaching.exercises.loading import Mistakes

Row = list[float]
Counts = list[int]
MISTAKES: Mistakes = {}


def win_rate_with_ties(first: Row, second: Row, margin: float) -> float:
    """A win rate in which a tie counts one half."""
    wins, ties, _ = _counted(first, second, margin)
    return (wins + ties / 2) / len(first)


def _counted(first: Row, second: Row, margin: float) -> tuple[int, int, int]:
    """Wins, ties, losses."""
    gaps = [x - y for x, y in zip(first, second, strict=True)]
    wins = sum(gap > margin for gap in gaps)
    ties = sum(abs(gap) <= margin for gap in gaps)
    return wins, ties, len(gaps) - wins - ties


def _of_counts(rate: Callable[[int, int, int], float]) -> Callable[[Row, Row, float], float]:
    return lambda first, second, margin: rate(*_counted(first, second, margin))


def _strict_margin(first: Row, second: Row, margin: float) -> float:
    gaps = [x - y for x, y in zip(first, second, strict=True)]
    return mean(0.5 if abs(gap) < margin else float(gap > 0) for gap in gaps)


MISTAKES["win_rate_with_ties"] = {
    "ties dropped": _of_counts(lambda wins, ties, losses: wins / (wins + losses)),
    "ties as losses": _of_counts(lambda wins, ties, losses: wins / (wins + ties + losses)),
    "ties as wins": _of_counts(lambda wins, ties, losses: (wins + ties) / (wins + ties + losses)),
    "the margin ignored": lambda a, b, margin: win_rate_with_ties(a, b, 0.0),
    "a strict margin": _strict_margin,
    "the second policy's rate": lambda a, b, margin: win_rate_with_ties(b, a, margin),
    "wins minus losses": _of_counts(lambda wins, ties, losses: (wins - losses) / (wins + ties + losses)),
}


def error_by_prompt(outcomes: Row, prompts: list[int]) -> float:
    """The standard error of a win rate when prompts have several comparisons."""
    means = _prompt_means(outcomes, prompts)
    return (variance(means) / len(means)) ** 0.5


def _prompt_means(outcomes: Row, prompts: list[int]) -> Row:
    rows = list(zip(outcomes, prompts, strict=True))
    return [mean(y for y, prompt in rows if prompt == one) for one in sorted(set(prompts))]


MISTAKES["error_by_prompt"] = {
    "every comparison on its own": lambda y, prompts: (variance(y) / len(y)) ** 0.5,
    "the formula of a coin": lambda y, prompts: (mean(y) * (1 - mean(y)) / len(y)) ** 0.5,
    "divided by the number of comparisons": lambda y, prompts:
        (variance(_prompt_means(y, prompts)) / len(y)) ** 0.5,
    "the variance with n": lambda y, prompts:
        (pvariance(_prompt_means(y, prompts)) / len(set(prompts))) ** 0.5,
    "the spread itself": lambda y, prompts: variance(_prompt_means(y, prompts)) ** 0.5,
    "the root forgotten": lambda y, prompts: error_by_prompt(y, prompts) ** 2,
}


def equal_length_rate(won_longer: int, longer: int, won_shorter: int, shorter: int) -> float:
    """Length control by hand, for a judge that only sees which text is longer."""
    return _sigmoid((_logit(won_longer / longer) + _logit(won_shorter / shorter)) / 2)


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


MISTAKES["equal_length_rate"] = {
    "all comparisons in one pot": lambda a, n, b, m: (a + b) / (n + m),
    "the mean of the two rates": lambda a, n, b, m: (a / n + b / m) / 2,
    "weighted by how often": lambda a, n, b, m: _sigmoid((n * _logit(a / n) + m * _logit(b / m)) / (n + m)),
    "only the shorter texts": lambda a, n, b, m: b / m,
    "only the longer texts": lambda a, n, b, m: a / n,
    "log-odds not turned back": lambda a, n, b, m: (_logit(a / n) + _logit(b / m)) / 2,
}


def comparisons_for(rate: float, z_level: float, z_power: float) -> int:
    """How many comparisons does a win rate need?"""
    return math.ceil(_comparisons(rate, z_level, z_power))


def _comparisons(rate: float, z_level: float, z_power: float) -> float:
    return (_reach(rate, z_level, z_power) / (rate - 0.5)) ** 2


def _reach(rate: float, z_level: float, z_power: float) -> float:
    return z_level * 0.5 + z_power * math.sqrt(rate * (1 - rate))


MISTAKES["comparisons_for"] = {
    "no power": lambda p, a, b: comparisons_for(p, a, 0.0),
    "the square forgotten": lambda p, a, b: math.ceil(_reach(p, a, b) / abs(p - 0.5)),
    "the distance from zero": lambda p, a, b: math.ceil((_reach(p, a, b) / p) ** 2),
    "variances for spreads": lambda p, a, b: math.ceil(((a * 0.25 + b * p * (1 - p)) / (p - 0.5)) ** 2),
    "two groups": lambda p, a, b: math.ceil(2 * _comparisons(p, a, b)),
    "rounded down": lambda p, a, b: math.floor(_comparisons(p, a, b)),
    "the two squared apart": lambda p, a, b: math.ceil(
        ((a * 0.5) ** 2 + b * b * p * (1 - p)) / (p - 0.5) ** 2
    ),
}


def same_mix_difference(a_good: Counts, a_all: Counts, b_good: Counts, b_all: Counts) -> float:
    """Two success rates on unequal mixtures of prompts."""
    return mean(_differences(a_good, a_all, b_good, b_all))


def _differences(a: Counts, n: Counts, b: Counts, m: Counts) -> Row:
    return [w / x - v / y for w, x, v, y in zip(a, n, b, m, strict=True)]


MISTAKES["same_mix_difference"] = {
    "all in one pot": lambda a, n, b, m: sum(a) / sum(n) - sum(b) / sum(m),
    "the first policy's mixture": lambda a, n, b, m:
        sum(map(operator.mul, n, _differences(a, n, b, m))) / sum(n),
    "the largest kind": lambda a, n, b, m: _differences(a, n, b, m)[
        max(range(len(n)), key=lambda kind: n[kind] + m[kind])
    ],
    "the second minus the first": lambda a, n, b, m: same_mix_difference(b, m, a, n),
    "the share of kinds won": lambda a, n, b, m: mean(float(d > 0) for d in _differences(a, n, b, m)),
    "the sum over kinds": lambda a, n, b, m: sum(_differences(a, n, b, m)),
}
