"""Two or more training runs on one dashboard: a thin line for each seed, a thick one for their mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_lite.plotting.curves import _CYCLE, _HEIGHT, _INK, _MARKERS, _STYLES, _WIDTH, _dress, _figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = Mapping[str, Sequence[float | None]]
_HEALTHY = "#DDF0E6"


@dataclass(frozen=True)
class Dial:
    """One panel of a dashboard.

    Attributes:
        metric: its name in the log.
        ylabel: what it is, with its unit.
        healthy: the range that is shaded; None in it is an open end; None alone shades nothing.
        limits: of the axis; None in it is chosen from the data.
    """

    metric: str
    ylabel: str
    healthy: tuple[float | None, float | None] | None = None
    limits: tuple[float | None, float | None] = (None, None)


def dashboard(
    arms: Mapping[str, Sequence[Series]],
    dials: Sequence[Dial],
    *,
    columns: int = 2,
    title: str = "",
    xlabel: str = "PPO step",
) -> Figure:
    """A panel per dial, in it a line per arm: thin for each seed, thick for the mean over seeds.

    Args:
        arms: name of the arm to its runs; a run maps "step" and each metric to equally long lists.
        dials: the panels, row by row.
        columns: panels side by side.
        title: above all panels.
        xlabel: of every panel.

    Raises:
        ValueError: without an arm, a run or a dial, or if a run lacks a metric.
    """
    if not arms or not dials or not all(arms.values()):
        raise ValueError(f"expected arms with runs, and dials, got {len(arms)} arms and {len(dials)} dials")
    for name, runs in arms.items():
        for run in runs:
            missing = [dial.metric for dial in dials if dial.metric not in run]
            if missing or "step" not in run:
                raise ValueError(f"a run of arm {name!r} has no {(missing or ['step'])[0]!r}")
    columns = max(1, min(columns, len(dials)))
    rows = math.ceil(len(dials) / columns)
    figure = _figure(_WIDTH * columns, 0.9 * _HEIGHT * rows + (0.4 if title else 0.0))
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    for index, dial in enumerate(dials):
        ax = figure.add_subplot(rows, columns, index + 1)
        for number, (name, runs) in enumerate(arms.items()):
            _draw_arm(ax, name, runs, dial.metric, number)
        _dress(ax, xlabel=xlabel, ylabel=dial.ylabel)
        ax.set_title(dial.metric, fontsize=11, color=_INK, loc="left", family="monospace")
        ax.set_ylim(*dial.limits)
        _shade(ax, dial.healthy)
        ax.locator_params(axis="y", nbins=5)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        place = {"loc": "outside upper center", "ncols": min(4, len(labels))}
        figure.legend(handles, labels, fontsize=11, frameon=False, labelcolor=_INK, **place)
    if title:
        figure.suptitle(title, fontsize=12, color=_INK, fontweight="bold")
    return figure


def _draw_arm(ax: Axes, name: str, runs: Sequence[Series], metric: str, number: int) -> None:
    colour, style = _CYCLE[number % len(_CYCLE)], _STYLES[number % len(_STYLES)]
    curves = [
        [math.nan if value is None else float(value) for value in run[metric]] for run in runs
    ]
    if len(curves) > 1:
        for run, curve in zip(runs, curves, strict=True):
            ax.plot(list(run["step"]), curve, color=colour, linestyle=style, linewidth=0.9, alpha=0.45)
    length = min(len(curve) for curve in curves)
    mean = [sum(curve[i] for curve in curves) / len(curves) for i in range(length)]
    steps = list(runs[0]["step"])[:length]
    ax.plot(
        steps,
        mean,
        label=name,
        color=colour,
        linestyle=style,
        linewidth=2.2,
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=4,
        markevery=max(1, length // 8),
    )


def _shade(ax: Axes, healthy: tuple[float | None, float | None] | None) -> None:
    """A pale band over the healthy range, inside the limits that the curves have set."""
    if healthy is None:
        return
    low, high = ax.get_ylim()
    bottom = low if healthy[0] is None else max(low, healthy[0])
    top = high if healthy[1] is None else min(high, healthy[1])
    if bottom < top:
        ax.axhspan(bottom, top, color=_HEALTHY, zorder=0)
    ax.set_ylim(low, high)
