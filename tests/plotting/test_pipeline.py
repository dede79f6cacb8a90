"""The two drawings of the pipeline: complete, opaque, and no word touches another or leaves its box."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.textpath import TextPath

from rlhf_lite import plotting

SVG = "{http://www.w3.org/2000/svg}"
PARTS = ("SFT", "Reward model", "PPO", "Evaluation", "Gold judge", "train", "validation", "test", "gold")
Box = tuple[float, float, float, float]  # left, top, right, bottom


def root(layout: str) -> ET.Element:
    return ET.fromstring(plotting.pipeline_picture(layout=layout, texts=10605).svg)


def words(layout: str) -> list[tuple[str, Box]]:
    """Each line of text and its extent in DejaVu Sans, the widest of the fonts that the drawing names."""
    found = []
    for text in root(layout).iter(f"{SVG}text"):
        size = float(text.get("font-size"))
        weight = {"weight": text.get("font-weight", "normal"), "family": "DejaVu Sans"}
        for line in list(text) or [text]:
            box = TextPath((0, 0), line.text, size=size, prop=weight).get_extents()
            left = float(line.get("x")) - (box.width / 2 if text.get("text-anchor") == "middle" else 0)
            base = float(line.get("y"))
            found.append((line.text, (left, base - box.y1, left + box.width, base - box.y0)))
    return found


def boxes(layout: str) -> list[Box]:
    return [
        (x, y, x + width, y + height)
        for rect in root(layout).iter(f"{SVG}rect")
        for x, y, width, height in [[float(rect.get(key, 0)) for key in ("x", "y", "width", "height")]]
    ]


def inside(inner: Box, outer: Box, slack: float = 0.0) -> bool:
    return (
        inner[0] >= outer[0] + slack
        and inner[1] >= outer[1] + slack
        and inner[2] <= outer[2] - slack
        and inner[3] <= outer[3] - slack
    )


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("layout", ["wide", "tall"])
def test_every_word_has_its_place(layout):
    placed, frames = words(layout), boxes(layout)
    page = frames[0]
    assert page[:2] == (0, 0)
    for word, box in placed:
        assert inside(box, page, 2), word
        # A word that touches a box stands inside it, with some air.
        for frame in frames[1:]:
            assert not overlap(box, frame) or inside(box, frame, 2), word
    for (first, a), (second, b) in combinations(placed, 2):
        assert not overlap(a, b), (first, second)


@pytest.mark.parametrize("layout", ["wide", "tall"])
def test_the_drawing_names_all_parts_and_is_opaque(layout):
    shown = " ".join(word for word, _ in words(layout))
    assert all(part in shown for part in PARTS) and "10,605 texts, none in two parts" in shown
    picture = plotting.pipeline_picture(layout=layout)
    assert ">no text is in two parts<" in picture.svg
    tree = ET.fromstring(picture.svg)
    page = tree.find(f"{SVG}rect")
    assert page.get("fill") == "white"
    assert (page.get("width"), page.get("height")) == (tree.get("width"), tree.get("height"))
    assert not re.search(r"href|url\(|<script|<style|@import", picture.svg)
    assert picture.alt.endswith(".") and len(picture.alt.split()) > 20
    assert picture._repr_svg_() == picture.svg


@pytest.mark.parametrize("layout", ["wide", "tall"])
def test_letters_are_readable_on_a_phone(layout):
    sizes = [float(text.get("font-size")) for text in root(layout).iter(f"{SVG}text")]
    shown = 350 if layout == "tall" else 760  # CSS pixels: a phone, the column of a page
    assert min(sizes) * shown / float(root(layout).get("width")) > (9.5 if layout == "tall" else 8.5)


def test_the_readme_shows_this_drawing():
    shown = Path(__file__).parents[2] / "book" / "_static" / "pipeline.svg"
    assert shown.read_text(encoding="utf-8") == plotting.pipeline_picture().svg


def test_another_layout_is_refused():
    with pytest.raises(ValueError, match="layout: expected 'wide' or 'tall', got 'square'"):
        plotting.pipeline_picture(layout="square")
