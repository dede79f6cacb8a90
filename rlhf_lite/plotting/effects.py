"""What each switch does: a row per switch, and in it a marker with its interval for each group of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_lite.plotting.curves import (
    _CYCLE,
    _INK,
    _MARKERS,
    _WIDTH,
    _dress,
    _figure,
    _floats,
    _legend,
    _same_length,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["effects"]

Columns = tuple[Sequence[float], Sequence[float], Sequence[float]]


def effects(
    names: Sequence[str], groups: Mapping[str, Columns], *, xlabel: str, zero: float = 0.0, caption: str = ""
) -> Figure:
    """Differences with their intervals, the first name on top.

    Args:
        names: what was switched.
        groups: label -> (value, low, high), each as long as ``names``.
        xlabel: quantity and unit.
        zero: where a vertical line says that nothing changes.
        caption: stands under the figure; a replayed run says here where it comes from.

    Raises:
        ValueError: without a group, or if columns differ in length.
    """
    if not groups:
        raise ValueError("groups: expected at least one, got none")
    figure = _figure(_WIDTH + 1.0, 1.3 + 0.42 * len(names) + 0.3 * bool(caption))
    ax = figure.add_subplot()
    ax.axvline(zero, color=_INK, linewidth=1.1, linestyle=(0, (5, 3)))
    step = 0.5 / len(groups)
    for place, (label, (values, low, high)) in enumerate(groups.items()):
        _same_length(names=names, values=values, low=low, high=high)
        rows = [row + (place - (len(groups) - 1) / 2) * step for row in range(len(names))]
        colour, marker = _CYCLE[place % len(_CYCLE)], _MARKERS[place % len(_MARKERS)]
        ax.hlines(rows, _floats(low), _floats(high), color=colour, linewidth=2.2)
        ax.plot(_floats(values), rows, marker, color=colour, markersize=6.5, label=label)
    _dress(ax, xlabel=xlabel)
    ax.grid(False, axis="y")
    ax.set_yticks(range(len(names)), list(names))
    ax.tick_params(axis="y", labelsize=10.5, length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(len(names) - 0.5, -0.6)  # the first name on top
    if len(groups) > 1:
        _legend(ax)
    if caption:
        figure.supxlabel(caption, fontsize=8.5, color=_INK)
    return figure
