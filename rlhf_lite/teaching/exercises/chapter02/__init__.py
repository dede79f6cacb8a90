"""The exercises of chapter 2 (human feedback): majorities, agreement, copies, leaks, Bradley-Terry.

The expected numbers are worked out by hand beside each case.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter02.bradley_terry_gradient import BRADLEY_TERRY_GRADIENT
from rlhf_lite.teaching.exercises.chapter02.interval_alpha import INTERVAL_ALPHA
from rlhf_lite.teaching.exercises.chapter02.jaccard_similarity import JACCARD_SIMILARITY
from rlhf_lite.teaching.exercises.chapter02.leaked_share import LEAKED_SHARE
from rlhf_lite.teaching.exercises.chapter02.majority_flip import MAJORITY_FLIP

EXERCISES = (INTERVAL_ALPHA, MAJORITY_FLIP, BRADLEY_TERRY_GRADIENT, JACCARD_SIMILARITY, LEAKED_SHARE)
