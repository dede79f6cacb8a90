"""Every interval, test and calibration score of the package, once.

The unit of chance is what is independent of the others: the prompt, the chain of revisions, the group of
pairs that share their texts. Several values of one unit are averaged before anything else.
"""

from __future__ import annotations

from rlhf_lite.evaluation.statistics.calibration import (
    CalibrationBin,
    Units,
    auc,
    brier_score,
    calibration_bins,
    expected_calibration_error,
    pair_accuracy,
    pair_quality,
    units_of,
)
from rlhf_lite.evaluation.statistics.intervals import (
    Interval,
    bootstrap_mean_ci,
    group_means,
    mean_ci,
    paired_difference_ci,
    pearson_ci,
    share_ci,
    wilson_interval,
)
from rlhf_lite.evaluation.statistics.win_rates import (
    LengthControlled,
    WinRate,
    comparisons_needed,
    length_controlled_win_rate,
    outcomes,
    prompts_needed,
    sign_test,
    sign_test_power,
    win_rate,
    win_rate_of,
)
