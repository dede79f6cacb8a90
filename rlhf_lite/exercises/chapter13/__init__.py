"""Exercises of chapter 13: the family of preference losses."""

from __future__ import annotations

from rlhf_lite.exercises.core import Exercise

EXERCISES: tuple[Exercise, ...] = ()
