"""A picture of a sweep: one panel for each setting that was varied, one dot for each seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_lite.plotting import curves as plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (3.5, 2.9)  # inches, one panel


def arms_by_seed(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    ylabel: str,
    baseline: tuple[str, float] | None = None,
    columns: int = 2,
    joined: bool = True,
    caption: str = "",
) -> Figure:
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
    from matplotlib.figure import Figure

    named = {f"{title}: {arm}": values for title, arms in panels.items() for arm, values in arms.items()}
    empty = [name for name, values in named.items() if not values]
    if not panels or empty:
        raise ValueError(f"expected panels whose arms have values, got none for {empty or 'any panel'}")
    rows = math.ceil(len(panels) / columns)
    size = (_SIZE[0] * columns, _SIZE[1] * rows + 0.3 * bool(caption))
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for ax, (title, arms) in zip(axes, panels.items(), strict=False):
        places = range(len(arms))
        means = [sum(values) / len(values) for values in arms.values()]
        bar = {"linestyle": "", "marker": "_", "markersize": 22, "markeredgewidth": 2.2}
        shape = {"linewidth": 1.9} if joined else bar
        ax.plot(places, means, color=plotting.OKABE_ITO["blue"], label="mean", **shape)
        for place, values in zip(places, arms.values(), strict=True):
            ax.plot(
                [place] * len(values), values, "o", color=plotting.OKABE_ITO["vermilion"], markersize=5,
                markeredgecolor="white", label="one seed" if place == 0 else None,
            )  # fmt: skip
        if baseline is not None:
            ax.axhline(baseline[1], color="#26323D", linewidth=1.1, linestyle=(0, (5, 3)), label=baseline[0])
        ax.set_xticks(list(places), list(arms))
        ax.margins(x=0.12)
        plotting._dress(ax, title=title)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    axes[0].legend(fontsize=9, facecolor="white", edgecolor="none", framealpha=0.85)
    for row in range(rows):
        axes[row * columns].set_ylabel(ylabel, fontsize=10.5)
    if caption:
        figure.supxlabel(caption, fontsize=8.5, color="#26323D")
    return figure
