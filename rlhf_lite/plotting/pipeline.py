"""The picture of the pipeline: four phases, and which part of the human ratings each one sees.

Drawn by hand twice, wide for a page (``pipeline-wide.svg``) and tall for a phone (``pipeline-tall.svg``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_ALT = (
    "Diagram: the human ratings are split into train, validation, test and gold. SFT and the reward model "
    "learn from train and are watched on validation; PPO starts from the SFT policy, writes continuations of "
    "train openings and is rewarded by the reward model; the evaluation uses test openings and a gold judge "
    "fitted to the gold part."
)
_SUBTITLE = ">no text is in two parts<"


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
    """The four phases and the part of the human ratings that each one sees.

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
