"""The exercises of chapter 17: ties, the unit of chance, length, sample size, a trap of mixtures.

The expected answers are worked out by hand beside each case. The wrong answers are the ones that people
really give: they serve to explain a failure, and to test that the cases are hard enough.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter17.comparisons_for import COMPARISONS_FOR
from rlhf_lite.teaching.exercises.chapter17.equal_length_rate import EQUAL_LENGTH_RATE
from rlhf_lite.teaching.exercises.chapter17.error_by_prompt import ERROR_BY_PROMPT
from rlhf_lite.teaching.exercises.chapter17.same_mix_difference import SAME_MIX_DIFFERENCE
from rlhf_lite.teaching.exercises.chapter17.win_rate_with_ties import WIN_RATE_WITH_TIES

EXERCISES = (
    WIN_RATE_WITH_TIES,
    ERROR_BY_PROMPT,
    EQUAL_LENGTH_RATE,
    COMPARISONS_FOR,
    SAME_MIX_DIFFERENCE,
)
