"""Exercises of chapter 17: evaluation."""

from __future__ import annotations

from rlhf_lite.exercises.core import Exercise

EXERCISES: tuple[Exercise, ...] = ()
