"""Exercises of chapter 15: Constitutional AI."""

from __future__ import annotations

from rlhf_lite.exercises.core import Exercise

EXERCISES: tuple[Exercise, ...] = ()
