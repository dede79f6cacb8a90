"""Intervals and calibration scores: hand values, scipy parity, coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlhf_lite.evaluation.statistics import (
    auc,
    bootstrap_mean_ci,
    brier_score,
    calibration_bins,
    expected_calibration_error,
    group_means,
    mean_ci,
    pair_accuracy,
    pair_quality,
    paired_difference_ci,
    pearson_ci,
    share_ci,
    units_of,
    wilson_interval,
)
from rlhf_lite.types import Preference


def test_bootstrap_mean_is_the_mean_and_the_seed_decides():
    values = np.array([1.0, 2.0, 3.0, 6.0] * 10) + np.linspace(-0.5, 0.5, 40)
    first = bootstrap_mean_ci(values, seed=3)
    assert first.estimate == pytest.approx(3.0)
    assert first.ends == [first.low, first.high]
    assert 2.2 < first.low < 3.0 < first.high < 3.8
    assert first == bootstrap_mean_ci(values, seed=3)
    assert first != bootstrap_mean_ci(values, seed=4)


@pytest.mark.parametrize("n", [1, 9, 200])
def test_equal_values_have_no_interval_instead_of_one_without_width(n):
    for found in (bootstrap_mean_ci([0.1] * n, seed=0), mean_ci([0.1] * n, seed=0),
                  mean_ci([0.1] * 3 * n, groups=[i // 3 for i in range(3 * n)], seed=0)):
        assert found.estimate == pytest.approx(0.1) and np.isnan(found.ends).all()


def test_bootstrap_agrees_with_scipy_percentile():
    values = np.random.default_rng(0).gamma(2.0, size=150)
    ours = bootstrap_mean_ci(values, level=0.9, resamples=20_000, seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_bootstrap_in_several_chunks_matches_one_chunk(monkeypatch):
    import rlhf_lite.evaluation.statistics.intervals as module

    values = np.arange(50.0)
    whole = bootstrap_mean_ci(values, resamples=1000, seed=0)
    monkeypatch.setattr(module, "_CHUNK", 50 * 300)
    assert bootstrap_mean_ci(values, resamples=1000, seed=0) == whole


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says(level):
    rng = np.random.default_rng(7)
    trials = 400
    hits = 0
    for trial in range(trials):
        interval = bootstrap_mean_ci(rng.exponential(size=80), level=level, resamples=400, seed=trial)
        hits += interval.low <= 1.0 <= interval.high
    # Three standard errors of the share, plus the known shortfall of the percentile method at n = 80.
    slack = 3 * math.sqrt(level * (1 - level) / trials) + 0.02
    assert abs(hits / trials - level) < slack


def test_paired_difference_removes_the_spread_between_items():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(scale=5.0, size=100)
    a = difficulty + 0.5 + rng.normal(scale=0.1, size=100)
    b = difficulty
    interval = paired_difference_ci(a, b, seed=0)
    assert interval.estimate == pytest.approx(np.mean(a - b))
    assert interval.low > 0.45 and interval.high < 0.55
    swapped = paired_difference_ci(b, a, seed=0)
    assert swapped.estimate == pytest.approx(-interval.estimate)
    assert interval == bootstrap_mean_ci(a - b, seed=0)


def test_wilson_hand_value():
    # p = 0.9, n = 10, z = 1.959964: centre = (0.9 + 0.192073) / 1.384146, half = 0.193142.
    interval = wilson_interval(9, 10)
    assert interval.estimate == 0.9
    assert interval.low == pytest.approx(0.595850, abs=1e-6)
    assert interval.high == pytest.approx(0.982124, abs=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 20), (1, 30), (15, 30), (262, 300), (20, 20)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_agrees_with_scipy(successes, n, level):
    theirs = stats.binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    ours = wilson_interval(successes, n, level)
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilson_accepts_half_a_success_for_a_tie():
    assert wilson_interval(1, 10).low < wilson_interval(1.5, 10).low < wilson_interval(2, 10).low


def test_wilson_coverage_averaged_over_shares():
    n, z_level = 40, 0.95
    inside = np.array([wilson_interval(k, n, z_level)[1:] for k in range(n + 1)])
    shares = np.linspace(0.05, 0.95, 91)
    weights = stats.binom.pmf(np.arange(n + 1)[None, :], n, shares[:, None])
    covered = (inside[:, 0] <= shares[:, None]) & (shares[:, None] <= inside[:, 1])
    assert (weights * covered).sum(axis=1).mean() == pytest.approx(z_level, abs=0.01)


def test_pearson_agrees_with_scipy():
    rng = np.random.default_rng(1)
    x = rng.normal(size=120)
    y = 0.6 * x + rng.normal(size=120)
    theirs = stats.pearsonr(x, y)
    low, high = theirs.confidence_interval(0.9)
    ours = pearson_ci(x, y, level=0.9)
    assert tuple(ours) == pytest.approx((theirs.statistic, low, high), abs=1e-12)


def test_pearson_of_a_line_has_no_interval():
    found = pearson_ci([1, 2, 3, 4], [-2, -4, -6, -8])
    assert found.estimate == pytest.approx(-1.0) and np.isnan(found.ends).all()


def test_brier_hand_values():
    assert brier_score([0.9, 0.2], [1, 0]) == pytest.approx((0.01 + 0.04) / 2)
    assert brier_score([0.5] * 4, [0, 1, 1, 0]) == 0.25
    assert brier_score([1, 0], [True, False]) == 0.0


def test_brier_agrees_with_scikit_learn():
    from sklearn.metrics import brier_score_loss

    rng = np.random.default_rng(0)
    p = rng.uniform(size=50)
    y = rng.integers(0, 2, size=50)
    assert brier_score(p, y) == pytest.approx(brier_score_loss(y, p), abs=1e-12)


def test_calibration_hand_values():
    p = [0.1, 0.2, 0.7, 0.8, 0.9]
    y = [0, 1, 1, 1, 0]
    low, high = calibration_bins(p, y, bins=2)
    assert (low.low, low.high, low.n) == (0.0, 0.5, 2)
    assert (low.predicted, low.observed) == pytest.approx((0.15, 0.5))
    assert (high.predicted, high.observed, high.n) == pytest.approx((0.8, 2 / 3, 3))
    expected = (2 * 0.35 + 3 * (0.8 - 2 / 3)) / 5
    assert expected_calibration_error(p, y, bins=2) == pytest.approx(expected)


def test_calibration_edges_fall_into_a_bin_and_empty_bins_are_left_out():
    bins = calibration_bins([0.0, 0.5, 1.0], [0, 1, 1], bins=4)
    assert [(part.low, part.n) for part in bins] == [(0.0, 1), (0.25, 1), (0.75, 1)]


def test_calibrated_forecasts_have_a_small_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=20_000)
    y = rng.uniform(size=20_000) < p
    assert expected_calibration_error(p, y) < 0.015
    assert expected_calibration_error(p, ~y) > 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean_ci([], seed=0), "values: expected at least 1 values, got 0"),
        (lambda: bootstrap_mean_ci([[1.0]], seed=0), "expected one dimension, got shape"),
        (lambda: bootstrap_mean_ci([1.0, float("nan")], seed=0), "the first at index 1"),
        (lambda: bootstrap_mean_ci([1.0, float("inf")], seed=0), "NaN or infinite"),
        (lambda: bootstrap_mean_ci(["good"], seed=0), "values: expected numbers"),
        (lambda: bootstrap_mean_ci([1.0], level=95, seed=0), "level: expected a number between 0 and 1"),
        (lambda: bootstrap_mean_ci([1.0], resamples=10, seed=0), "resamples: expected"),
        (lambda: paired_difference_ci([1.0, 2.0], [1.0], seed=0), "a has 2 values and b has 1"),
        (lambda: wilson_interval(5, 4), "from 0 to n = 4, got 5"),
        (lambda: wilson_interval(float("nan"), 4), "got nan"),
        (lambda: wilson_interval(0, 0), "n: expected a whole number"),
        (lambda: pearson_ci([1, 2, 3], [1, 2, 3]), "x: expected at least 4 values"),
        (lambda: pearson_ci([1, 1, 1, 1], [1, 2, 3, 4]), "x: all 4 values are 1"),
        (lambda: brier_score([1.2], [1]), "probabilities: value 1.2 at index 0"),
        (lambda: brier_score([0.2], [-1]), "outcomes: value -1 at index 0"),
        (lambda: calibration_bins([0.2], [1], bins=0), "bins: expected"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- Few units, and several values of one


def test_few_values_get_students_interval_and_very_few_none():
    values = np.random.default_rng(2).normal(size=12)
    low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert mean_ci(values, seed=0).ends == pytest.approx([low, high])
    few = mean_ci(values[:4], seed=0)
    assert few.estimate == pytest.approx(values[:4].mean()) and np.isnan(few.ends).all()
    assert mean_ci(np.arange(50.0), seed=0) == bootstrap_mean_ci(np.arange(50.0), seed=0)
    assert mean_ci(np.arange(49.0), seed=0) != bootstrap_mean_ci(np.arange(49.0), seed=0)


@pytest.mark.parametrize("n", [5, 8, 15])
def test_the_interval_of_few_values_covers_the_mean_where_the_bootstrap_does_not(n):
    rng, trials = np.random.default_rng(n), 600
    draws = rng.normal(size=(trials, n))
    hits = np.mean([mean_ci(row, seed=0).low <= 0 <= mean_ci(row, seed=0).high for row in draws])
    resampled = [bootstrap_mean_ci(row, resamples=400, seed=0) for row in draws]
    assert hits == pytest.approx(0.95, abs=0.03)
    assert np.mean([one.low <= 0 <= one.high for one in resampled]) < hits


def test_values_of_one_prompt_are_averaged_first():
    values, prompts = [1.0, 3.0, 8.0, 0.0, 2.0], ["a", "a", "b", "c", "c"]
    assert group_means(values, prompts).tolist() == [2.0, 8.0, 1.0]
    rng = np.random.default_rng(4)
    data = rng.normal(size=30)
    repeated = mean_ci(np.repeat(data, 5), groups=np.repeat(np.arange(30), 5), seed=0)
    assert repeated == pytest.approx(mean_ci(data, seed=0))
    difference = paired_difference_ci(np.repeat(data, 2), np.zeros(60), groups=np.arange(60) // 2, seed=0)
    assert difference == pytest.approx(mean_ci(data, seed=0))
    with pytest.raises(ValueError, match="one for each of 2 rows"):
        mean_ci([1.0, 2.0], groups=["a"], seed=0)


def test_a_share_of_few_prompts_with_ties_takes_students_quantile():
    values = [1, 0.5, 0, 1, 1, 0.5]
    p, v = np.mean(values), np.var(values)
    n, z = 6 * p * (1 - p) / v, stats.t.ppf(0.975, 5)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert share_ci(values) == pytest.approx((p, centre - half, centre + half))
    assert share_ci([1, 1, 0, 1]) == pytest.approx(wilson_interval(3, 4))
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        share_ci([0.5, 1.5])


# --- Pairs of texts


def test_pairs_by_hand():
    found = pair_quality([2.0, 0.0, -2.0, 1.0], bins=2)
    assert found["accuracy"] == 2.5 / 4 and found["ci95"] == wilson_interval(2.5, 4).ends
    p = 1 / (1 + np.exp(-np.array([2.0, 0.0, -2.0, 1.0])))
    assert found["brier"] == pytest.approx(np.mean((1 - p) ** 2))
    both, outcome = np.concatenate([p, 1 - p]), [1] * 4 + [0] * 4
    assert found["ece"] == pytest.approx(expected_calibration_error(both, outcome))
    assert sum(part["n"] for part in found["bins"]) == 8 and found["n_pairs"] == 4


def test_pairs_that_share_texts_count_less():
    gaps = [1.0, -1.0, 1.0, 1.0] * 10
    apart = pair_accuracy(gaps, units=[(f"a{i}", f"b{i}") for i in range(40)])
    assert apart == pair_accuracy(gaps) == wilson_interval(30, 40)
    # Every pair four times under its prompt says no more than once: 40 comparisons of 10 prompts.
    prompts = [(i % 10, i % 10) for i in range(40)]
    once = [1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0]
    copied = pair_accuracy(once * 4, units=prompts)
    z = stats.t.ppf(0.975, 9)
    p, n = 0.8, 9  # ten prompts, one of them lost to the estimated variance
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    assert copied == pytest.approx((p, centre - half, centre + half))
    # All right: as many as there are independent units, here half of eight texts in a ring.
    ring = pair_accuracy([1.0] * 8, units=[(i, (i + 1) % 8) for i in range(8)])
    z = stats.t.ppf(0.975, 3)
    assert ring == pytest.approx((1.0, 4 / (4 + z * z), 1.0))


def test_the_units_of_pairs():
    def one(prompt, chosen, rejected, **meta):
        return Preference(prompt, chosen, rejected, meta=meta)

    asked = [one("Why?", " a", " b"), one("Why?", " c", " d"), one("", "e", "f")]
    assert units_of(asked) == [("Why?", "Why?"), ("Why?", "Why?"), ("e", "f")]
    rated = [one("The", " a", " b", chosen_id="1"), one("A", " c", " d", chosen_id="2")]
    assert units_of(rated) == [("The a", "The b"), ("A c", "A d")]
    assert units_of(asked[:2]) == [("Why? a", "Why? b"), ("Why? c", "Why? d")]  # one prompt: no unit
    with pytest.raises(ValueError, match="one for each of 3 pairs"):
        pair_accuracy([1.0, 2.0, 3.0], units=units_of(rated))


def test_the_auc_by_hand():
    # Of six comparisons 2>1, 2>0.5, 0.7>0.5 and 1>0.5 are right, 0.7<1 is wrong, and 1=1 counts one half.
    assert auc([2.0, 0.7, 1.0], [1.0, 0.5]) == pytest.approx(4.5 / 6)
