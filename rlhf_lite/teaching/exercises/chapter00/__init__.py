"""The exercises of chapter 0 (quick start): accuracy of a reward model, KL per sequence, Bradley-Terry.

The expected numbers are worked out by hand beside each case. The wrong answers are the ones that people
really give: they serve to explain a failure, and to test that the cases are hard enough.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter00.bradley_terry import BRADLEY_TERRY
from rlhf_lite.teaching.exercises.chapter00.kl_per_sequence import KL_PER_SEQUENCE
from rlhf_lite.teaching.exercises.chapter00.pairwise_accuracy import PAIRWISE_ACCURACY

EXERCISES = (PAIRWISE_ACCURACY, KL_PER_SEQUENCE, BRADLEY_TERRY)
