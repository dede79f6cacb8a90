"""Trainers: supervised fine-tuning, reward model, PPO. Plain loops over the pure functions."""
