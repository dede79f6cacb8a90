"""The exercises of chapter 9: token rewards, critic, KL controller, diagnosis, a fair control.

The expected answers are worked out by hand beside each case. The wrong answers are the ones that people
really give: they serve to explain a failure, and to test that the cases are hard enough.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter09.adaptive_kl_step import ADAPTIVE_KL_STEP
from rlhf_lite.teaching.exercises.chapter09.diagnose_dashboard import DIAGNOSE_DASHBOARD
from rlhf_lite.teaching.exercises.chapter09.explained_variance import EXPLAINED_VARIANCE
from rlhf_lite.teaching.exercises.chapter09.kl_matched_n import KL_MATCHED_N
from rlhf_lite.teaching.exercises.chapter09.ppo_token_rewards import PPO_TOKEN_REWARDS

EXERCISES = (
    PPO_TOKEN_REWARDS,
    EXPLAINED_VARIANCE,
    ADAPTIVE_KL_STEP,
    DIAGNOSE_DASHBOARD,
    KL_MATCHED_N,
)
