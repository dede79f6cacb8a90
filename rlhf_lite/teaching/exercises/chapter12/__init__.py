"""The exercises of chapter 12: the DPO loss, a policy read as a reward model, two slopes, a diagnosis.

The expected answers are worked out by hand beside each case. The wrong answers are the ones that people
really give: they serve to explain a failure, and to test that the cases are hard enough.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter12.diagnose_dpo import DIAGNOSE_DPO
from rlhf_lite.teaching.exercises.chapter12.dpo_batch_loss import DPO_BATCH_LOSS
from rlhf_lite.teaching.exercises.chapter12.dpo_gradient import DPO_GRADIENT
from rlhf_lite.teaching.exercises.chapter12.implicit_preference import IMPLICIT_PREFERENCE

EXERCISES = (DPO_BATCH_LOSS, IMPLICIT_PREFERENCE, DPO_GRADIENT, DIAGNOSE_DPO)
