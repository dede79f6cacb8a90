"""Figures from plain arrays: numbers in, `matplotlib.figure.Figure` out.

No pyplot, so nothing is global and nothing has to be closed. Colours are Okabe and Ito's
(safe for colour-blind readers) and are always joined by a line style or a marker. The
background is opaque white: a figure stays readable on a dark page. Sizes are chosen for a
phone: one panel, 4.6 inches wide, keeps its text above 11 px on a 390 px screen.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lite.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "OKABE_ITO",
    "POLICY_COLOURS",
    "Panel",
    "accuracy_by_gap",
    "policy_comparison",
    "reward_calibration",
    "reward_versus_kl",
    "save_png",
    "to_png",
    "to_svg",
    "training_curves",
]

OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
}
_CYCLE = [OKABE_ITO[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky", "black")]
_STYLES = ["-", "--", "-.", ":"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
POLICY_COLOURS = {"reference": "#6B6B6B", "sft": OKABE_ITO["blue"], "ppo": OKABE_ITO["vermilion"]}
_INK = "#26323D"
_GRID = "#DFE4E8"
_WIDTH, _HEIGHT = 4.6, 2.9  # inches, one panel


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
    limits: tuple[float | None, float | None] = field(default=(None, None))


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _same_length(**columns: Sequence[Any] | None) -> None:
    sizes = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"expected columns of equal length, got {sizes}")
    if not all(sizes.values()):
        raise ValueError(f"expected at least one value, got {sizes}")


def _figure(width: float = _WIDTH, height: float = _HEIGHT) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white", layout="constrained")


def _dress(ax: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    ax.set_facecolor("white")
    ax.grid(True, color=_GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#8A949C")
    ax.tick_params(labelsize=10, colors=_INK, length=3, color="#8A949C")
    ax.set_xlabel(xlabel, fontsize=10.5, color=_INK)
    ax.set_ylabel(ylabel, fontsize=10.5, color=_INK)
    if title:
        ax.set_title(title, fontsize=12, color=_INK, loc="left", fontweight="bold")


def _note(ax: Axes, text: str, x: float, y: float) -> None:
    """A short label just above a data point."""
    behind = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    style = {"ha": "center", "fontsize": 10, "color": _INK, "bbox": behind, "zorder": 5}
    ax.annotate(text, (x, y), xytext=(0, 8), textcoords="offset points", **style)


def _legend(ax: Axes) -> None:
    ax.legend(fontsize=10, facecolor="white", edgecolor="none", framealpha=0.85, labelcolor=_INK)


def _draw_panel(ax: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, (label, (steps, values)) in enumerate(panel.series.items()):
        _same_length(steps=steps, values=values)
        sparse = len(steps) <= 12
        ax.plot(
            list(steps),
            _floats(values),
            label=label,
            color=_CYCLE[index % len(_CYCLE)],
            linestyle=_STYLES[index % len(_STYLES)],
            marker=_MARKERS[index % len(_MARKERS)] if sparse or index else None,
            markersize=4.5,
            linewidth=1.9,
        )
    if panel.target is not None:
        text, level = panel.target
        ax.axhline(level, color=_INK, linewidth=1.1, linestyle=(0, (5, 3)), label=text)
    _dress(ax, title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    ax.set_ylim(*panel.limits)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if len(panel.series) > 1 or panel.target is not None:
        _legend(ax)


def training_curves(panels: Panel | Sequence[Panel], *, columns: int = 2) -> Figure:
    """Small multiples of training curves, one axes per `Panel`, filled row by row.

    Raises:
        ValueError: without a panel, or if steps and values of a series differ in length.
    """
    items = [panels] if isinstance(panels, Panel) else list(panels)
    if not items:
        raise ValueError("panels: expected at least one Panel, got none")
    columns = max(1, min(columns, len(items)))
    rows = math.ceil(len(items) / columns)
    figure = _figure(_WIDTH * columns, _HEIGHT * rows)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    for index, panel in enumerate(items):
        _draw_panel(figure.add_subplot(rows, columns, index + 1), panel)
    return figure


def accuracy_by_gap(
    labels: Sequence[str],
    accuracy: Sequence[float],
    *,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    n_pairs: Sequence[int] | None = None,
) -> Figure:
    """Share of pairs ranked as the raters ranked them, per range of the rating gap.

    ``labels`` name the ranges ("1 to 2"); ``low`` and ``high`` are interval ends; all columns
    have the same length. The dashed line at 0.5 is guessing.
    """
    _same_length(labels=labels, accuracy=accuracy, low=low, high=high, n_pairs=n_pairs)
    figure = _figure(_WIDTH, 3.1)
    ax = figure.add_subplot()
    places = list(range(len(labels)))
    values = _floats(accuracy)
    ax.axhline(0.5, color=_INK, linewidth=1.1, linestyle=(0, (5, 3)))
    ax.text(len(places) - 0.55, 0.512, "guessing", ha="right", va="bottom", fontsize=10, color=_INK)
    if low is not None and high is not None:
        ax.vlines(places, _floats(low), _floats(high), color=OKABE_ITO["blue"], linewidth=2.2)
    ax.plot(places, values, "o", color=OKABE_ITO["blue"], markersize=7.5)
    _dress(ax, xlabel="rating gap between the two reviews (points)", ylabel="accuracy (fraction)")
    ax.grid(False, axis="x")
    counts = [""] * len(places) if n_pairs is None else [f"\nn = {n}" for n in n_pairs]
    ax.set_xticks(places, [label + count for label, count in zip(labels, counts, strict=True)])
    ax.set_xlim(-0.5, len(places) - 0.5)
    floor = min([0.45, *(v - 0.05 for v in (*values, *(low or ())) if not math.isnan(v))])
    ax.set_ylim(max(0.0, floor), 1.02)
    return figure


def reward_calibration(
    predicted: Sequence[float], observed: Sequence[float], *, n_pairs: Sequence[int] | None = None
) -> Figure:
    """Reliability diagram: predicted probability against the share that came true, one marker per bin.

    Marker area grows with ``n_pairs``. On the dashed diagonal the forecast can be taken at its word.
    """
    _same_length(predicted=predicted, observed=observed, n_pairs=n_pairs)
    figure = _figure(3.9, 3.7)
    ax = figure.add_subplot()
    ax.plot([0, 1], [0, 1], color=_INK, linewidth=1.1, linestyle=(0, (5, 3)), label="calibrated")
    top = max(n_pairs) if n_pairs is not None else 1
    sizes = [30 + 120 * n / top for n in n_pairs] if n_pairs is not None else [50.0] * len(predicted)
    blue = OKABE_ITO["blue"]
    ax.plot(list(predicted), list(observed), color=blue, linewidth=1.4)
    ax.scatter(list(predicted), list(observed), s=sizes, color=blue, label="reward model", zorder=3)
    _dress(ax, xlabel="predicted probability", ylabel="observed share (fraction)")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    _legend(ax)
    return figure


def policy_comparison(
    names: Sequence[str],
    values: Sequence[float],
    *,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    xlabel: str = "gold reward (rating points)",
    colours: Sequence[str] | None = None,
) -> Figure:
    """One dot per policy with its confidence interval, first policy on top; all columns ``[n]``."""
    _same_length(names=names, values=values, low=low, high=high, colours=colours)
    figure = _figure(_WIDTH, 1.15 + 0.5 * len(names))
    ax = figure.add_subplot()
    palette = list(colours) if colours else [_CYCLE[i % len(_CYCLE)] for i in range(len(names))]
    centres = _floats(values)
    for row, (value, colour) in enumerate(zip(centres, palette, strict=True)):
        if low is not None and high is not None:
            ends = _floats([low[row], high[row]])
            ax.plot(ends, [row, row], color=colour, linewidth=2.6, solid_capstyle="butt")
            ax.plot(ends, [row, row], "|", markersize=10, markeredgewidth=2, color=colour)
        ax.plot([value], [row], _MARKERS[row % len(_MARKERS)], markersize=8.5, color=colour)
        if not math.isnan(value):
            _note(ax, f"{value:.2f}".replace("-", "−"), value, row)
    _dress(ax, xlabel=xlabel)
    ax.grid(False, axis="y")
    ax.set_yticks(range(len(names)), list(names))
    ax.tick_params(axis="y", labelsize=11, length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(len(names) - 0.5, -0.75)  # the first policy on top
    ax.margins(x=0.08)
    return figure


def reward_versus_kl(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    ylabel: str = "reward-model score",
    xlabel: str = "KL from PPO's start (nats per sequence)",
) -> Figure:
    """Reward bought per nat of drift: each series is ``(kl, reward)`` in the order of training.

    The hollow marker is the first point of a series and the large full one its last.
    """
    figure = _figure(_WIDTH, 3.2)
    ax = figure.add_subplot()
    for index, (label, (kl, reward)) in enumerate(series.items()):
        _same_length(kl=kl, reward=reward)
        x, y = _floats(kl), _floats(reward)
        colour, marker = _CYCLE[index % len(_CYCLE)], _MARKERS[index % len(_MARKERS)]
        ax.plot(x, y, color=colour, linestyle=_STYLES[index % len(_STYLES)], linewidth=1.4, alpha=0.75)
        ax.plot(x, y, color=colour, marker=marker, markersize=4, linestyle="", label=label)
        ax.plot(x[:1], y[:1], marker, markersize=9, mfc="white", markeredgewidth=2, color=colour)
        ax.plot(x[-1:], y[-1:], marker, markersize=10, color=colour)
        _note(ax, "start", x[0], y[0])
        _note(ax, "end", x[-1], y[-1])
    _dress(ax, xlabel=xlabel, ylabel=ylabel)
    ax.margins(x=0.08, y=0.14)
    if len(series) > 1:
        _legend(ax)
    return figure


def to_png(figure: Figure, *, dpi: int = 160) -> bytes:
    """The figure as PNG bytes on an opaque white background."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure) -> str:
    """The figure as SVG text. Letters are drawn as paths, so it looks the same without our fonts."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "rlhf-lite"}):
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save_png(figure: Figure, path: str | Path, *, dpi: int = 160) -> Path:
    """Write the figure as PNG, making the folder if needed; a reader never sees half a file."""
    target = Path(path)
    write_bytes(target, to_png(figure, dpi=dpi))
    return target
