"""Policies, arms and switches beside each other, each with what chance may have done to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_lite.plotting.style import (
    DASHED,
    OKABE_ITO,
    PANEL,
    cycled,
    floats,
    name_rows,
    new_figure,
    note_above,
    panel_grid,
    same_length,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Columns = tuple[Sequence[float], Sequence[float], Sequence[float]]


@styled
def policy_comparison(names: Sequence[str], values: Sequence[float], *, low: Sequence[float] | None = None,
                      high: Sequence[float] | None = None, xlabel: str = "gold reward (rating points)",
                      colours: Sequence[str] | None = None) -> Figure:
    """One dot per policy with its confidence interval, first policy on top; all columns ``[n]``."""
    same_length(names=names, values=values, low=low, high=high, colours=colours)
    figure = new_figure(height=1.15 + 0.5 * len(names))
    ax = figure.add_subplot()
    for row, value in enumerate(floats(values)):
        style = cycled(row)
        colour = colours[row] if colours else style["color"]
        if low is not None and high is not None:
            ends = floats([low[row], high[row]])
            bar = {"color": colour, "linestyle": "-", "linewidth": 2.6, "solid_capstyle": "butt"}
            ax.plot(ends, [row, row], marker="|", markersize=10, markeredgewidth=2, **bar)
        ax.plot([value], [row], marker=style["marker"], markersize=8.5, color=colour)
        if not math.isnan(value):
            note_above(ax, f"{value:.2f}".replace("-", "−"), value, row)
    ax.set_xlabel(xlabel)
    name_rows(ax, names, top=-0.75)
    ax.margins(x=0.08)
    return figure


@styled
def accuracy_by_gap(labels: Sequence[str], accuracy: Sequence[float], *, low: Sequence[float] | None = None,
                    high: Sequence[float] | None = None, n_pairs: Sequence[int] | None = None) -> Figure:
    """Share of pairs ranked as the raters ranked them, per range of the rating gap.

    ``labels`` name the ranges ("1 to 2"); ``low`` and ``high`` are interval ends; all columns
    have the same length. The dashed line at 0.5 is guessing.
    """
    same_length(labels=labels, accuracy=accuracy, low=low, high=high, n_pairs=n_pairs)
    figure = new_figure(height=3.1)
    ax = figure.add_subplot()
    places, values = range(len(labels)), floats(accuracy)
    ax.axhline(0.5, **DASHED)
    ax.text(len(places) - 0.55, 0.512, "guessing", ha="right", va="bottom")
    if low is not None and high is not None:
        ax.vlines(places, floats(low), floats(high), color=OKABE_ITO["blue"], linewidth=2.2)
    ax.plot(places, values, "o", color=OKABE_ITO["blue"], markersize=7.5)
    ax.set(xlabel="rating gap between the two reviews (points)", ylabel="accuracy (fraction)")
    ax.grid(False, axis="x")
    counts = [""] * len(places) if n_pairs is None else [f"\nn = {n}" for n in n_pairs]
    ax.set_xticks(places, [label + count for label, count in zip(labels, counts, strict=True)])
    ax.set_xlim(-0.5, len(places) - 0.5)
    floor = min([0.45, *(v - 0.05 for v in (*values, *(low or ())) if not math.isnan(v))])
    ax.set_ylim(max(0.0, floor), 1.02)
    return figure


@styled
def reward_calibration(predicted: Sequence[float], observed: Sequence[float], *,
                       n_pairs: Sequence[int] | None = None) -> Figure:
    """Reliability diagram: predicted probability against the share that came true, one marker per bin.

    Marker area grows with ``n_pairs``. On the dashed diagonal the forecast can be taken at its word.
    """
    same_length(predicted=predicted, observed=observed, n_pairs=n_pairs)
    figure = new_figure(3.9, 3.7)
    ax = figure.add_subplot()
    ax.plot([0, 1], [0, 1], marker="", label="calibrated", **DASHED)
    sizes = [50.0] * len(predicted) if n_pairs is None else [30 + 120 * n / max(n_pairs) for n in n_pairs]
    blue = OKABE_ITO["blue"]
    ax.plot(list(predicted), list(observed), color=blue, linestyle="-", marker="", linewidth=1.4)
    ax.scatter(list(predicted), list(observed), s=sizes, color=blue, label="reward model", zorder=3)
    ax.set(xlabel="predicted probability", ylabel="observed share (fraction)")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.legend()
    return figure


@styled
def arms_by_seed(panels: Mapping[str, Mapping[str, Sequence[float]]], *, ylabel: str,
                 baseline: tuple[str, float] | None = None, columns: int = 2, joined: bool = True,
                 caption: str = "") -> Figure:
    """What each arm of a sweep came to: a dot for each seed, and the means.

    Args:
        panels: title of a panel to its arms, each with one value per seed; the arms stand from left to
            right in their order. All panels have one y axis, so that they can be compared.
        ylabel: quantity and unit.
        baseline: label and value of a dashed line in every panel, such as the untouched model.
        columns: panels side by side.
        joined: draw a line through the means; False, with a bar for each mean, where arms have no order.
        caption: stands under the figure; a replayed run says here where it comes from.

    Raises:
        ValueError: without a panel, or if an arm has no value.
    """
    named = {f"{title}: {arm}": values for title, arms in panels.items() for arm, values in arms.items()}
    empty = [name for name, values in named.items() if not values]
    if not panels or empty:
        raise ValueError(f"expected panels whose arms have values, got none for {empty or 'any panel'}")
    figure, axes = panel_grid(len(panels), columns, (3.5, 2.9), extra=0.3 * bool(caption), sharey=True)
    bar = {"linestyle": "", "marker": "_", "markersize": 22, "markeredgewidth": 2.2}
    shape = {"linestyle": "-", "marker": ""} if joined else bar
    seeds = {"color": OKABE_ITO["vermilion"], "markersize": 5, "markeredgecolor": "white"}
    for ax, (title, arms) in zip(axes, panels.items(), strict=True):
        places = range(len(arms))
        means = [sum(values) / len(values) for values in arms.values()]
        ax.plot(places, means, color=OKABE_ITO["blue"], label="mean", **shape)
        for place, values in zip(places, arms.values(), strict=True):
            ax.plot([place] * len(values), values, "o", label=None if place else "one seed", **seeds)
        if baseline is not None:
            ax.axhline(baseline[1], label=baseline[0], **DASHED)
        ax.set_xticks(list(places), list(arms))
        ax.margins(x=0.12)
        ax.set_title(title)
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel(ylabel)
    axes[0].legend(fontsize=9)
    if caption:
        figure.supxlabel(caption)
    return figure


@styled
def effects(names: Sequence[str], groups: Mapping[str, Columns], *, xlabel: str, zero: float = 0.0,
            caption: str = "") -> Figure:
    """What each switch does: differences with their intervals, the first name on top.

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
    figure = new_figure(PANEL[0] + 1.0, 1.3 + 0.42 * len(names) + 0.3 * bool(caption))
    ax = figure.add_subplot()
    ax.axvline(zero, **DASHED)
    for place, (label, (values, low, high)) in enumerate(groups.items()):
        same_length(names=names, values=values, low=low, high=high)
        rows = [row + (place - (len(groups) - 1) / 2) * 0.5 / len(groups) for row in range(len(names))]
        style = cycled(place) | {"linestyle": ""}
        ax.hlines(rows, floats(low), floats(high), color=style["color"], linewidth=2.2)
        ax.plot(floats(values), rows, markersize=6.5, label=label, **style)
    ax.set_xlabel(xlabel)
    name_rows(ax, names, size=10.5)
    if len(groups) > 1:
        ax.legend()
    if caption:
        figure.supxlabel(caption)
    return figure
