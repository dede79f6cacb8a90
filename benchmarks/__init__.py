"""Timing side by side with the peers."""
