"""Pictures of token sequences: what predicts what, which positions count, and bars for each token.

Numbers and strings in, `matplotlib.figure.Figure` out, in the manner of `rlhf_lite.plotting`. Colour never
stands alone: padding is hatched, and what counts has a thick border.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_lite.plotting.style import INK, OKABE_ITO, PANEL, QUIET, floats, name_rows, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = {"prompt": ("#D6E8F4", ""), "response": ("#FBE6DA", ""), "padding": ("#F3F5F7", "////")}
_BARS = [("blue", ""), ("orange", "///"), ("green", "...")]


@styled
def shift_picture(tokens: Sequence[str]) -> Figure:
    """The one-token shift: an arrow from each token that is read to the token that it predicts.

    Columns are positions. The lower row is read, the upper row scored. The first token has no prediction, and
    the last prediction has no token yet.

    Raises:
        ValueError: for fewer than two tokens.
    """
    size = len(tokens)
    if size < 2:
        raise ValueError(f"shift_picture: a shift needs at least two tokens, got {size}")
    figure, ax = _canvas(2.35, right=size + 1, bottom=-0.35, top=3.7)
    for t, token in enumerate(tokens):
        _cell(ax, t, 0.7, token, fill="#D6E8F4")
        _cell(ax, t, 2.1, token, fill="white" if t == 0 else "#FBE6DA", faint=t == 0)
        colour, line = (OKABE_ITO["vermilion"], "-") if t < size - 1 else (QUIET, "--")
        arrow = {"arrowstyle": "-|>", "color": colour, "linestyle": line, "linewidth": 1.6}
        ax.annotate("", (t + 1.45, 2.1), (t + 0.55, 1.3), arrowprops=arrow)
    _cell(ax, size, 2.1, "?", fill="white", faint=True)
    for t, word in enumerate([*range(size), "position"]):
        _word(ax, t, 0.46, str(word), 9.5)
    for left, y, tip, text in ((0, 0.2, 0.09, "logits[:, :-1]"), (1, 2.85, -0.09, "ids[:, 1:]")):
        ends = (left + 0.06, left + size - 1.06)
        corners = (y + tip, y, y, y + tip)
        ax.plot((ends[0], *ends, ends[1]), corners, color=INK, linewidth=1.1, linestyle="-", marker="")
        style = {"ha": "center", "fontsize": 10, "family": "monospace", "color": INK}
        ax.text(sum(ends) / 2, y - tip, text, va="top" if tip > 0 else "bottom", **style)
    return figure


@styled
def token_grid(rows: Sequence[Sequence[str]], kinds: Sequence[Sequence[str]],
               counts: Sequence[Sequence[bool]] | None = None) -> Figure:
    """A batch as a table: one row per sequence, one column per position, coloured by what each token is.

    Args:
        rows: B rows of S strings.
        kinds: same shape, each "prompt", "response" or "padding".
        counts: same shape; True draws a thick border: this position counts.

    Raises:
        ValueError: if shapes differ, or for an unknown kind.
    """
    shapes = {(len(table), *map(len, table)) for table in (rows, kinds, counts) if table is not None}
    if len(shapes) > 1 or not rows or len(set(map(len, rows))) > 1:
        raise ValueError(f"token_grid: expected tables of one shape [B, S], got rows and lengths {shapes}")
    unknown = sorted({kind for row in kinds for kind in row} - set(_KINDS))
    if unknown:
        raise ValueError(f"token_grid: the kinds are {', '.join(_KINDS)}; got {', '.join(unknown)}")
    figure, ax = _canvas(0.6 + 0.42 * len(rows), right=len(rows[0]), bottom=0.2, top=len(rows) + 1.6)
    for b, row in enumerate(rows):
        for t, token in enumerate(row):
            fill, hatch = _KINDS[kinds[b][t]]
            bold = counts is not None and bool(counts[b][t])
            _cell(ax, t, len(rows) - b - 0.2, token, fill=fill, hatch=hatch, height=0.8, bold=bold)
    for t in range(len(rows[0])):
        _word(ax, t, 0.48, str(t), 9.5)
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=f, hatch=h, edgecolor=QUIET, label=kind) for kind, (f, h) in _KINDS.items()]
    if counts is not None:
        border = {"edgecolor": OKABE_ITO["vermilion"], "linewidth": 2.2}
        handles.append(Patch(facecolor="white", label="counts", **border))
    style = {"frameon": False, "handlelength": 1.3, "columnspacing": 1.1}
    ax.legend(handles=handles, loc="upper center", ncols=len(handles), **style)
    return figure


@styled
def token_bars(tokens: Sequence[str], series: Mapping[str, Sequence[float]], *, xlabel: str, title: str = "",
               xlim: tuple[float, float] | None = None) -> Figure:
    """Horizontal bars, one group per token from top to bottom, one bar per series (at most three).

    Args:
        tokens: n strings, shown in quotes so that spaces can be seen.
        series: label -> n values.
        xlabel: quantity and unit.
        title: above the bars; frames of a slider say here what changes.
        xlim: a fixed range, for pictures that are compared.

    Raises:
        ValueError: if lengths differ, or there are no or too many series.
    """
    lengths = {label: len(values) for label, values in series.items()}
    if not 1 <= len(series) <= len(_BARS) or set(lengths.values()) != {len(tokens)}:
        raise ValueError(f"token_bars: give 1 to {len(_BARS)} series of {len(tokens)} values, got {lengths}")
    figure = new_figure(height=0.95 + 0.27 * len(tokens))
    ax = figure.add_subplot()
    thick = 0.8 / len(series)
    for index, ((label, values), (colour, hatch)) in enumerate(zip(series.items(), _BARS, strict=False)):
        places = [t + (index - (len(series) - 1) / 2) * thick for t in range(len(tokens))]
        style = {"color": OKABE_ITO[colour], "hatch": hatch, "edgecolor": "white", "lw": 0}
        ax.barh(places, floats(values), height=thick, label=label, **style)
    name_rows(ax, [repr(token) for token in tokens], size=10, bottom=0.4)
    ax.set(xlim=xlim, xlabel=xlabel)
    ax.set_title(title, fontsize=11.5, fontweight="normal")
    if len(series) > 1:
        ax.legend()
    return figure


@styled
def token_breakdown(tokens: Sequence[str], rows: Mapping[str, Sequence[float]], *,
                    limits: Mapping[str, tuple[float, float]] | None = None, title: str = "") -> Figure:
    """What happens to each token of one text: one row of bars per quantity; the tokens stand below.

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
    figure = new_figure(height=1.05 * len(rows) + 1.1)
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (name, values) in zip(axes, rows.items(), strict=True):
        _bars_of_row(ax, floats(values))
        if limits is not None and name in limits:
            ax.set_ylim(*limits[name])
        ax.locator_params(axis="y", nbins=4)
        ax.set_title(name, fontsize=10.5, fontweight="normal", pad=3)
    # A leading space is drawn as a low line, a line break as an arrow.
    labels = [re.sub("^ ", "_", token.replace("\n", "↵")) for token in tokens]
    axes[-1].set_xticks(range(len(tokens)), labels, rotation=60, ha="right")
    axes[-1].set_xlim(-0.6, len(tokens) - 0.4)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="normal", x=0.02, ha="left")
    return figure


def _bars_of_row(ax: Axes, values: Sequence[float]) -> None:
    for place, value in enumerate(values):
        colour, hatch = (OKABE_ITO["vermilion"], "///") if value < 0 else (OKABE_ITO["blue"], None)
        ax.bar(place, value, width=0.72, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5)
    ax.grid(False, axis="x")
    ax.axhline(0.0, color=INK, linewidth=0.9)
    ax.margins(y=0.3)
    largest = max(range(len(values)), key=lambda place: abs(values[place]))
    value = values[largest]
    if value != 0:
        side = {"xytext": (0, 2), "va": "bottom"} if value > 0 else {"xytext": (0, -2), "va": "top"}
        text = f"{value:+.2f}".replace("-", "−")
        ax.annotate(text, (largest, value), textcoords="offset points", ha="center", **side)


def _canvas(height: float, *, right: float, bottom: float, top: float) -> tuple[Figure, Axes]:
    figure = new_figure(PANEL[0], height, layout="none")
    ax = figure.add_axes((0.01, 0, 0.98, 1))
    ax.set(xlim=(-0.05, right + 0.05), ylim=(bottom, top))
    ax.axis("off")
    return figure, ax


def _cell(ax: Axes, t: float, y: float, text: str, *, fill: str, hatch: str = "", height: float = 0.6,
          bold: bool = False, faint: bool = False) -> None:  # fmt: skip
    """One box with its token; ``bold`` for a position that counts, ``faint`` for one that is not there."""
    from matplotlib.patches import Rectangle

    gap, width, edge = (0.07, 2.6, OKABE_ITO["vermilion"]) if bold else (0.03, 0.9, QUIET)
    box = Rectangle((t + gap, y + gap), 1 - 2 * gap, height - 2 * gap, facecolor=fill, edgecolor=edge)
    box.set(linewidth=width, linestyle="--" if faint else "-", hatch=hatch, hatch_linewidth=0.4)
    ax.add_patch(box)
    _word(ax, t, y + height / 2, text, 10 if len(text) < 8 else 9.3, QUIET if faint else INK)


def _word(ax: Axes, t: float, y: float, text: str, size: float, colour: str = INK) -> None:
    ax.text(t + 0.5, y, text, ha="center", va="center", fontsize=size, color=colour)
