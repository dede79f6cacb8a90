"""Pictures of token sequences: what predicts what, which positions count, and a bar for each token.

Numbers and strings in, `matplotlib.figure.Figure` out, in the manner of `rlhf_lite.plotting`. Colour never
stands alone: padding is hatched, and what counts has a thick border.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_lite.plotting.curves import OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["shift_picture", "token_bars", "token_grid"]

_INK, _QUIET, _WIDTH = "#26323D", "#8A949C", 4.6
_KINDS = {"prompt": ("#D6E8F4", ""), "response": ("#FBE6DA", ""), "padding": ("#F3F5F7", "////")}
_BARS = [("blue", ""), ("orange", "///"), ("green", "...")]


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
        colour, line = (OKABE_ITO["vermilion"], "-") if t < size - 1 else (_QUIET, "--")
        arrow = {"arrowstyle": "-|>", "color": colour, "linestyle": line, "linewidth": 1.6}
        ax.annotate("", (t + 1.45, 2.1), (t + 0.55, 1.3), arrowprops=arrow)
    _cell(ax, size, 2.1, "?", fill="white", faint=True)
    for t, word in enumerate([*range(size), "position"]):
        _word(ax, t, 0.46, str(word), 9.5)
    for left, y, tip, text in ((0, 0.2, 0.09, "logits[:, :-1]"), (1, 2.85, -0.09, "ids[:, 1:]")):
        ends = (left + 0.06, left + size - 1.06)
        ax.plot((ends[0], *ends, ends[1]), (y + tip, y, y, y + tip), color=_INK, linewidth=1.1)
        style = {"ha": "center", "fontsize": 10, "family": "monospace", "color": _INK}
        ax.text(sum(ends) / 2, y - tip, text, va="top" if tip > 0 else "bottom", **style)
    return figure


def token_grid(
    rows: Sequence[Sequence[str]],
    kinds: Sequence[Sequence[str]],
    counts: Sequence[Sequence[bool]] | None = None,
) -> Figure:
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

    handles = [Patch(facecolor=f, hatch=h, edgecolor=_QUIET, label=kind) for kind, (f, h) in _KINDS.items()]
    if counts is not None:
        border = {"edgecolor": OKABE_ITO["vermilion"], "linewidth": 2.2}
        handles.append(Patch(facecolor="white", label="counts", **border))
    style = {"fontsize": 10, "frameon": False, "handlelength": 1.3, "columnspacing": 1.1}
    ax.legend(handles=handles, loc="upper center", ncols=len(handles), **style)
    return figure


def token_bars(
    tokens: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    title: str = "",
    xlim: tuple[float, float] | None = None,
) -> Figure:
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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 0.95 + 0.27 * len(tokens)), facecolor="white", layout="constrained")
    ax = figure.add_subplot()
    thick = 0.8 / len(series)
    for index, ((label, values), (colour, hatch)) in enumerate(zip(series.items(), _BARS, strict=False)):
        places = [t + (index - (len(series) - 1) / 2) * thick for t in range(len(tokens))]
        style = {"color": OKABE_ITO[colour], "hatch": hatch, "edgecolor": "white", "lw": 0, "zorder": 2}
        ax.barh(places, [float(value) for value in values], height=thick, label=label, **style)
    ax.set_yticks(range(len(tokens)), [repr(token) for token in tokens], fontsize=10)
    ax.set(ylim=(len(tokens) - 0.4, -0.6), xlim=xlim)
    ax.set_xlabel(xlabel, fontsize=10.5, color=_INK)
    ax.set_title(title, fontsize=11.5, color=_INK, loc="left")
    ax.grid(True, axis="x", color="#DFE4E8", zorder=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    if len(series) > 1:
        ax.legend(fontsize=10, facecolor="white", edgecolor="none", framealpha=0.9)
    return figure


def _canvas(height: float, *, right: float, bottom: float, top: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    ax = figure.add_axes((0.01, 0, 0.98, 1))
    ax.set(xlim=(-0.05, right + 0.05), ylim=(bottom, top))
    ax.axis("off")
    return figure, ax


def _cell(
    ax: Axes, t: float, y: float, text: str, *, fill: str, hatch: str = "", height: float = 0.6,
    bold: bool = False, faint: bool = False,
) -> None:  # fmt: skip
    """One box with its token; ``bold`` for a position that counts, ``faint`` for one that is not there."""
    from matplotlib.patches import Rectangle

    gap, width, edge = (0.07, 2.6, OKABE_ITO["vermilion"]) if bold else (0.03, 0.9, _QUIET)
    box = Rectangle((t + gap, y + gap), 1 - 2 * gap, height - 2 * gap, facecolor=fill, edgecolor=edge)
    box.set(linewidth=width, linestyle="--" if faint else "-", hatch=hatch, hatch_linewidth=0.4)
    ax.add_patch(box)
    _word(ax, t, y + height / 2, text, 10 if len(text) < 8 else 9.3, _QUIET if faint else _INK)


def _word(ax: Axes, t: float, y: float, text: str, size: float, colour: str = _INK) -> None:
    ax.text(t + 0.5, y, text, ha="center", va="center", fontsize=size, color=colour)
