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

from rlhf_lite.plotting.curves import (
    _CYCLE,
    _INK,
    _MARKERS,
    _STYLES,
    _WIDTH,
    OKABE_ITO,
    _dress,
    _figure,
    _floats,
    _legend,
    _same_length,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Points", "frontier", "law_and_frontier"]

KL_LABEL = "KL from the reference (nats per sequence)"
_LINE = {"color": _INK, "linewidth": 2.2, "solid_capstyle": "round", "zorder": 2}


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
        _same_length(**{name: value for name, value in vars(self).items() if name != "joined"})
        for ends in ("low", "high"), ("kl_low", "kl_high"):
            if len({getattr(self, end) is None for end in ends}) > 1:
                raise ValueError(f"Points: an interval needs both ends; {ends[0]} and {ends[1]} go together")


def frontier(
    exact_kl: Sequence[float],
    exact_reward: Sequence[float],
    points: Mapping[str, Points | tuple[float, float]] | None = None,
    *,
    line: str = "best possible",
    band: tuple[Sequence[float], Sequence[float]] | None = None,
    cloud: tuple[Sequence[float], Sequence[float]] | None = None,
    cloud_name: str = "other policies",
    xlabel: str = KL_LABEL,
    ylabel: str = "expected reward (points)",
    kl_limit: float | None = None,
    title: str = "",
) -> Figure:
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
    figure = _figure(_WIDTH, 3.5)
    ax = figure.add_subplot()
    if cloud is not None:
        _same_length(cloud_kl=cloud[0], cloud_reward=cloud[1])
        ax.plot(_floats(cloud[0]), _floats(cloud[1]), ".", color="#9AA5AD", markersize=2.5, label=cloud_name)
    _draw_line(ax, exact_kl, exact_reward, line, band, kl_limit)
    for place, (name, found) in enumerate((points or {}).items()):
        entry = found if isinstance(found, Points) else Points([found[0]], [found[1]])
        _draw_points(ax, name, entry, place)
    _dress(ax, title=title, xlabel=xlabel, ylabel=ylabel)
    ax.margins(x=0.05, y=0.08)
    if kl_limit is not None:
        ax.set_xlim(-0.04 * kl_limit, 1.04 * kl_limit)
    _legend(ax)
    return figure


def law_and_frontier(
    texts: Sequence[str],
    reference: Sequence[float],
    law: Sequence[float],
    exact_kl: Sequence[float],
    exact_reward: Sequence[float],
    *,
    at: tuple[float, float],
    beta: float,
    name: str = "best policy",
) -> Figure:
    """Above, the probabilities of a few texts; below, where that law lies on the frontier.

    The dashed line through the point has slope ``beta``: all its points have the same J, reward minus beta
    times KL, and the hollow diamond shows it where the KL is zero. At the optimum no higher such line touches
    the frontier. Frames of one ``slider`` have equal axes.

    Args:
        texts: what stands beside the bars, first on top.
        reference, law: their probabilities, before and after.
        exact_kl, exact_reward: the frontier.
        at: (kl, reward) of ``law``.
        beta: the price, in points per nat.
    """
    _same_length(texts=texts, reference=reference, law=law)
    figure = _figure(_WIDTH, 3.2 + 0.42 * len(texts))
    top, bottom = figure.subplots(2, 1, height_ratios=[0.3 + 0.4 * len(texts), 2.6])
    rows = range(len(texts))
    blue = OKABE_ITO["blue"]
    bars = {"height": 0.36, "edgecolor": _INK, "linewidth": 0.8}
    top.barh([row - 0.19 for row in rows], _floats(reference), color="#C9D0D6", label="reference", **bars)
    top.barh([row + 0.19 for row in rows], _floats(law), color=blue, hatch="//", label=name, **bars)
    _dress(top, xlabel="probability (fraction)")
    top.set_yticks(rows, list(texts))
    top.set(xlim=(0, 1.02), ylim=(len(texts) - 0.45, -0.55))
    top.grid(False, axis="y")
    _legend(top)

    _draw_line(bottom, exact_kl, exact_reward, "best possible")
    lowest, highest, furthest = min(exact_reward), max(exact_reward), max(exact_kl)
    pad = 0.07 * (highest - lowest)
    bottom.axline(at, slope=beta, color=OKABE_ITO["vermilion"], linewidth=1.4, linestyle=(0, (5, 3)),
                  label="equal J, slope β")  # fmt: skip
    bottom.plot(*[[value] for value in at], "o", markersize=9.5, color=blue, zorder=4, label=name)
    hollow = {"markersize": 7, "mfc": "white", "color": OKABE_ITO["vermilion"], "zorder": 4}
    bottom.plot([0], [at[1] - beta * at[0]], "D", label="that J", **hollow)
    _dress(bottom, xlabel=KL_LABEL, ylabel="expected reward (points)")
    bottom.set(xlim=(-0.04 * furthest, 1.04 * furthest), ylim=(lowest - pad, highest + pad))
    bottom.legend(fontsize=10, facecolor="white", edgecolor="none", labelcolor=_INK, loc="lower right")
    return figure


def _draw_line(
    ax: Axes,
    kl: Sequence[float],
    reward: Sequence[float],
    name: str,
    band: tuple[Sequence[float], Sequence[float]] | None = None,
    kl_limit: float | None = None,
) -> None:
    _same_length(exact_kl=kl, exact_reward=reward)
    # What lies beyond the limit would stretch the vertical axis for nothing.
    seen = [(x, y) for x, y in zip(kl, reward, strict=True) if kl_limit is None or x <= 1.04 * kl_limit]
    ax.plot(*zip(*seen, strict=True), label=name, **_LINE)
    if band is not None:
        _same_length(exact_kl=kl, band_low=band[0], band_high=band[1])
        ax.fill_between(_floats(kl), _floats(band[0]), _floats(band[1]), color="#C9D0D6", alpha=0.6, lw=0)


def _draw_points(ax: Axes, name: str, found: Points, place: int) -> None:
    x, y = _floats(found.kl), _floats(found.reward)
    colour, marker = _CYCLE[place % len(_CYCLE)], _MARKERS[place % len(_MARKERS)]
    bars = {"color": colour, "linewidth": 2.0, "zorder": 3}
    if found.low is not None and found.high is not None:
        ax.vlines(x, _floats(found.low), _floats(found.high), **bars)
    if found.kl_low is not None and found.kl_high is not None:
        ax.hlines(y, _floats(found.kl_low), _floats(found.kl_high), **bars)
    style = _STYLES[(place + 1) % len(_STYLES)] if found.joined else ""
    ax.plot(x, y, marker=marker, linestyle=style, linewidth=1.3, markersize=7.5 if len(x) < 3 else 5.5,
            color=colour, label=name, zorder=4)  # fmt: skip
    for text, a, b in zip(found.names or (), x, y, strict=False):
        beside = {"xytext": (7, -4), "textcoords": "offset points", "va": "top"}
        ax.annotate(text, (a, b), **beside, fontsize=9.5, color=_INK)
