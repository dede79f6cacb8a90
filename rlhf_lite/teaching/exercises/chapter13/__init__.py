"""The exercises of chapter 13: noisy labels, IPO's two forms, KTO, SimPO, and losses known by their slopes.

The expected answers are worked out by hand beside each case. The wrong answers are the ones that people
really give: they serve to explain a failure, and to test that the cases are hard enough.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter13.ipo_target_gap import IPO_TARGET_GAP
from rlhf_lite.teaching.exercises.chapter13.kto_batch_loss import KTO_BATCH_LOSS
from rlhf_lite.teaching.exercises.chapter13.robust_loss import ROBUST_LOSS
from rlhf_lite.teaching.exercises.chapter13.simpo_pair_loss import SIMPO_PAIR_LOSS
from rlhf_lite.teaching.exercises.chapter13.which_loss import WHICH_LOSS

EXERCISES = (ROBUST_LOSS, IPO_TARGET_GAP, WHICH_LOSS, KTO_BATCH_LOSS, SIMPO_PAIR_LOSS)
