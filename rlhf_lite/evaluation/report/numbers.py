"""Numbers of JSON files, turned into text.

Every accessor answers ``None`` for a value that is absent, null, NaN or of the wrong type. A report says that
such a value is missing; it never fills it in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["MISSING", "get_path", "integer", "interval", "interval_text", "number", "numeric", "ratio"]

MISSING = "–"


def get_path(tree: Any, *path: str) -> Any:
    """Walk nested mappings; None as soon as a key is absent."""
    for key in path:
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree


def numeric(value: Any) -> float | None:
    """``value`` as a float if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(value: Any) -> tuple[float, float] | None:
    """``[low, high]`` as a pair of finite numbers, else None."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = numeric(value[0]), numeric(value[1])
    return None if low is None or high is None else (low, high)


def number(value: Any, digits: int = 2, *, sign: bool = False) -> str:
    """``value`` with ``digits`` decimals and a true minus sign; a dash where there is no number."""
    finite = numeric(value)
    if finite is None:
        return MISSING
    text = f"{finite:{'+' if sign else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:  # no "-0.00"
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def integer(value: Any) -> str:
    """A count with thousands separators; a dash where there is no number."""
    return number(value, 0)


def interval_text(value: Any, digits: int = 2, *, sign: bool = False) -> str:
    """``"0.50 to 0.72"``, or an empty string where there is no interval."""
    ends = interval(value)
    return "" if ends is None else " to ".join(number(end, digits, sign=sign) for end in ends)


def ratio(nats: float) -> str:
    """exp(nats) with the two digits that mean something: 545 becomes 550; large ones as a power of ten."""
    value = math.exp(min(nats, 700.0))
    if value >= 1e6:
        return f"10 to the power {math.log10(value):.0f}"
    return f"{float(f'{value:.2g}'):,g}"
