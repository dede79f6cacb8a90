"""The site made smaller: what goes, what stays, and that pictures look the same."""

from __future__ import annotations

import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from tools.website.slim import slim


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name in ("_sources", "_static", "_images"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_downloads_lose_their_outputs_and_nothing_else(site: Path) -> None:
    output = nbformat.v4.new_output("stream", text="12\n")
    cell = nbformat.v4.new_code_cell(
        "print(12)", outputs=[output], execution_count=3, metadata={"tags": ["x"]}
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), cell])
    path = site / "_sources" / "one.ipynb"
    nbformat.write(book, path)
    slim(site)
    after = nbformat.read(path, as_version=4)
    assert [c.source for c in after.cells] == ["# Title", "print(12)"]
    assert after.cells[1].outputs == [] and after.cells[1].execution_count is None
    assert after.cells[1].metadata == {"tags": ["x"]} and after.cells[1].id == cell.id


def test_maps_and_second_fonts_go_with_what_points_to_them(site: Path) -> None:
    static = site / "_static"
    (static / "a.css").write_text("p{color:red}\n/*# sourceMappingURL=a.css.map */\n")
    (static / "b.js").write_text("let x = 1;\n//# sourceMappingURL=b.js.map")
    (static / "c.js").write_text("let sourceMappingURL = 2;\n")
    for name in ("a.css.map", "b.js.map", "twice.ttf", "twice.woff2", "alone.ttf"):
        (static / name).write_bytes(b"x")
    slim(site)
    assert sorted(path.name for path in static.iterdir()) == [
        "a.css",
        "alone.ttf",
        "b.js",
        "c.js",
        "twice.woff2",
    ]
    assert (static / "a.css").read_text() == "p{color:red}\n"
    assert (static / "b.js").read_text() == "let x = 1;\n"
    assert (static / "c.js").read_text() == "let sourceMappingURL = 2;\n"


def test_a_chart_keeps_its_look_and_a_transparent_picture_is_left_alone(site: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3), dpi=150)
    axes = figure.subplots()
    for i in range(4):
        axes.plot([0, 1, 2], [i, i * 2, 3 - i], label=f"line {i}")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    chart = site / "_images" / "chart.png"
    chart.write_bytes(buffer.getvalue())
    clear = site / "_images" / "clear.png"
    Image.new("RGBA", (20, 20), (255, 0, 0, 90)).save(clear)
    kept = clear.read_bytes()
    slim(site)
    assert chart.stat().st_size < 0.6 * len(buffer.getvalue())
    before = np.asarray(Image.open(buffer).convert("RGB"), dtype=float)
    after = np.asarray(Image.open(chart).convert("RGB"), dtype=float)
    assert before.shape == after.shape
    difference = np.abs(before - after)
    assert difference.mean() < 0.1
    assert (difference.max(axis=-1) > 24).mean() < 0.001  # single points at the edges of lines
    assert clear.read_bytes() == kept
