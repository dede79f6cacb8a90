"""The look of all figures, the way from a figure to a file, and the one picture that is drawn by hand.

The look stands in one style sheet, ``rlhf_lite.mplstyle``; what draws a figure is marked `styled`. There
is no pyplot, so nothing is global and nothing has to be closed.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from rlhf_lite.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OKABE_ITO = {"black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73",
             "yellow": "#F0E442", "blue": "#0072B2", "vermilion": "#D55E00", "purple": "#CC79A7"}
POLICY_COLOURS = {"reference": "#6B6B6B", "sft": OKABE_ITO["blue"], "ppo": OKABE_ITO["vermilion"]}
INK, QUIET = "#26323D", "#8A949C"
PANEL = (4.6, 2.9)  # inches: width and height of one panel
DASHED: dict[str, Any] = {"color": INK, "linewidth": 1.1, "linestyle": (0, (5, 3))}  # a line to compare with
_SHEET = Path(__file__).with_name("rlhf_lite.mplstyle")
_ALT = ("Diagram: the human ratings are split into train, validation, test and gold. SFT and the reward "
        "model learn from train and are watched on validation; PPO starts from the SFT policy, writes "
        "continuations of train openings and is rewarded by the reward model; the evaluation uses test "
        "openings and a gold judge fitted to the gold part.")
_SUBTITLE = ">no text is in two parts<"

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a function under the style sheet; the settings of a notebook are neither used nor changed."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(fname=_SHEET):
            return draw(*args, **kwargs)

    return inside


def cycled(index: int) -> dict[str, Any]:
    """Colour, line style and marker of the series with this number; needs the style sheet."""
    import matplotlib

    styles = list(matplotlib.rcParams["axes.prop_cycle"])
    return dict(styles[index % len(styles)])


def new_figure(width: float = PANEL[0], height: float = PANEL[1], **options: Any) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)


def panel_grid(number: int, columns: int, size: tuple[float, float], *, extra: float = 0.0,
               **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, filled row by row.

    Args:
        number: of panels; axes beyond it are switched off.
        columns: panels side by side, at most.
        size: of one panel in inches.
        extra: height for what stands above or below all panels.
        options: for ``Figure.subplots``.
    """
    columns = max(1, min(columns, number))
    rows = math.ceil(number / columns)
    figure = new_figure(size[0] * columns, size[1] * rows + extra)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for ax in axes[number:]:
        ax.set_axis_off()
    return figure, axes[:number]


def name_rows(ax: Axes, names: Sequence[str], *, size: float = 11.0, top: float = -0.6,
              bottom: float = 0.5) -> None:
    """A vertical axis of names, the first on top, for bars or dots with intervals."""
    ax.grid(False, axis="y")
    ax.set_yticks(range(len(names)), list(names))
    ax.tick_params(axis="y", labelsize=size, length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(len(names) - bottom, top)


def note_above(ax: Axes, text: str, x: float, y: float) -> None:
    """A short label just above a data point."""
    behind = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    ax.annotate(text, (x, y), xytext=(0, 8), textcoords="offset points", ha="center", bbox=behind, zorder=5)


def floats(values: Sequence[float | None]) -> list[float]:
    """The values as floats, None as NaN, which leaves a gap."""
    return [math.nan if value is None else float(value) for value in values]


def same_length(**columns: Sequence[Any] | None) -> None:
    """Check columns by their names.

    Raises:
        ValueError: if they differ in length, or one is empty; None is no column.
    """
    sizes = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"expected columns of equal length, got {sizes}")
    if not all(sizes.values()):
        raise ValueError(f"expected at least one value, got {sizes}")


@styled
def to_png(figure: Figure, *, dpi: int = 160) -> bytes:
    """The figure as PNG bytes on an opaque white background."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


@styled
def to_svg(figure: Figure) -> str:
    """The figure as SVG text. Letters are drawn as paths, so it looks the same without our fonts."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save_png(figure: Figure, path: str | Path, *, dpi: int = 160) -> Path:
    """Write the figure as PNG, making the folder if needed; a reader never sees half a file."""
    target = Path(path)
    write_bytes(target, to_png(figure, dpi=dpi))
    return target


@dataclass(frozen=True)
class Drawing:
    """A picture as SVG text; at the end of a notebook cell it is shown.

    Attributes:
        svg: opaque, and without anything that has to be fetched.
        alt: a sentence for readers who cannot see it.
    """

    svg: str
    alt: str

    def _repr_svg_(self) -> str:
        return self.svg


def pipeline_picture(*, layout: str = "wide", texts: int | None = None) -> Drawing:
    """The picture of the pipeline: four phases, and the part of the human ratings that each one sees.

    Drawn by hand twice, wide for a page (``pipeline-wide.svg``) and tall for a phone (``pipeline-tall.svg``).

    Args:
        layout: "wide" (a page) or "tall" (a phone).
        texts: the number of rated texts, to be named in the picture.

    Raises:
        ValueError: for another layout.
    """
    if layout not in ("wide", "tall"):
        raise ValueError(f"layout: expected 'wide' or 'tall', got {layout!r}")
    svg = Path(__file__).with_name(f"pipeline-{layout}.svg").read_text(encoding="utf-8")
    if texts is not None:
        svg = svg.replace(_SUBTITLE, f">{texts:,} texts, none in two parts<")
    return Drawing(svg, _ALT)
