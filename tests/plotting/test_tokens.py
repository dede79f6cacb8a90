"""Pictures of tokens: they draw, they show every token, and they refuse what does not fit."""

from __future__ import annotations

import pytest

from rlhf_lite import plotting
from rlhf_lite.plotting.tokens import shift_picture, token_bars, token_grid

TOKENS = ["The", "film", "opens"]
ROWS = [TOKENS, ["A", "cat", "PAD"]]
KINDS = [["prompt", "response", "response"], ["prompt", "response", "padding"]]
FIGURES = {
    "shift": lambda: shift_picture(TOKENS),
    "grid": lambda: token_grid(ROWS, KINDS),
    "grid, counts": lambda: token_grid(ROWS, KINDS, [[False, True, True], [False, True, False]]),
    "bars": lambda: token_bars(TOKENS, {"a": [1, 2, 3], "b": [3, 2, 1]}, xlabel="nats"),
}


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))]


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_opaque_and_readable_on_a_phone(draw):
    figure = draw()
    assert plotting.to_png(figure).startswith(b"\x89PNG")
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize") and bool(artist.get_text()))
    assert min(text.get_fontsize() for text in texts) * 350 / (figure.get_figwidth() * 72) > 9.5


def test_the_shift_has_one_arrow_per_token_and_they_point_one_column_to_the_right():
    ax = shift_picture(TOKENS).axes[0]
    arrows = [text for text in ax.texts if getattr(text, "arrow_patch", None) is not None]
    assert [(arrow.xyann[0] // 1, arrow.xy[0] // 1) for arrow in arrows] == [(0, 1), (1, 2), (2, 3)]
    assert words(ax).count("film") == 2 and "?" in words(ax)


def test_what_counts_has_a_thick_border():
    ax = FIGURES["grid, counts"]().axes[0]
    assert sum(patch.get_linewidth() > 2 for patch in ax.patches) == 3
    assert "counts" in words(ax) and "counts" not in words(FIGURES["grid"]())


def test_bars_have_the_lengths_they_were_given():
    ax = FIGURES["bars"]().axes[0]
    assert [bar.get_width() for bar in ax.patches] == [1, 2, 3, 3, 2, 1]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["'The'", "'film'", "'opens'"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: shift_picture(["one"]), "at least two"),
        (lambda: token_grid(ROWS, KINDS[:1]), "one shape"),
        (lambda: token_grid(ROWS, KINDS, [[True], [True]]), "one shape"),
        (lambda: token_grid([["a"]], [["answer"]]), "answer"),
        (lambda: token_bars(TOKENS, {}, xlabel="x"), "1 to 3 series"),
        (lambda: token_bars(TOKENS, {"a": [1]}, xlabel="x"), "3 values"),
    ],
)
def test_what_does_not_fit_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
