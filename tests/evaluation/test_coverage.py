"""Every interval that the package prints holds the truth as often as it says, and is not too wide.

The cases are those of ``benchmarks.coverage``, which prints the whole table with more runs.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.coverage import CASES, Case, measure
from rlhf_lite.evaluation.readiness.check import calibration_error_ci, length_correlation, skill_ci
from rlhf_lite.evaluation.statistics import (
    bootstrap_mean_ci,
    length_controlled_win_rate,
    mean_ci,
    pair_accuracy,
    pair_quality,
    paired_difference_ci,
    pearson_ci,
    share_ci,
    win_rate,
    win_rate_of,
)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.slow] * (case.slow > 4)) for case in CASES]
)
def test_an_interval_covers_the_truth_and_is_not_too_wide(case: Case):
    runs = 500 // case.slow if case.slow <= 4 else 100
    found = measure(case, runs, seed=1)
    # Two standard errors of the simulation, three where a single run in fifty tells them apart.
    slack = (2 if runs > 100 else 3) * math.sqrt(case.least * (1 - case.least) / runs)
    assert found.covered >= case.least - slack
    assert found.width <= case.widest + 0.1
    assert found.narrowest > 0


ONE = {
    "mean": lambda x: mean_ci(x, seed=0),
    "mean over groups": lambda x: mean_ci(x, groups=np.arange(np.size(x)) // 2, seed=0),
    "bootstrap": lambda x: bootstrap_mean_ci(x, seed=0),
    "difference": lambda x: paired_difference_ci(x, np.zeros(np.size(x)), seed=0),
    "share": lambda x: share_ci(x),
    "win rate": lambda x: win_rate(x, np.zeros(np.size(x))),
    "win rate of outcomes": lambda x: win_rate_of(x),
    "length-controlled": lambda x: length_controlled_win_rate(x, np.arange(np.size(x)), np.ones(np.size(x))),
    "length-controlled, one prompt": lambda x: length_controlled_win_rate(
        x, np.arange(np.size(x)), np.ones(np.size(x)), clusters=np.zeros(np.size(x))),
    "pairs": lambda x: pair_accuracy(x),
    "pairs of one prompt": lambda x: pair_accuracy(x, units=[("a", "a")] * np.size(x)),
    "pairs of one text": lambda x: pair_accuracy(x, units=[("a", i) for i in range(np.size(x))]),
    "weighted pairs": lambda x: pair_accuracy(x, weights=np.ones(np.size(x))),
    "quality of pairs": lambda x: pair_accuracy(x)._replace(low=pair_quality(x)["ci95"][0]),
    "correlation": lambda x: pearson_ci(x, np.arange(np.size(x))),
    "length": lambda x: length_correlation(x, np.arange(np.size(x)) % 3, np.ones(np.size(x))),
    "skill": lambda x: skill_ci(x),
    "calibration": lambda x: calibration_error_ci(x, resamples=100, seed=0),
}
DATA = {
    "nothing": [], "one": [1.0], "two": [0.0, 1.0], "zeros": [0.0] * 12, "ones": [1.0] * 12,
    "ties": [0.5] * 12, "many ties": [0.5] * 300, "one of many": [1.0] + [0.0] * 299,
    "a line": list(np.arange(12) / 11), "NaN": [0.0, float("nan")] * 6, "infinite": [1.0, float("inf")] * 6,
    "huge": [1e308, 0.0] * 6, "tiny": [0.0, 5e-324] * 6, "words": ["good"] * 6, "a table": [[1.0, 0.0]] * 6,
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", ONE)
def test_odd_data_get_an_answer_or_a_clear_refusal_and_never_an_interval_without_width(name: str, data: str):
    try:
        found = ONE[name](DATA[data])
    except ValueError as error:
        assert str(error)[0].isalpha() and "operands" not in str(error) and len(str(error)) < 250
        return
    assert math.isfinite(found.estimate)
    assert (math.isnan(found.low) and math.isnan(found.high)) or found.low < found.high
