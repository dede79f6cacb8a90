"""What happens to each token of one text: rows of bars above the decoded tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_lite.plotting.curves import _INK, _WIDTH, OKABE_ITO, _dress, _figure, _floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def token_ledger(
    tokens: Sequence[str],
    rows: Mapping[str, Sequence[float]],
    *,
    limits: Mapping[str, tuple[float, float]] | None = None,
    title: str = "",
) -> Figure:
    """One row of bars per quantity, one bar per token; the tokens stand below.

    Bars above zero are blue, those below zero orange and hatched. The largest bar of each row carries its
    number.

    Args:
        tokens: the T decoded tokens.
        rows: name and unit of each quantity, to its T values.
        limits: lower and upper end of a row's axis, for figures that are to be compared.
        title: above the first row.

    Raises:
        ValueError: without a token or a row, or if a row has another length than the tokens.
    """
    if not tokens or not rows:
        raise ValueError(f"expected tokens and rows, got {len(tokens)} tokens and {len(rows)} rows")
    for name, values in rows.items():
        if len(values) != len(tokens):
            raise ValueError(f"row {name!r} has {len(values)} values for {len(tokens)} tokens")
    figure = _figure(_WIDTH, 1.05 * len(rows) + 1.1)
    places = range(len(tokens))
    first = None
    for index, (name, values) in enumerate(rows.items()):
        ax = figure.add_subplot(len(rows), 1, index + 1, sharex=first)
        first = first or ax
        _dress(ax)
        ax.grid(False, axis="x")
        numbers = _floats(values)
        for place, number in zip(places, numbers, strict=True):
            negative = number < 0
            colour = OKABE_ITO["vermilion"] if negative else OKABE_ITO["blue"]
            hatch = "///" if negative else None
            ax.bar(place, number, width=0.72, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5)
        ax.axhline(0.0, color=_INK, linewidth=0.9)
        ax.margins(y=0.3)
        if limits is not None and name in limits:
            ax.set_ylim(*limits[name])
        ax.locator_params(axis="y", nbins=4)
        ax.set_title(name, fontsize=10.5, color=_INK, loc="left", pad=3)
        largest = max(places, key=lambda place: abs(numbers[place]))
        if numbers[largest] != 0:
            up = numbers[largest] > 0
            ax.annotate(
                f"{numbers[largest]:+.2f}".replace("-", "−"),
                (largest, numbers[largest]),
                xytext=(0, 2 if up else -2),
                textcoords="offset points",
                ha="center",
                va="bottom" if up else "top",
                fontsize=10,
                color=_INK,
            )
        ax.tick_params(labelbottom=index == len(rows) - 1)
    ax.set_xticks(list(places), [_visible(token) for token in tokens], rotation=60, ha="right", fontsize=10)
    ax.set_xlim(-0.6, len(tokens) - 0.4)
    if title:
        figure.suptitle(title, fontsize=11, color=_INK, x=0.02, ha="left")
    return figure


def _visible(token: str) -> str:
    """A token as a label: a leading space is drawn as a low line, a line break as an arrow."""
    shown = token.replace("\n", "↵")
    return "_" + shown[1:] if shown.startswith(" ") else shown
