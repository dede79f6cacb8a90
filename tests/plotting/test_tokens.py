"""Pictures of tokens: they draw, they show every token, and they refuse what does not fit."""

from __future__ import annotations

import pytest

from rlhf_lite.plotting import shift_picture, to_png, to_svg, token_bars, token_breakdown, token_grid

TOKENS = ["The", "film", "opens"]
ROWS = [TOKENS, ["A", "cat", "PAD"]]
KINDS = [["prompt", "response", "response"], ["prompt", "response", "padding"]]
FIGURES = {
    "shift": lambda: shift_picture(TOKENS),
    "grid": lambda: token_grid(ROWS, KINDS),
    "grid, counts": lambda: token_grid(ROWS, KINDS, [[False, True, True], [False, True, False]]),
    "bars": lambda: token_bars(TOKENS, {"a": [1, 2, 3], "b": [3, 2, 1]}, xlabel="nats"),
}
TEXT = [" a", " good", " film", "\n"]
QUANTITIES = {"KL (nats)": [0.0, 0.5, -0.25, 0.0], "reward": [0.0, -0.1, 0.1, 2.0]}


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))]


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_opaque_and_readable_on_a_phone(draw):
    figure = draw()
    assert to_png(figure).startswith(b"\x89PNG")
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


def test_every_token_has_a_bar_in_every_row_with_its_value():
    figure = token_breakdown(TEXT, QUANTITIES)
    assert len(figure.axes) == 2
    for ax, values in zip(figure.axes, QUANTITIES.values(), strict=True):
        assert [bar.get_height() for bar in ax.patches] == values
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert labels == ["_a", "_good", "_film", "↵"]
    assert to_png(figure).startswith(b"\x89PNG")
    assert "+0.50" in to_text(figure) and "+2.00" in to_text(figure)
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)


def to_text(figure) -> str:
    to_svg(figure)
    return " ".join(text.get_text() for ax in figure.axes for text in ax.texts)


def test_limits_are_kept_so_that_two_breakdowns_can_be_compared():
    figure = token_breakdown(TEXT, QUANTITIES, limits={"reward": (-1.0, 3.0)}, title="before")
    assert figure.axes[1].get_ylim() == (-1.0, 3.0)
    assert figure.axes[0].get_ylim() != (-1.0, 3.0)


@pytest.mark.parametrize(("tokens", "rows"), [([], {}), (TEXT, {}), (TEXT, {"reward": [1.0]})])
def test_tokens_and_rows_must_fit(tokens, rows):
    with pytest.raises(ValueError, match=r"expected tokens|has 1 values for 4"):
        token_breakdown(tokens, rows)
