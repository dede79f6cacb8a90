"""Reward against KL: the best possible as a line, algorithms as points on or below it.

    frontier(exact_kl, exact_reward, {
        "PPO": Points([1.67], [0.54], low=[0.53], high=[0.55]),
        "best of n": Points(kl_of_n, reward_of_n, joined=True),
        "the reference": (0.0, 0.2),
    })

No policy lies above the line, so a glance says how much reward an algorithm left lying at the KL it spent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_lite.plotting.style import (
    INK,
    OKABE_ITO,
    PANEL,
    cycled,
    floats,
    name_rows,
    new_figure,
    same_length,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KL_LABEL = "KL from the reference (nats per sequence)"
_LINE = {"color": INK, "linestyle": "-", "marker": "", "linewidth": 2.2, "zorder": 2}


@dataclass(frozen=True)
class Points:
    """One algorithm in the picture; all columns have the same length.

    Attributes:
        kl: nats per sequence.
        reward: in points.
        low, high: ends of the reward's interval, both or neither.
        kl_low, kl_high: ends of the KL's interval, both or neither.
        names: written beside the points, such as "n = 4"; an empty one is left out.
        joined: a thin line runs through the points in their order.
    """

    kl: Sequence[float]
    reward: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    kl_low: Sequence[float] | None = None
    kl_high: Sequence[float] | None = None
    names: Sequence[str] | None = None
    joined: bool = False

    def __post_init__(self) -> None:
        same_length(**{name: value for name, value in vars(self).items() if name != "joined"})
        for ends in ("low", "high"), ("kl_low", "kl_high"):
            if len({getattr(self, end) is None for end in ends}) > 1:
                raise ValueError(f"Points: an interval needs both ends; {ends[0]} and {ends[1]} go together")


@styled
def frontier(exact_kl: Sequence[float], exact_reward: Sequence[float],
             points: Mapping[str, Points | tuple[float, float]] | None = None, *, line: str = "best possible",
             band: tuple[Sequence[float], Sequence[float]] | None = None,
             cloud: tuple[Sequence[float], Sequence[float]] | None = None, cloud_name: str = "other policies",
             xlabel: str = KL_LABEL, ylabel: str = "expected reward (points)", kl_limit: float | None = None,
             title: str = "") -> Figure:
    """Reward against KL for any number of algorithms, below the frontier.

    Args:
        exact_kl, exact_reward: the frontier, in the order of the line.
        points: by name, :class:`Points` or one pair (kl, reward).
        line: what the line is; say so where it is an estimate.
        band: lower and upper end of the line's uncertainty, each as long as the line.
        cloud: (kl, reward) of many policies, drawn as small grey dots named ``cloud_name``.
        kl_limit: where the horizontal axis and the line end; default wherever the data ends.

    Raises:
        ValueError: if columns differ in length.
    """
    figure = new_figure(height=3.5)
    ax = figure.add_subplot()
    if cloud is not None:
        same_length(cloud_kl=cloud[0], cloud_reward=cloud[1])
        ax.plot(floats(cloud[0]), floats(cloud[1]), ".", color="#9AA5AD", markersize=2.5, label=cloud_name)
    _draw_line(ax, exact_kl, exact_reward, line, band, kl_limit)
    for place, (name, entry) in enumerate((points or {}).items()):
        _draw_points(ax, name, entry if isinstance(entry, Points) else Points([entry[0]], [entry[1]]), place)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.margins(x=0.05, y=0.08)
    if kl_limit is not None:
        ax.set_xlim(-0.04 * kl_limit, 1.04 * kl_limit)
    ax.legend()
    return figure


@styled
def probs_and_frontier(texts: Sequence[str], reference: Sequence[float], probs: Sequence[float],
                       exact_kl: Sequence[float], exact_reward: Sequence[float], *, at: tuple[float, float],
                       beta: float, name: str = "best policy") -> Figure:
    """Above, the probabilities of a few texts; below, where that distribution lies on the frontier.

    The dashed line through the point has slope ``beta``: all its points have the same J, reward minus beta
    times KL, and the hollow diamond shows it where the KL is zero. At the optimum no higher such line touches
    the frontier. Frames of one ``slider`` have equal axes.

    Args:
        texts: what stands beside the bars, first on top.
        reference, probs: their probabilities, before and after.
        exact_kl, exact_reward: the frontier.
        at: (kl, reward) of ``probs``.
        beta: the price, in points per nat.
    """
    same_length(texts=texts, reference=reference, probs=probs)
    figure = new_figure(PANEL[0], 3.2 + 0.42 * len(texts))
    top, bottom = figure.subplots(2, 1, height_ratios=[0.3 + 0.4 * len(texts), 2.6])
    rows, blue, orange = range(len(texts)), OKABE_ITO["blue"], OKABE_ITO["vermilion"]
    bars = {"height": 0.36, "edgecolor": INK, "linewidth": 0.8}
    top.barh([row - 0.19 for row in rows], floats(reference), color="#C9D0D6", label="reference", **bars)
    top.barh([row + 0.19 for row in rows], floats(probs), color=blue, hatch="//", label=name, **bars)
    top.set(xlabel="probability (fraction)", xlim=(0, 1.02))
    name_rows(top, texts, size=10, top=-0.55, bottom=0.45)
    top.spines["left"].set_visible(True)
    top.legend()

    _draw_line(bottom, exact_kl, exact_reward, "best possible")
    lowest, highest, furthest = min(exact_reward), max(exact_reward), max(exact_kl)
    pad = 0.07 * (highest - lowest)
    line = {"color": orange, "linewidth": 1.4, "linestyle": (0, (5, 3))}
    bottom.axline(at, slope=beta, label="equal J, slope β", **line)
    bottom.plot(*[[value] for value in at], "o", markersize=9.5, color=blue, zorder=4, label=name)
    hollow = {"markersize": 7, "mfc": "white", "color": orange, "zorder": 4}
    bottom.plot([0], [at[1] - beta * at[0]], "D", label="that J", **hollow)
    bottom.set(xlabel=KL_LABEL, ylabel="expected reward (points)")
    bottom.set(xlim=(-0.04 * furthest, 1.04 * furthest), ylim=(lowest - pad, highest + pad))
    bottom.legend(loc="lower right")
    return figure


def _draw_line(ax: Axes, kl: Sequence[float], reward: Sequence[float], name: str,
               band: tuple[Sequence[float], Sequence[float]] | None = None,
               kl_limit: float | None = None) -> None:
    same_length(exact_kl=kl, exact_reward=reward)
    # What lies beyond the limit would stretch the vertical axis for nothing.
    seen = [(x, y) for x, y in zip(kl, reward, strict=True) if kl_limit is None or x <= 1.04 * kl_limit]
    ax.plot(*zip(*seen, strict=True), label=name, **_LINE)
    if band is not None:
        same_length(exact_kl=kl, band_low=band[0], band_high=band[1])
        ax.fill_between(floats(kl), floats(band[0]), floats(band[1]), color="#C9D0D6", alpha=0.6, lw=0)


def _draw_points(ax: Axes, name: str, points: Points, place: int) -> None:
    x, y = floats(points.kl), floats(points.reward)
    style = cycled(place)
    bars = {"color": style["color"], "linewidth": 2.0, "zorder": 3}
    if points.low is not None and points.high is not None:
        ax.vlines(x, floats(points.low), floats(points.high), **bars)
    if points.kl_low is not None and points.kl_high is not None:
        ax.hlines(y, floats(points.kl_low), floats(points.kl_high), **bars)
    line = cycled(place + 1)["linestyle"] if points.joined else ""
    size = 7.5 if len(x) < 3 else 5.5
    ax.plot(x, y, **style | {"linestyle": line}, linewidth=1.3, markersize=size, label=name, zorder=4)
    for text, a, b in zip(points.names or (), x, y, strict=False):
        ax.annotate(text, (a, b), xytext=(7, -4), textcoords="offset points", va="top", fontsize=9.5)
