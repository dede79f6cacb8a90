"""What changes during training: curves, dashboards of several runs, reward against KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlhf_lite.plotting.style import (
    DASHED,
    PANEL,
    cycled,
    floats,
    new_figure,
    note_above,
    panel_grid,
    same_length,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = Mapping[str, Sequence[float | None]]
Range = tuple[float | None, float | None]
_HEALTHY = "#DDF0E6"


@dataclass(frozen=True)
class Panel:
    """One small chart of `training_curves`.

    ``series`` maps a label to ``(steps, values)``, two sequences of equal length; a NaN or
    ``None`` value leaves a gap. ``ylabel`` names quantity and unit. ``target`` draws a thin
    horizontal line with its label.
    """

    title: str
    ylabel: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float | None]]]
    xlabel: str = "optimiser step"
    target: tuple[str, float] | None = None
    limits: Range = field(default=(None, None))


@styled
def training_curves(panels: Panel | Sequence[Panel], *, columns: int = 2) -> Figure:
    """Small multiples of training curves, one axes per `Panel`, filled row by row.

    Raises:
        ValueError: without a panel, or if steps and values of a series differ in length.
    """
    items = [panels] if isinstance(panels, Panel) else list(panels)
    if not items:
        raise ValueError("panels: expected at least one Panel, got none")
    figure, axes = panel_grid(len(items), columns, PANEL)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    for ax, panel in zip(axes, items, strict=True):
        _draw_panel(ax, panel)
    return figure


def _draw_panel(ax: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, (label, (steps, values)) in enumerate(panel.series.items()):
        same_length(steps=steps, values=values)
        style = cycled(index)
        if index == 0 and len(steps) > 12:
            style["marker"] = ""
        ax.plot(list(steps), floats(values), label=label, **style)
    if panel.target is not None:
        ax.axhline(panel.target[1], label=panel.target[0], **DASHED)
    ax.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel, ylim=panel.limits)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if len(panel.series) > 1 or panel.target is not None:
        ax.legend()


@dataclass(frozen=True)
class MetricPanel:
    """One panel of a `dashboard`.

    Attributes:
        metric: its name in the log.
        ylabel: what it is, with its unit.
        healthy: the range that is shaded; None in it is an open end; None alone shades nothing.
        limits: of the axis; None in it is chosen from the data.
    """

    metric: str
    ylabel: str
    healthy: Range | None = None
    limits: Range = (None, None)


@styled
def dashboard(arms: Mapping[str, Sequence[Series]], panels: Sequence[MetricPanel], *, columns: int = 2,
              title: str = "", xlabel: str = "PPO step") -> Figure:
    """A panel per metric, in it a line per arm: thin for each seed, thick for the mean over seeds.

    Args:
        arms: name of the arm to its runs; a run maps "step" and each metric to equally long lists.
        panels: one per metric, row by row.
        columns: panels side by side.
        title: above all panels.
        xlabel: of every panel.

    Raises:
        ValueError: without an arm, a run or a panel, or if a run lacks a metric.
    """
    if not arms or not panels or not all(arms.values()):
        raise ValueError(f"expected arms with runs, and panels, got {len(arms)} and {len(panels)}")
    for name, runs in arms.items():
        for run in runs:
            missing = [key for key in ("step", *(panel.metric for panel in panels)) if key not in run]
            if missing:
                raise ValueError(f"a run of arm {name!r} has no {missing[0]!r}")
    figure, axes = panel_grid(len(panels), columns, (PANEL[0], 0.9 * PANEL[1]), extra=0.4 if title else 0.0)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    for ax, panel in zip(axes, panels, strict=True):
        for number, (name, runs) in enumerate(arms.items()):
            _draw_arm(ax, name, runs, panel.metric, number)
        ax.set(xlabel=xlabel, ylabel=panel.ylabel, ylim=panel.limits)
        ax.set_title(panel.metric, fontsize=11, family="monospace", fontweight="normal")
        _shade(ax, panel.healthy)
        ax.locator_params(axis="y", nbins=5)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        place = "outside lower center" if title else "outside upper center"  # above, it would meet the title
        figure.legend(handles, labels, fontsize=11, frameon=False, loc=place, ncols=min(4, len(labels)))
    if title:
        figure.suptitle(title)
    return figure


def _draw_arm(ax: Axes, name: str, runs: Sequence[Series], metric: str, number: int) -> None:
    style = cycled(number)
    curves = [floats(run[metric]) for run in runs]
    if len(curves) > 1:
        thin = style | {"marker": "", "linewidth": 0.9, "alpha": 0.45}
        for run, curve in zip(runs, curves, strict=True):
            ax.plot(list(run["step"]), curve, **thin)
    length = min(len(curve) for curve in curves)
    mean = [sum(curve[i] for curve in curves) / len(curves) for i in range(length)]
    thick = style | {"linewidth": 2.2, "markersize": 4, "markevery": max(1, length // 8)}
    ax.plot(list(runs[0]["step"])[:length], mean, label=name, **thick)


def _shade(ax: Axes, healthy: Range | None) -> None:
    """A pale band over the healthy range, inside the limits that the curves have set."""
    if healthy is None:
        return
    low, high = ax.get_ylim()
    bottom = low if healthy[0] is None else max(low, healthy[0])
    top = high if healthy[1] is None else min(high, healthy[1])
    if bottom < top:
        ax.axhspan(bottom, top, color=_HEALTHY, zorder=0)
    ax.set_ylim(low, high)


@styled
def reward_versus_kl(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *,
                     ylabel: str = "reward-model score",
                     xlabel: str = "KL from PPO's start (nats per sequence)") -> Figure:
    """Reward bought per nat of drift: each series is ``(kl, reward)`` in the order of training.

    The hollow marker is the first point of a series and the large full one its last.
    """
    figure = new_figure(height=3.2)
    ax = figure.add_subplot()
    for index, (label, (kl, reward)) in enumerate(series.items()):
        same_length(kl=kl, reward=reward)
        x, y, style = floats(kl), floats(reward), cycled(index)
        dots = style | {"linestyle": ""}
        ax.plot(x, y, **style | {"marker": "", "linewidth": 1.4, "alpha": 0.75})
        ax.plot(x, y, label=label, **dots | {"markersize": 4})
        ax.plot(x[:1], y[:1], **dots | {"markersize": 9, "mfc": "white", "markeredgewidth": 2})
        ax.plot(x[-1:], y[-1:], **dots | {"markersize": 10})
        for word, place in (("start", 0), ("end", -1)):
            note_above(ax, word, x[place], y[place])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.margins(x=0.08, y=0.14)
    if len(series) > 1:
        ax.legend()
    return figure
