"""The exercises of chapter 1: the shift, masks, sequence log-probability, temperature, KL and its gradient.

The expected numbers are worked out by hand beside each case. The wrong answers are the ones that people
really give: they serve to explain a failure, and to test that the cases are hard enough.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter01.kl_estimates import KL_ESTIMATES
from rlhf_lite.teaching.exercises.chapter01.kl_gradient import KL_GRADIENT
from rlhf_lite.teaching.exercises.chapter01.response_mask import RESPONSE_MASK
from rlhf_lite.teaching.exercises.chapter01.sequence_logp import SEQUENCE_LOGP
from rlhf_lite.teaching.exercises.chapter01.shifted_logps import SHIFTED_LOGPS
from rlhf_lite.teaching.exercises.chapter01.tempered_logps import TEMPERED_LOGPS

EXERCISES = (SHIFTED_LOGPS, RESPONSE_MASK, SEQUENCE_LOGP, TEMPERED_LOGPS, KL_ESTIMATES, KL_GRADIENT)
