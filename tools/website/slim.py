"""Make the built site smaller without taking anything from a reader.

- The notebooks behind the download buttons lose their outputs: the page shows them already.
- Source maps go: they serve the debugging of a theme's style sheets.
- Fonts that are there twice keep the compressed form, which every browser of the last ten years reads.
- Pictures get a palette: charts have few colours, and lossless truecolour takes several times the space.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import nbformat
from PIL import Image

from tools import state

_MAP_LINE = re.compile(r"\n?(/\*# sourceMappingURL=[^*]*\*/|//# sourceMappingURL=\S+)\s*$")
COLOURS = 256


def slim(site: Path) -> None:
    """Do all of it; see the module's text."""
    for notebook in sorted((site / "_sources").rglob("*.ipynb")):
        _strip_outputs(notebook)
    for path in sorted((site / "_static").rglob("*")):
        if path.suffix in {".css", ".js"}:
            _forget_map(path)
        elif path.suffix == ".map" or (path.suffix == ".ttf" and path.with_suffix(".woff2").is_file()):
            path.unlink()
    for picture in sorted((site / "_images").glob("*.png")):
        _use_palette(picture)


def _strip_outputs(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    state.write_atomically(path, nbformat.writes(book).encode())


def _forget_map(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    without = _MAP_LINE.sub("\n", text)
    if without != text:
        state.write_atomically(path, without.encode())


def _use_palette(path: Path) -> None:
    before = path.read_bytes()
    image = Image.open(io.BytesIO(before))
    if image.mode == "P" or image.convert("RGBA").getextrema()[3][0] < 255:
        return  # has a palette already, or is transparent, which this would spoil
    few = image.convert("RGB").quantize(
        colors=COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    buffer = io.BytesIO()
    few.save(buffer, format="PNG", optimize=True)
    if buffer.tell() < len(before):
        state.write_atomically(path, buffer.getvalue())
