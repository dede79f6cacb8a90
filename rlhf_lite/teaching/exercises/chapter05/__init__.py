"""The exercises of chapter 5 (reward modelling): the last token, the gradient of the loss, the ceiling that
disagreement sets, calibration, and the best of n.

The expected numbers are worked out by hand beside each case.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter05.best_of_n_unbiased import BEST_OF_N_UNBIASED
from rlhf_lite.teaching.exercises.chapter05.bt_gradient import BT_GRADIENT
from rlhf_lite.teaching.exercises.chapter05.calibration_error import CALIBRATION_ERROR
from rlhf_lite.teaching.exercises.chapter05.last_token_index import LAST_TOKEN_INDEX
from rlhf_lite.teaching.exercises.chapter05.single_rater_accuracy import SINGLE_RATER_ACCURACY

EXERCISES = (
    LAST_TOKEN_INDEX,
    BT_GRADIENT,
    SINGLE_RATER_ACCURACY,
    CALIBRATION_ERROR,
    BEST_OF_N_UNBIASED,
)
