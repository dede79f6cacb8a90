"""Figures as a report carries them: a picture for the page, a file for Markdown, a sentence for both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_lite import plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Chart", "chart", "charts_in", "pipeline_chart"]


@dataclass(frozen=True)
class Chart:
    """A drawn figure.

    Attributes:
        file: its name in the folder ``figures``.
        content: what that file holds.
        svg: the picture on the page.
        alt: a sentence that says what it shows.
        caption: what stands under it.
        narrow_svg: another drawing of the same, for a phone.
    """

    file: str
    content: bytes
    svg: str
    alt: str
    caption: str = ""
    narrow_svg: str = ""


def chart(figure: Figure, name: str, alt: str, caption: str = "") -> Chart:
    """A matplotlib figure, drawn as SVG and as PNG."""
    svg = plotting.to_svg(figure)
    figure.set_layout_engine("none")  # placed by now; placing again would cost as much as drawing
    return Chart(f"{name}.png", plotting.to_png(figure), svg, alt, caption)


def pipeline_chart() -> Chart:
    """The four phases and the parts of the ratings, wide and tall."""
    wide, tall = plotting.pipeline_picture(), plotting.pipeline_picture(layout="tall")
    caption = "The shares are those of the built-in human ratings. No text is in two parts."
    return Chart("pipeline.svg", wide.svg.encode("utf-8"), wide.svg, wide.alt, caption, tall.svg)


def charts_in(tree: Any) -> Iterable[Chart]:
    """All charts of a nested context."""
    if isinstance(tree, Chart):
        yield tree
    elif isinstance(tree, Mapping):
        yield from charts_in(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for entry in tree:
            yield from charts_in(entry)
