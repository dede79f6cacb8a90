"""The exercises of chapter 15: which revisions to keep, and what to make of a model's judgements.

The expected answers are worked out by hand beside each case. The wrong answers are the ones that people
really give: they serve to explain a failure, and to test that the cases are hard enough.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter15.combine_principles import COMBINE_PRINCIPLES
from rlhf_lite.teaching.exercises.chapter15.debiased_preference import DEBIASED_PREFERENCE
from rlhf_lite.teaching.exercises.chapter15.judge_auc import JUDGE_AUC
from rlhf_lite.teaching.exercises.chapter15.keep_revision import KEEP_REVISION

EXERCISES = (KEEP_REVISION, DEBIASED_PREFERENCE, JUDGE_AUC, COMBINE_PRINCIPLES)
