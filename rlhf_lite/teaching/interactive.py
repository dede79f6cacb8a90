"""Pictures with a slider, as one piece of HTML: no kernel, no widget, no script from elsewhere.

Every position of the slider is a finished picture inside the page, so it works on the site, in Colab, in
JupyterLab and in a saved file. Without JavaScript the first picture is shown.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_ALT_WORDS = 5
_MOVE = (
    "const f=this.closest('figure'),v=+this.value;"
    "f.querySelectorAll('img').forEach((m,i)=>{m.style.display=i===v?'block':'none'});"
    "const t=f.querySelectorAll('img')[v].dataset.label;"
    "f.querySelector('output').textContent=t;this.setAttribute('aria-valuetext',t)"
)


@dataclass(frozen=True)
class Slider:
    """Pictures of equal size and a slider that chooses one; a cell that ends with it shows it."""

    html: str

    def _repr_html_(self) -> str:
        """What Jupyter shows."""
        return self.html


def is_sentence(text: str) -> bool:
    """Whether an alternative text is a sentence: at least five words, with a full stop at the end."""
    return text.strip().endswith(".") and len(text.split()) >= MIN_ALT_WORDS


def slider(figures: Sequence[Figure], labels: Sequence[str], *, name: str, alts: Sequence[str],
           start: int = 0, width: int = 560, dpi: int = 120) -> Slider:
    """Join matplotlib figures into one picture with a slider.

    Args:
        figures: one figure for each position, all of the same size.
        labels: what the slider says at each position, such as "β = 0.5".
        name: what the slider changes, such as "price of KL".
        alts: for each picture, a sentence that says what is seen.
        start: the position that is shown first.
        width: how wide the picture is shown, in CSS pixels; on a narrow screen it shrinks.
        dpi: dots per inch of the pictures.

    Raises:
        ValueError: if there is no figure, lengths differ, sizes differ, ``start`` is out of range, or an
            alternative text is no sentence.
    """
    lengths = {"figures": len(figures), "labels": len(labels), "alts": len(alts)}
    if len(set(lengths.values())) > 1 or not figures:
        raise ValueError(f"slider: expected as many labels and alts as figures, at least one, got {lengths}")
    sizes = {tuple(round(float(side), 3) for side in figure.get_size_inches()) for figure in figures}
    if len(sizes) > 1:
        raise ValueError(f"slider: the figures have different sizes, {sorted(sizes)} inches; use one")
    if not 0 <= start < len(figures):
        raise ValueError(f"slider: start is {start}; use 0 to {len(figures) - 1}")
    for alt in alts:
        if not is_sentence(alt):
            raise ValueError(f"slider: the alternative text {alt!r} is not a sentence "
                             f"of {MIN_ALT_WORDS} words or more")
    pictures = "".join(
        f'<img src="data:image/png;base64,{_png(figure, dpi)}" alt="{html.escape(alt)}" '
        f'data-label="{html.escape(label)}" style="display:{"block" if i == start else "none"};'
        f'width:100%;height:auto;background:#fff">'
        for i, (figure, label, alt) in enumerate(zip(figures, labels, alts, strict=True))
    )
    return Slider(
        f'<figure class="rl-slider" style="max-width:{width}px;margin:0.5rem 0">{pictures}'
        '<label style="display:flex;flex-wrap:wrap;gap:0.4rem 0.8rem;align-items:center;margin-top:0.5rem">'
        f'<span>{html.escape(name)}</span><input type="range" min="0" max="{len(figures) - 1}" step="1" '
        f'value="{start}" aria-valuetext="{html.escape(labels[start])}" oninput="{html.escape(_MOVE)}" '
        'style="flex:1 1 12rem;min-width:8rem;height:1.6rem">'
        f'<output style="min-width:6rem;font-variant-numeric:tabular-nums">{html.escape(labels[start])}'
        "</output></label></figure>"
    )


def _png(figure: Figure, dpi: int) -> str:
    """A small PNG: a palette of 128 colours is enough for lines and text."""
    from PIL import Image

    from rlhf_lite.plotting import to_png

    image = Image.open(io.BytesIO(to_png(figure, dpi=dpi))).convert("RGB")
    small = image.quantize(colors=128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
