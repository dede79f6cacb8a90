"""The exercises of chapter 7: the best policy, its value, best-of-n, fraction reached, implied reward.

The expected numbers are worked out by hand beside each case. The wrong answers are the ones that people
really give: they serve to explain a failure, and to test that the cases are hard enough.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter07.best_value import BEST_VALUE
from rlhf_lite.teaching.exercises.chapter07.implied_reward import IMPLIED_REWARD
from rlhf_lite.teaching.exercises.chapter07.share_reached import SHARE_REACHED
from rlhf_lite.teaching.exercises.chapter07.tilted_law import TILTED_LAW
from rlhf_lite.teaching.exercises.chapter07.winner_kl import WINNER_KL

EXERCISES = (TILTED_LAW, BEST_VALUE, SHARE_REACHED, WINNER_KL, IMPLIED_REWARD)
