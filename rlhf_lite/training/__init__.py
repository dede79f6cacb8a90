"""Trainers: SFT, reward model, DPO and its family, PPO, GRPO and RLOO, rejection sampling.

Plain loops over the pure functions.
"""
