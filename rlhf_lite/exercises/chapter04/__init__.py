"""The exercises of chapter 4."""

from __future__ import annotations

from rlhf_lite.exercises.core import Exercise

EXERCISES: tuple[Exercise, ...] = ()
