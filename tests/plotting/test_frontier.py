"""Figures of reward against KL: what is drawn where, and what is refused."""

from __future__ import annotations

import pytest

from rlhf_lite import plotting
from rlhf_lite.plotting.frontier import Points, frontier, probs_and_frontier

LINE = ([0.0, 0.5, 1.0], [0.0, 1.0, 1.2])


def names(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]


def test_every_algorithm_is_a_marker_with_its_name():
    figure = frontier(
        *LINE,
        {
            "PPO": Points([0.5], [0.9], low=[0.8], high=[1.0], kl_low=[0.4], kl_high=[0.6]),
            "best of n": Points([0.0, 0.2, 0.6], [0.0, 0.4, 0.9], names=["", "n = 2", "n = 4"], joined=True),
            "start": (0.0, 0.0),
        },
        band=([0.0, 0.9, 1.1], [0.0, 1.1, 1.3]),
        cloud=([0.2, 0.4], [0.1, 0.2]),
        cloud_name="random",
    )
    assert names(figure) == ["random", "best possible", "PPO", "best of n", "start"]
    drawn = {line.get_label(): line for line in figure.axes[0].lines}
    assert drawn["PPO"].get_xydata().tolist() == [[0.5, 0.9]]
    assert drawn["best possible"].get_xydata().tolist() == [[0.0, 0.0], [0.5, 1.0], [1.0, 1.2]]
    assert len({line.get_marker() for line in drawn.values()}) == 5  # told apart without colour
    assert drawn["PPO"].get_linestyle() == "None" and drawn["best of n"].get_linestyle() != "None"
    words = {text.get_text() for text in figure.axes[0].texts}
    assert {"n = 2", "n = 4"} <= words
    (vertical,) = [s for c in figure.axes[0].collections[1:2] for s in c.get_segments()]
    assert vertical.tolist() == [[0.5, 0.8], [0.5, 1.0]]


def test_the_dashed_line_has_the_slope_of_the_price():
    figure = probs_and_frontier(["a", "b"], [0.5, 0.5], [0.2, 0.8], *LINE, at=(0.5, 1.0), beta=0.4)
    top, bottom = figure.axes
    assert [round(bar.get_width(), 6) for bar in top.patches] == [0.5, 0.5, 0.2, 0.8]
    assert [label.get_text() for label in top.get_yticklabels()] == ["a", "b"]
    dashed = next(line for line in bottom.lines if line.get_label().startswith("equal J"))
    assert dashed.get_slope() == 0.4 and dashed.get_xy1() == (0.5, 1.0)
    value = next(line for line in bottom.lines if line.get_label() == "that J")
    assert value.get_xydata().tolist() == [[0.0, 0.8]]  # 1 - 0.4 * 0.5


def test_a_limit_ends_axis_and_line():
    figure = frontier(*LINE, kl_limit=0.5)
    (drawn,) = figure.axes[0].lines
    assert drawn.get_xydata().tolist() == [[0.0, 0.0], [0.5, 1.0]]
    assert figure.axes[0].get_xlim()[1] < 1


def test_frames_of_a_slider_have_equal_size_and_axes():
    frames = [
        probs_and_frontier(["a", "b"], [0.5, 0.5], [1 - p, p], *LINE, at=(p, p), beta=1.0) for p in (0.5, 0.9)
    ]
    sizes = {tuple(frame.get_size_inches()) for frame in frames}
    limits = {(frame.axes[1].get_xlim(), frame.axes[1].get_ylim()) for frame in frames}
    assert len(sizes) == len(limits) == 1


@pytest.mark.parametrize("draw", [
    lambda: frontier(*LINE, {"PPO": (0.5, 0.9)}),
    lambda: probs_and_frontier(["a", "b"], [0.5, 0.5], [0.2, 0.8], *LINE, at=(0.5, 1.0), beta=0.4),
])  # fmt: skip
def test_figures_are_opaque_and_readable_on_a_phone(draw):
    figure = draw()
    assert plotting.to_png(figure).startswith(b"\x89PNG")
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))
    pixels = 350 / (figure.get_figwidth() * 72)  # one panel, shown 350 px wide on a phone
    assert min(text.get_fontsize() for text in texts) * pixels > 9.5


@pytest.mark.parametrize(("call", "match"), [
    (lambda: Points([0.1], [0.1, 0.2]), "equal length"),
    (lambda: Points([0.1], [0.1], low=[0.0]), "low and high"),
    (lambda: frontier([0.0], [0.0, 1.0]), "exact_kl"),
    (lambda: frontier(*LINE, band=([0.0], [1.0])), "band_low"),
    (lambda: probs_and_frontier(["a"], [1.0], [0.5, 0.5], *LINE, at=(0.0, 0.0), beta=1.0), "probs"),
])  # fmt: skip
def test_errors_name_the_thing(call, match):
    with pytest.raises(ValueError, match=match):
        call()
