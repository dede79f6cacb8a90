"""Exercises of chapter 12: direct preference optimisation."""

from __future__ import annotations

from rlhf_lite.exercises.core import Exercise

EXERCISES: tuple[Exercise, ...] = ()
