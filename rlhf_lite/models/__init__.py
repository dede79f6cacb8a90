"""Policies, reward models, adapters and heads."""

from rlhf_lite.models.output import final_logits
from rlhf_lite.models.policy import Policy, PolicyScorer, ValueHead, load_policy, load_value_head
from rlhf_lite.models.reward_model import RewardModel, load_reward_model, new_reward_model

__all__ = ["Policy", "PolicyScorer", "RewardModel", "ValueHead", "final_logits", "load_policy",
           "load_reward_model", "load_value_head", "new_reward_model"]
