"""Win rates against Wilson's interval, scikit-learn, simulation with a known truth, and enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from rlhf_lite.evaluation.statistics import (
    comparisons_needed,
    length_controlled_win_rate,
    outcomes,
    prompts_needed,
    sign_test,
    sign_test_power,
    wilson_interval,
    win_rate,
    win_rate_of,
)


def test_outcomes_by_hand_with_a_margin() -> None:
    # differences +0.5, 0, -0.25, -2: the third is within the margin
    assert outcomes([1.5, 1, 0.75, 0], [1, 1, 1, 2], margin=0.25).tolist() == [1, 0.5, 0.5, 0]
    assert outcomes([1.5, 1, 0.75, 0], [1, 1, 1, 2]).tolist() == [1, 0.5, 0, 0]


def test_counts_and_estimate_by_hand() -> None:
    found = win_rate([3, 2, 1, 5, 5], [1, 2, 2, 4, 4])  # won, tied, lost, won, won
    assert (found.wins, found.ties, found.losses, found.prompts, found.n) == (3, 1, 1, 5, 5)
    assert found.estimate == pytest.approx(0.7)
    assert found.ends == [found.low, found.high]


@pytest.mark.parametrize(("wins", "n"), [(0, 12), (7, 12), (12, 12), (31, 50)])
def test_without_ties_and_clusters_it_is_wilsons_interval(wins: int, n: int) -> None:
    found = win_rate_of([1.0] * wins + [0.0] * (n - wins))
    assert (found.estimate, found.low, found.high) == pytest.approx(wilson_interval(wins, n))


def test_repeating_every_comparison_under_its_prompt_adds_nothing() -> None:
    y = np.array([1, 0, 0.5, 1, 1, 0, 1, 0.5])
    once = win_rate_of(y)
    thrice = win_rate_of(np.repeat(y, 3), clusters=np.repeat(np.arange(8), 3))
    assert thrice[:3] == pytest.approx(once[:3])
    naive = win_rate_of(np.repeat(y, 3))
    assert naive.high - naive.low < 0.75 * (once.high - once.low)


def test_each_prompt_counts_once_however_often_it_was_sampled() -> None:
    found = win_rate_of([1, 1, 1, 0], clusters=["a", "a", "a", "b"])
    assert found.estimate == 0.5 and found.prompts == 2


def test_ties_narrow_the_interval_and_all_ties_leave_a_wide_one() -> None:
    split = win_rate_of([1, 0] * 20)
    some = win_rate_of([1, 0, 0.5, 0.5] * 10)
    assert some.high - some.low < split.high - split.low
    only = win_rate_of([0.5] * 10)
    assert (only.low, only.high) == pytest.approx(wilson_interval(5, 10)[1:])


@pytest.mark.parametrize("samples", [1, 4])
def test_the_interval_covers_the_truth_with_ties_and_clusters(samples: int) -> None:
    rng = np.random.default_rng(1)
    prompts, runs, hit = 40, 1500, 0
    for _ in range(runs):
        quality = rng.normal(0.4, 1.0, (prompts, 1))  # shared by the samples of a prompt
        gap = quality + rng.normal(0, 1.0, (prompts, samples))
        y = np.where(np.abs(gap) < 0.3, 0.5, gap > 0)
        found = win_rate_of(y.ravel(), clusters=np.repeat(np.arange(prompts), samples))
        hit += found.low <= _truth() <= found.high
    assert 0.925 < hit / runs < 0.975


def _truth() -> float:
    from statistics import NormalDist

    gap = NormalDist(0.4, 2**0.5)
    return 1 - 0.5 * (gap.cdf(0.3) + gap.cdf(-0.3))  # P(gap > 0.3) + half of P(|gap| < 0.3)


def _length_case(rng: np.random.Generator, n: int, theta: float, phi: float):
    a, b = rng.integers(5, 60, n), rng.integers(5, 40, n)
    gap = (a - b) / (a - b).std()
    y = (rng.random(n) < 1 / (1 + np.exp(-(theta + phi * np.tanh(gap))))).astype(float)
    return y, a, b


@pytest.mark.parametrize("penalty", [0.0, 0.05])
def test_length_control_agrees_with_scikit_learn(penalty: float) -> None:
    y, a, b = _length_case(np.random.default_rng(3), 300, -0.4, 1.2)
    y[::7] = 0.5  # a tie is half a win and half a loss
    x = np.tanh((a - b) / (a - b).std())[:, None]
    rows, labels = np.concatenate([x, x]), np.repeat([1, 0], len(y))
    weights = np.concatenate([y, 1 - y])
    c = np.inf if penalty == 0 else 1 / (penalty * len(y))
    model = LogisticRegression(C=c, tol=1e-10, max_iter=1000).fit(rows, labels, sample_weight=weights)
    found = length_controlled_win_rate(y, a, b, penalty=penalty)
    assert found.length_effect == pytest.approx(model.coef_[0, 0], abs=1e-4)
    assert found.estimate == pytest.approx(1 / (1 + np.exp(-model.intercept_[0])), abs=1e-4)


def test_length_control_finds_the_known_truth_where_the_plain_rate_misses_it() -> None:
    rng = np.random.default_rng(5)
    truth, hit, raw, runs = 1 / (1 + np.exp(0.4)), 0, 0, 400
    for _ in range(runs):
        y, a, b = _length_case(rng, 250, -0.4, 2.0)
        found = length_controlled_win_rate(y, a, b, penalty=0.0)
        hit += found.low <= truth <= found.high
        plain = win_rate_of(y)
        raw += plain.low <= truth <= plain.high
    assert 0.92 < hit / runs < 0.98
    assert raw / runs < 0.5


def test_without_differences_in_length_it_is_the_plain_rate() -> None:
    found = length_controlled_win_rate([1, 0, 1, 1, 0.5], [9] * 5, [9] * 5)
    assert found.estimate == pytest.approx(0.7) and found.length_effect == 0


def test_swapping_the_policies_mirrors_the_rate() -> None:
    y, a, b = _length_case(np.random.default_rng(7), 120, 0.3, 0.8)
    one, other = length_controlled_win_rate(y, a, b), length_controlled_win_rate(1 - y, b, a)
    assert other.estimate == pytest.approx(1 - one.estimate)
    assert (other.low, other.high) == pytest.approx((1 - one.high, 1 - one.low))
    assert other.length_effect == pytest.approx(one.length_effect)


def test_repeated_comparisons_do_not_narrow_the_length_controlled_interval() -> None:
    y, a, b = _length_case(np.random.default_rng(9), 80, 0.3, 0.8)
    once = length_controlled_win_rate(y, a, b)
    names = np.repeat(np.arange(80), 3)
    thrice = length_controlled_win_rate(*(np.repeat(v, 3) for v in (y, a, b)), clusters=names)
    assert thrice[:3] == pytest.approx(once[:3], abs=1e-6)


def test_length_that_decides_everything_needs_the_penalty() -> None:
    a, b = np.array([9, 8, 7, 1, 2, 3]), np.full(6, 5)
    y = (a > b).astype(float)
    assert np.isfinite(length_controlled_win_rate(y, a, b).length_effect)
    with pytest.raises(ValueError, match="penalty"):
        length_controlled_win_rate(y, a, b, penalty=0.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1, 1], [4, 5], [5, 4]), "same winner"),
        (([1, 0], [6, 5], [5, 4]), "told apart"),
        (([1, 0.3], [6, 5], [5, 4]), "none of 0, 0.5 and 1"),
        (([1, 0, 1], [6, 5], [5, 4]), "row by row"),
    ],
)
def test_what_cannot_be_fitted_is_refused(arguments, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        length_controlled_win_rate(*arguments)


def test_bad_input_of_a_win_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        win_rate([1, float("nan")], [1, 1])
    with pytest.raises(ValueError, match="margin"):
        win_rate([1], [1], margin=-1)
    with pytest.raises(ValueError, match="groups"):
        win_rate([1, 2], [1, 1], clusters=[0])


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (3, 3), (9, 1), (41, 60), (0, 6)])
def test_the_sign_test_agrees_with_scipy(wins: int, losses: int) -> None:
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected)


def test_power_by_enumerating_every_sequence_of_outcomes() -> None:
    rate, ties, n = 0.8, 0.2, 8
    chances = {1.0: rate - ties / 2, 0.5: ties, 0.0: 1 - rate - ties / 2}
    expected = 0.0
    for row in product(chances, repeat=n):
        if sign_test(row.count(1.0), row.count(0.0)) <= 0.05:
            expected += np.prod([chances[outcome] for outcome in row])
    assert sign_test_power(rate, n, ties=ties) == pytest.approx(expected)


@pytest.mark.parametrize(("rate", "ties"), [(0.6, 0.0), (0.6, 0.3), (0.35, 0.1)])
def test_the_number_needed_has_the_power_it_promises(rate: float, ties: float) -> None:
    n = comparisons_needed(rate, ties=ties)
    rng, chances = np.random.default_rng(11), (rate - ties / 2, ties, 1 - rate - ties / 2)
    drawn = rng.multinomial(n, chances, 4000)
    score = (drawn[:, 0] - drawn[:, 2]) / np.sqrt(drawn[:, 0] + drawn[:, 2])
    assert np.mean(np.abs(score) > 1.96) == pytest.approx(0.8, abs=0.03)
    assert sign_test_power(rate, n, ties=ties) == pytest.approx(0.8, abs=0.05)


def test_numbers_needed_by_hand() -> None:
    # (1.959964 · 0.5 + 0.841621 · sqrt(0.24))² / 0.01 = (0.979982 + 0.412309)² / 0.01 = 193.8
    assert comparisons_needed(0.6) == 194
    assert comparisons_needed(0.6) == comparisons_needed(0.4)
    # (1.959964 + 0.841621)² · 4 = 31.4
    assert prompts_needed(0.5, 1.0) == 32


def test_impossible_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="one half"):
        comparisons_needed(0.5)
    with pytest.raises(ValueError, match="ties"):
        comparisons_needed(0.9, ties=0.4)
    with pytest.raises(ValueError, match="difference"):
        prompts_needed(0.0, 1.0)
    with pytest.raises(ValueError, match="wins"):
        sign_test(-1, 2)
