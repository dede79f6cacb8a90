"""Sampling from policies and composing rewards."""
