"""The learning rate over a run: warm-up, then one of a few shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

# What the learning rate falls to, as a fraction of its peak.
FLOOR = 0.1

# From the fraction of the decay that has passed, 0 to 1, to the fraction of the peak.
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda passed: 1.0 - (1.0 - FLOOR) * passed,
    "cosine": lambda passed: FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * passed)),
    "constant": lambda passed: 1.0,
}


def check_schedule(name: str) -> None:
    """Raise a ValueError for a schedule that does not exist."""
    if name not in SCHEDULES:
        raise ValueError(f"there is no schedule {name!r}: choose one of {', '.join(SCHEDULES)}")


def learning_rate_factor(
    step: int, *, warmup_steps: int, total_steps: int, schedule: str = "linear"
) -> float:
    """Linear warm-up from 1/warmup_steps to 1, then the schedule, down to a tenth at ``total_steps``.

    Args:
        step: from 0.
        warmup_steps: how many steps the warm-up takes; 0 for none.
        total_steps: length of the run.
        schedule: ``linear``, ``cosine`` (Loshchilov & Hutter 2017, one half period) or ``constant``, which
            stays at 1.

    Raises:
        ValueError: if there is no such schedule.
    """
    check_schedule(schedule)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    rest = max(1, total_steps - warmup_steps)
    return SCHEDULES[schedule](min(1.0, (step - warmup_steps) / rest))
