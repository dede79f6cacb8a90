"""Worlds small enough to enumerate, with a known best answer, to prove algorithms against.

    world = make_world("sparse")                  # 8 tokens, 4 per sequence: 4,096 sequences, 4 prompts
    world.optimum                                 # π*, [4, 4096]
    world.evaluate(world.reference).fraction      # 0: the reference is where everyone starts
    world.evaluate(world.optimum).fraction        # 1: nobody gets further

This room sees torch and transformers only.
"""

from rlhf_lite.lab.exact import (
    exact_kl,
    expected_reward,
    fraction_of_optimum,
    objective,
    optimal_policy,
    optimal_value,
    policy_objective,
    win_rates,
)
from rlhf_lite.lab.policies import (
    ExactPolicy,
    TabularPolicy,
    TransformerPolicy,
    chain,
    exact_gradient,
    next_token_logps,
    pretrain,
    pretrained_world,
    sequence_log_probs,
    sequence_probs,
    tiny_transformer,
)
from rlhf_lite.lab.rewards import REWARDS
from rlhf_lite.lab.world import Evaluation, World, all_sequences, make_world

__all__ = [
    "REWARDS", "Evaluation", "ExactPolicy", "TabularPolicy", "TransformerPolicy", "World", "all_sequences",
    "chain", "exact_gradient", "exact_kl", "expected_reward", "fraction_of_optimum", "make_world",
    "next_token_logps", "objective", "optimal_policy", "optimal_value", "policy_objective", "pretrain",
    "pretrained_world", "sequence_log_probs", "sequence_probs", "tiny_transformer", "win_rates",
]
