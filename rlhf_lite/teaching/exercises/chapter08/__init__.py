"""The exercises of chapter 8, from the policy gradient to PPO.

The expected numbers are worked out by hand beside each case. The wrong answers are the ones that people
really give: they serve to explain a failure, and to test that the cases are hard enough.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter08.clipped_loss import CLIPPED_LOSS
from rlhf_lite.teaching.exercises.chapter08.diagnose_ppo import DIAGNOSE_PPO
from rlhf_lite.teaching.exercises.chapter08.gae_by_hand import GAE_BY_HAND
from rlhf_lite.teaching.exercises.chapter08.kl_rewards import KL_REWARDS
from rlhf_lite.teaching.exercises.chapter08.reinforce_weights import REINFORCE_WEIGHTS
from rlhf_lite.teaching.exercises.chapter08.whiten_advantages import WHITEN_ADVANTAGES

EXERCISES = (
    REINFORCE_WEIGHTS,
    CLIPPED_LOSS,
    GAE_BY_HAND,
    KL_REWARDS,
    WHITEN_ADVANTAGES,
    DIAGNOSE_PPO,
)
