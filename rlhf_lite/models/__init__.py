"""Policies, reward models, adapters and heads."""

from rlhf_lite.models.policy import Policy, PolicyScorer, TokenScores, load_policy
from rlhf_lite.models.reward_model import RewardModel, load_reward_model, new_reward_model

__all__ = [
    "Policy",
    "PolicyScorer",
    "RewardModel",
    "TokenScores",
    "load_policy",
    "load_reward_model",
    "new_reward_model",
]
