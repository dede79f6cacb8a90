"""Does a 95 % interval hold the truth 95 times in 100? Every interval of the package, by simulation.

    python -m benchmarks.coverage                      # the whole table: some minutes
    python -m benchmarks.coverage --only share --runs 400

Each case draws data whose truth is known, clustered where real data are (answers by prompt, pairs by text),
and asks the function that the package prints. ``covered`` has a standard error of sqrt(0.05 · 0.95 / runs),
0.007 with 1,000 runs. ``width`` is the mean width over that of an ideal interval: Student's, with the
estimate's true standard deviation and as many degrees of freedom as there are units, less one. ``none`` is
how often there was no interval. ``tests/evaluation/test_coverage.py`` holds every case to its bounds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import expit

from benchmarks.lab import interval as seeds_interval
from rlhf_lite.evaluation.gold import agreement_with_humans
from rlhf_lite.evaluation.readiness.check import (
    calibration_error_ci,
    length_correlation,
    readiness,
    skill_ci,
)
from rlhf_lite.evaluation.statistics import (
    Interval,
    expected_calibration_error,
    length_controlled_win_rate,
    mean_ci,
    pair_accuracy,
    pearson_ci,
    share_ci,
    win_rate,
)
from rlhf_lite.types import Preference, Rating

Random = np.random.Generator


class Case(NamedTuple):
    """One interval in one situation.

    Attributes:
        name: of both.
        draw: data from a source of chance, and the interval (or win rate) of them.
        truth: what the interval should hold; None takes the mean of all estimates.
        units: how many independent units the data have.
        least: coverage that must be reached.
        widest: most that the mean width may be, in ideal widths.
        slow: how many times longer than a plain case it takes.
    """

    name: str
    draw: Callable[[Random], Interval]
    truth: float | None
    units: int
    least: float = 0.92
    widest: float = 1.3
    slow: int = 1


class Found(NamedTuple):
    """What a case came to; see the module's text."""

    covered: float
    width: float
    narrowest: float
    none: float


def measure(case: Case, runs: int, *, seed: int = 0) -> Found:
    """Draw a case's data ``runs`` times."""
    rng = np.random.default_rng(seed)
    drawn = np.array([case.draw(rng)[:3] for _ in range(runs)], dtype=float)  # [runs, 3]
    there = ~np.isnan(drawn[:, 1])
    estimate, low, high = drawn.T
    truth = estimate.mean() if case.truth is None else case.truth
    inside = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
    ideal = 2 * stats.t.ppf(0.975, max(case.units - 1, 1)) * estimate.std()
    width = (high - low)[there]
    return Found(float(inside[there].mean()), float(width.mean() / ideal), float(width.min()),
                 float(1 - there.mean()))


def _means() -> Iterator[Case]:
    laws = {"normal": lambda rng, n: rng.normal(size=n), "uniform": lambda rng, n: rng.uniform(-1, 1, n),
            "skewed": lambda rng, n: rng.exponential(size=n) - 1}
    for law, of in laws.items():
        for n in (5, 10, 20, 50, 200):
            # Of ten skewed values no interval knows the tail that it has not seen.
            least = 0.86 if law == "skewed" and n <= 10 else 0.92
            yield Case(f"mean, {law}, {n} values", lambda rng, n=n, of=of: mean_ci(of(rng, n), seed=0), 0.0,
                       n, least=least, slow=4 if n >= 50 else 1)
    for n in (5, 20, 100):
        def one(rng: Random, n: int = n) -> Interval:
            data = rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=(n, 8))
            return mean_ci(data.ravel(), groups=np.repeat(np.arange(n), 8), seed=0)

        yield Case(f"mean, 8 samples of each of {n} prompts", one, 0.0, n, slow=4 if n >= 50 else 1)
    for n in (3, 5):
        yield Case(f"mean over {n} training seeds (benchmarks.lab)",
                   lambda rng, n=n: Interval(*seeds_interval(rng.normal(size=n).tolist()).values()), 0.0, n)


def _shares() -> Iterator[Case]:
    def share(prompts: int, samples: int, ties: float, p: float, whole: bool) -> Callable[[Random], Interval]:
        def one(rng: Random) -> Interval:
            # whole: a prompt's samples are all alike, such as texts that loop because of their prompt
            won = np.broadcast_to(rng.random((prompts, 1 if whole else samples)) < p, (prompts, samples))
            y = np.where(rng.random((prompts, samples)) < ties, 0.5, won)
            return share_ci(y.ravel(), groups=np.repeat(np.arange(prompts), samples))

        return one

    for prompts, samples, ties, p, whole in (
        (5, 1, 0.0, 0.5, False), (5, 1, 0.6, 0.5, False), (10, 1, 0.0, 0.8, False),
        (10, 1, 0.8, 0.5, False), (20, 1, 0.9, 0.5, False), (200, 1, 0.95, 0.5, False),
        (3, 16, 0.0, 0.5, False), (5, 8, 0.0, 0.5, False), (20, 4, 0.5, 0.7, False),
        (100, 4, 0.1, 0.9, False), (10, 20, 0.0, 0.5, True), (50, 20, 0.0, 0.5, True),
        (200, 20, 0.0, 0.1, True),
    ):
        about = f"{prompts} prompts, {samples} samples{' alike' if whole else ''}, {ties:.0%} ties, p = {p}"
        # Few prompts: the width of a win rate whose ties are rare by chance is that of no ties.
        wide = 1.6 if prompts <= 10 or ties >= 0.9 else 1.3
        yield Case(f"share, {about}", share(prompts, samples, ties, p, whole), ties / 2 + (1 - ties) * p,
                   prompts, widest=wide)
    truth = float(1 - stats.norm.cdf([0.3, -0.3], 0.4, 2**0.5).mean())
    for prompts in (5, 20, 150):
        def rate(rng: Random, prompts: int = prompts) -> Interval:
            gap = rng.normal(0.4, 1, (prompts, 1)) + rng.normal(0, 1, (prompts, 4))
            names = np.repeat(np.arange(prompts), 4)
            return Interval(*win_rate(gap.ravel(), np.zeros(4 * prompts), margin=0.3, clusters=names)[:3])

        yield Case(f"win rate, 4 samples of each of {prompts} prompts", rate, truth, prompts, widest=1.4)
    for prompts, samples in ((5, 8), (10, 1), (10, 8), (20, 1), (50, 4), (200, 1)):
        def controlled(rng: Random, prompts: int = prompts, samples: int = samples) -> Interval:
            a, b = rng.integers(5, 60, (prompts, samples)), rng.integers(5, 40, (prompts, samples))
            y = (rng.random(a.shape) < expit(0.4 + np.tanh((a - b) / 20.2))).ravel().astype(float)
            if y.min() == y.max():  # refused: there is no such rate
                return Interval(y[0], math.nan, math.nan)
            names = np.repeat(np.arange(prompts), samples)
            return Interval(*length_controlled_win_rate(y, a.ravel(), b.ravel(), clusters=names)[:3])

        yield Case(f"length-controlled rate, {prompts} prompts, {samples} samples", controlled,
                   float(expit(0.4)), prompts, widest=1.4, slow=2)


def _pairs() -> Iterator[Case]:
    right = float(stats.norm.cdf(1.2 / 2**0.5))

    def accuracy(n: int, texts: int, share: str) -> Callable[[Random], Interval]:
        def one(rng: Random) -> Interval:
            quality, fresh = rng.normal(size=texts), rng.normal(size=n)
            first = np.arange(n) % texts
            second = (first + rng.integers(1, texts, n)) % texts
            other = quality[second] if share == "a pool of texts" else fresh
            partner = {"a pool of texts": second, "prompts": first}.get(share, texts + np.arange(n))
            names = list(zip(first.tolist(), partner.tolist(), strict=True))
            return pair_accuracy(1.2 + quality[first] - other, units=names)

        return one

    for n, texts, kind in (
        (10, 20, "nothing"), (200, 400, "nothing"), (20, 16, "a pool of texts"), (100, 80, "a pool of texts"),
        (400, 200, "a pool of texts"), (40, 10, "one text each"), (200, 40, "one text each"),
        (20, 5, "prompts"), (100, 20, "prompts"), (400, 100, "prompts"),
    ):
        units = min(n, texts if kind != "a pool of texts" else texts // 2)
        yield Case(f"accuracy of {n} pairs that share {kind} ({texts})", accuracy(n, texts, kind), right,
                   units, widest=1.5 if units < 20 else 1.3, slow=1 if n < 200 else 3)
    many = np.random.default_rng(1).uniform(0.55, 1, 400_000)
    for n, p in ((5, 0.8), (10, 0.8), (20, 0.5), (20, 0.9), (200, 0.8)):
        def skill(rng: Random, n: int = n, p: float = p) -> Interval:
            agreement = rng.uniform(0.55, 1, n)  # people agree where the model is right
            found = rng.random(n) < np.clip(p + 0.4 * (agreement - 0.775), 0, 1)
            return skill_ci(np.where(found, 1.0, -1.0), agreement)

        chance, weight = np.clip(p + 0.4 * (many - 0.775), 0, 1), 2 * many - 1
        truth = float(2 * (weight @ chance) / weight.sum() - 1)
        yield Case(f"skill on {n} pairs, accuracy {p}", skill, truth, n, widest=1.5)
    true = np.random.default_rng(2).normal(0, 1.5, 100_000)
    told = np.where(np.random.default_rng(3).random(true.size) < expit(true), 1, -1) * true
    # Of 20 pairs in 10 bins the lower end is not to be trusted; the upper one is careful, see the function.
    for n, over in ((20, 1.0), (20, 2.0), (200, 1.0), (200, 2.0)):
        def off(rng: Random, n: int = n, over: float = over) -> Interval:
            return calibration_error_ci(over * rng.choice(told, n), resamples=200, seed=0)

        both = np.concatenate([expit(over * told), expit(-over * told)])
        error = expected_calibration_error(both, np.repeat([1.0, 0.0], told.size))
        yield Case(f"calibration error, {n} pairs, {over:g} times the log-odds", off, error, n,
                   least=0.88 if n == 20 else 0.92, widest=2.0, slow=10)


def _judges() -> Iterator[Case]:
    for n in (20, 100):
        def correlation(rng: Random, n: int = n) -> Interval:
            x = rng.normal(size=n)
            return pearson_ci(x, 0.6 * x + 0.8 * rng.normal(size=n))

        yield Case(f"correlation of {n} texts", correlation, 0.6, n)
    for n in (8, 12, 100):
        def length(rng: Random, n: int = n) -> Interval:
            rating = rng.normal(size=n)
            return length_correlation(rng.normal(size=n) + rating, rng.normal(size=n) + rating, rating)

        yield Case(f"score and length of {n} texts, rating held fixed", length, 0.0, n)

    def agreement(rng: Random, n: int, people: bool) -> Interval:
        if people:
            rated = [Rating(str(i), str(i), (int(score),), "made up") for i, score in
                     enumerate(rng.integers(-4, 5, n))]
            predicted = [0.3 * one.mean + 0.8 * rng.normal() for one in rated]
        else:  # preferences: two texts each, which share the prompt's difficulty
            rated = [Preference("", f"+{i}", f"-{i}") for i in range(n // 2)]
            ease = rng.normal(size=(n // 2, 1))
            predicted = (ease + np.array([0.7, -0.7]) + rng.normal(size=(n // 2, 2))).ravel()
        found = agreement_with_humans(lambda _: predicted, rated, min_gap=1.0)
        return Interval(found["pair_accuracy"], *found["pair_accuracy_ci95"])

    for n, people in ((20, True), (100, True), (20, False), (100, False)):
        yield Case(f"order of all pairs of {n} {'rated' if people else 'preferred'} texts",
                   lambda rng, n=n, people=people: agreement(rng, n, people), None, n, widest=1.6, slow=3)
    # The best of 8 standard normals is 1.4236 on average; reward and gold correlate, and prompts differ.
    gain = 1.4236 / (1 + 0.8**2) ** 0.5 / 2**0.5
    for prompts in (5, 10, 20, 60):
        def pool(rng: Random, prompts: int = prompts, place: int = 2, noise: float = 0.8) -> Interval:
            own = rng.normal(size=(prompts, 8))
            proxy = own + 0.8 * rng.normal(size=own.shape) if place == 2 else rng.normal(size=own.shape)
            gold = own + (rng.normal(size=(prompts, 1)) if place == 2 else 0)
            found = readiness(chosen=[1.0], rejected=[0.0], pool_scores=proxy, pool_gold=gold)
            return found.criteria[place].value

        yield Case(f"gain of the best of 8, {prompts} prompts", pool, gain, prompts, slow=10)
        yield Case(f"past the peak, {prompts} prompts, no effect", lambda rng, pool=pool: pool(rng, place=3),
                   0.0, prompts, widest=1.4, slow=10)


CASES = [*_means(), *_shares(), *_pairs(), *_judges()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--runs", type=int, default=2000)
    options = parser.parse_args()
    print(f"{'case':72} covered  width  narrowest  none   ({options.runs} runs)")
    for case in CASES:
        if options.only in case.name:
            found = measure(case, options.runs)
            mark = " " if found.covered >= case.least and found.width <= case.widest else "!"
            print(f"{case.name:72} {found.covered:7.3f} {found.width:6.2f} {found.narrowest:10.3f} "
                  f"{found.none:5.2f} {mark}", flush=True)


if __name__ == "__main__":
    main()
