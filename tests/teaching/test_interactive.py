"""Pictures with a slider: one self-contained piece of HTML, with a text for every picture."""

from __future__ import annotations

import base64
import io

import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from PIL import Image

from rlhf_lite.teaching.interactive import slider
from tools.website.browser import Browser, find_browser

SENTENCES = ["A line goes up from left to right.", "A line goes down from left to right."]


def figures(*sizes: tuple[float, float]) -> list[Figure]:
    made = []
    for i, size in enumerate(sizes):
        figure = Figure(figsize=size)
        figure.add_subplot().plot([0, 1], [i, 1 - i])
        made.append(figure)
    return made


def test_each_position_is_a_picture_with_a_label_and_a_sentence() -> None:
    shown = slider(figures((3, 2), (3, 2)), ["β = 1", "β < 2"], name="price of KL", alts=SENTENCES)
    soup = BeautifulSoup(shown._repr_html_(), "html.parser")
    pictures = soup.find_all("img")
    assert [picture["alt"] for picture in pictures] == SENTENCES
    assert [picture["data-label"] for picture in pictures] == ["β = 1", "β < 2"]
    assert soup.find("input")["max"] == "1" and soup.find("output").get_text() == "β = 1"
    data = base64.b64decode(pictures[1]["src"].split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (360, 240)  # 3 x 2 inches at 120 dots
    assert "http" not in shown.html


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["one"]}, "as many labels"),
        ({"figures": []}, "at least one"),
        ({"figures": figures((3, 2), (4, 2))}, "different sizes"),
        ({"start": 2}, "use 0 to 1"),
        ({"alts": [SENTENCES[0], "beta"]}, "'beta' is not a sentence"),
    ],
)
def test_what_cannot_be_shown_is_refused(change: dict, message: str) -> None:
    good = {"figures": figures((3, 2), (3, 2)), "labels": ["a", "b"], "name": "n", "alts": SENTENCES}
    wanted = good | change
    with pytest.raises(ValueError, match=message):
        slider(wanted.pop("figures"), wanted.pop("labels"), **wanted)


@pytest.mark.site
def test_moving_the_slider_shows_the_other_picture(tmp_path) -> None:
    programs = find_browser()
    if programs is None:
        pytest.skip("there is no Chromium with its driver on this machine")
    shown = slider(figures((3, 2), (3, 2)), ["first", "second"], name="n", alts=SENTENCES)
    page = tmp_path / "page.html"
    page.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{shown.html}</body>', encoding="utf-8")
    script = """
    const slider = document.querySelector('input');
    slider.value = 1;
    slider.dispatchEvent(new Event('input'));
    return [[...document.images].map(i => i.checkVisibility()), document.querySelector('output').textContent];
    """
    with Browser(programs) as browser:
        browser.open(page.as_uri())
        assert browser.run(script) == [[False, True], "second"]
