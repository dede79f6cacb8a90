"""The picture of the pipeline: four phases, and which part of the human ratings each one sees.

Drawn twice, wide for a page and tall for a phone. One unit is a tenth of an inch, so the
coordinates below can be read as a drawing. Reached through `rlhf_lite.plotting.pipeline_picture`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#26323D"
_QUIET = "#55626E"
# Okabe-Ito hues: (fill, edge). The fill is the edge colour mixed with white.
_SPLIT = {
    "train": ("#D6E8F4", "#0072B2"),
    "validation": ("#E9F4FB", "#56B4E9"),
    "test": ("#FBEBCB", "#B87D00"),
    "gold": ("#F7F0B8", "#A39100"),
}
_LEARN = ("#FBE6DA", "#D55E00")
_JUDGE = ("#DDF1EA", "#009E73")
_DATA = ("#F3F5F7", "#8A949C")
Corners = tuple[float, float, float, float]  # left, bottom, right, top
_SHARE = {"train": "50 %", "validation": "10 %", "test": "15 %", "gold": "25 %"}


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 10, height / 10), facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return figure, ax


def _box(ax: Axes, corners: Corners, style: tuple[str, str], width: float = 1.6) -> None:
    from matplotlib.patches import FancyBboxPatch

    left, bottom, right, top = corners
    ax.add_patch(
        FancyBboxPatch(
            (left, bottom),
            right - left,
            top - bottom,
            boxstyle="round,pad=0,rounding_size=1.1",
            facecolor=style[0],
            edgecolor=style[1],
            linewidth=width,
        )
    )


def _phase(
    ax: Axes,
    corners: Corners,
    title: str,
    body: str,
    style: tuple[str, str],
    number: str = "",
    reads: tuple[str, ...] = (),
) -> None:
    from matplotlib.patches import Circle

    left, bottom, _, top = corners
    _box(ax, corners, style)
    indent = left + 1.4
    middle = {"va": "center", "color": _INK}
    if number:
        ax.add_patch(Circle((left + 2.7, top - 2.8), 1.5, facecolor=style[1], edgecolor="none"))
        badge = {"fontsize": 11, "fontweight": "bold", "color": "white"}
        ax.text(left + 2.7, top - 2.9, number, ha="center", va="center", **badge)
        indent = left + 5.0
    ax.text(indent, top - 2.9, title, ha="left", fontsize=12.5, fontweight="bold", **middle)
    ax.text(left + 1.4, top - 5.2, body, ha="left", va="top", color=_INK, fontsize=10.2, linespacing=1.35)
    start = left + 1.4
    for name in reads:
        width = 1.6 + 0.78 * len(name)
        _box(ax, (start, bottom + 1.0, start + width, bottom + 3.2), _SPLIT[name], 1.2)
        ax.text(start + width / 2, bottom + 2.05, name, ha="center", fontsize=9.3, **middle)
        start += width + 0.9


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    label: str = "",
    *,
    colour: str = _QUIET,
    beside: bool = False,
    at: float | None = None,
) -> None:
    ax.annotate(
        "",
        xy=end,
        xytext=start,
        arrowprops={
            "arrowstyle": "-|>,head_width=0.32,head_length=0.6",
            "color": colour,
            "linewidth": 1.8,
            "shrinkA": 1.5,
            "shrinkB": 1.5,
        },
    )
    if not label:
        return
    if beside:
        x, y, ha, va = start[0] + 1.1, (start[1] + end[1]) / 2, "left", "center"
    else:
        x, y, ha, va = (at if at is not None else (start[0] + end[0]) / 2), start[1] + 0.6, "center", "bottom"
    ax.text(x, y, label, ha=ha, va=va, color=_INK, fontsize=9.8, linespacing=1.2)


def _split(ax: Axes, name: str, corners: Corners, note: str = "") -> None:
    left, bottom, right, top = corners
    _box(ax, corners, _SPLIT[name], 1.4)
    middle = (left + right) / 2
    text = f"{name}  {_SHARE[name]}"
    if note:
        ax.text(middle, (bottom + top) / 2 + 1.3, text, ha="center", va="center", color=_INK, fontsize=11)
        ax.text(middle, (bottom + top) / 2 - 1.4, note, ha="center", va="center", color=_QUIET, fontsize=9.4)
    else:
        ax.text(middle, (bottom + top) / 2, text, ha="center", va="center", color=_INK, fontsize=11)


def _subtitle(texts: int | None) -> str:
    return "no text is in two parts" if texts is None else f"{texts:,} texts, none in two parts"


def _wide(texts: int | None) -> Figure:
    figure, ax = _canvas(112, 58)
    ax.text(14.5, 55.6, "Human ratings", ha="center", va="center", color=_INK, fontsize=13, fontweight="bold")
    ax.text(14.5, 53.0, _subtitle(texts), ha="center", va="center", color=_QUIET, fontsize=9.8)
    _box(ax, (1.2, 1.8, 27.8, 51.2), _DATA, 1.2)
    _split(ax, "train", (2.4, 29.2, 26.6, 50.0))
    _split(ax, "validation", (2.4, 22.2, 26.6, 28.2), "watched while 1 and 2 learn")
    _split(ax, "test", (2.4, 15.2, 26.6, 21.2))
    _split(ax, "gold", (2.4, 3.0, 26.6, 14.2), "seen by the gold judge only")

    sft = "learns to continue a review\nthe way people write."
    reward = "learns which of two reviews\npeople rated higher."
    gold_judge = "a model of another kind,\nfitted to other ratings."
    _phase(ax, (41, 41, 68, 52.4), "SFT", sft, _LEARN, "1")
    _phase(ax, (41, 22.6, 68, 34.6), "Reward model", reward, _LEARN, "2")
    _phase(ax, (41, 2.4, 68, 13.6), "Gold judge", gold_judge, _JUDGE)
    _phase(
        ax,
        (83, 27.4, 110.6, 52.4),
        "PPO",
        "writes continuations, has\nthe reward model score\nthem, and makes well-scored\n"
        "words more likely.\n\nA KL penalty keeps it near\nthe reference policy.",
        _LEARN,
        "3",
    )
    _phase(
        ax,
        (83, 2.4, 110.6, 20.6),
        "Evaluation",
        "reference, SFT and PPO on\nunseen openings, scored by\njudges that no training step\nhas used.",
        _JUDGE,
        "4",
    )
    train, test, gold = (_SPLIT[name][1] for name in ("train", "test", "gold"))
    _arrow(ax, (26.6, 45.6), (41, 45.6), "review texts", colour=train)
    _arrow(ax, (26.6, 37.6), (83, 37.6), "openings only", colour=train, at=33.8)
    _arrow(ax, (26.6, 31.0), (41, 31.0), "rated pairs", colour=train)
    _arrow(ax, (26.6, 18.2), (83, 18.2), "unseen openings and pairs", colour=test, at=54.5)
    _arrow(ax, (26.6, 8.0), (41, 8.0), "ratings", colour=gold)
    _arrow(ax, (68, 46.2), (83, 46.2), "starting policy", colour=_LEARN[1])
    _arrow(ax, (68, 30.0), (83, 30.0), "reward", colour=_LEARN[1])
    _arrow(ax, (68, 8.0), (83, 8.0), "gold reward", colour=_JUDGE[1])
    _arrow(ax, (96.8, 27.4), (96.8, 20.6), "its samples", colour=_LEARN[1], beside=True)
    return figure


def _tall(texts: int | None) -> Figure:
    figure, ax = _canvas(46, 86)
    ax.text(23, 83.8, "Human ratings", ha="center", va="center", color=_INK, fontsize=13, fontweight="bold")
    ax.text(23, 81.2, _subtitle(texts), ha="center", va="center", color=_QUIET, fontsize=10)
    _box(ax, (0.8, 69.6, 45.2, 79.6), _DATA, 1.2)
    edges = {"train": (1.8, 14.9), "validation": (15.7, 27.1), "test": (27.9, 34.9), "gold": (35.7, 44.2)}
    for name, (left, right) in edges.items():
        _box(ax, (left, 70.6, right, 78.6), _SPLIT[name], 1.4)
        ax.text((left + right) / 2, 76.0, name, ha="center", va="center", color=_INK, fontsize=10.4)
        ax.text((left + right) / 2, 73.0, _SHARE[name], ha="center", va="center", color=_QUIET, fontsize=10.4)
    _phase(
        ax,
        (0.8, 51.2, 22.2, 66.6),
        "SFT",
        "learns to continue\na review the way\npeople write.",
        _LEARN,
        "1",
        ("train", "validation"),
    )
    _phase(
        ax,
        (23.8, 51.2, 45.2, 66.6),
        "Reward model",
        "learns which of two\nreviews people\nrated higher.",
        _LEARN,
        "2",
        ("train", "validation"),
    )
    _phase(
        ax,
        (0.8, 29.8, 45.2, 45.8),
        "PPO",
        "writes continuations, has the reward model score\nthem, and makes well-scored words more likely.\n"
        "A KL penalty keeps it near the reference policy.",
        _LEARN,
        "3",
        ("train",),
    )
    _phase(ax, (20.6, 15.2, 45.2, 26.6), "Gold judge", "a model of another kind.", _JUDGE, reads=("gold",))
    _phase(
        ax,
        (0.8, 0.6, 45.2, 12.0),
        "Evaluation",
        "unseen openings, judges that no training step used.",
        _JUDGE,
        "4",
        ("test",),
    )
    for x in (11.5, 34.5):
        _arrow(ax, (x, 69.6), (x, 66.6))
    _arrow(ax, (11.5, 51.2), (11.5, 45.8), "starting policy", colour=_LEARN[1], beside=True)
    _arrow(ax, (34.5, 51.2), (34.5, 45.8), "reward", colour=_LEARN[1], beside=True)
    _arrow(ax, (7.0, 29.8), (7.0, 12.0), "its samples", colour=_LEARN[1], beside=True)
    _arrow(ax, (34.5, 15.2), (34.5, 12.0), "gold reward", colour=_JUDGE[1], beside=True)
    return figure


def draw_pipeline(*, layout: str = "wide", texts: int | None = None) -> Figure:
    """See `rlhf_lite.plotting.pipeline_picture`."""
    drawings = {"wide": _wide, "tall": _tall}
    if layout not in drawings:
        raise ValueError(f"layout: expected 'wide' or 'tall', got {layout!r}")
    return drawings[layout](texts)
