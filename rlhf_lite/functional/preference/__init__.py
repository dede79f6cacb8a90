"""Preference losses: with a reference, without one, on single answers, and all of them by name."""
