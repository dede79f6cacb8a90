"""Policies, arms and switches: every seed, mean and interval is drawn at its place; mistakes are refused."""

from __future__ import annotations

import pytest

from rlhf_lite.plotting import arms_by_seed, effects, to_png

PANELS = {"rank": {"1": [4.0, 5.0], "4": [3.0, 3.5]}, "layers": {"4": [4.5], "8": [4.0], "all": [2.0]}}


def test_every_seed_and_the_mean_are_drawn():
    figure = arms_by_seed(PANELS, ylabel="loss (nats)", baseline=("untouched", 6.0), caption="A replay.")
    first, second = figure.axes
    assert list(first.lines[0].get_ydata()) == [4.5, 3.25]  # the means
    assert [list(line.get_ydata()) for line in first.lines[1:3]] == [[4.0, 5.0], [3.0, 3.5]]
    assert [tick.get_text() for tick in second.get_xticklabels()] == ["4", "8", "all"]
    assert first.get_ylabel() == "loss (nats)"
    assert "replay" in figure.get_supxlabel()
    assert to_png(figure).startswith(b"\x89PNG")


def test_arms_without_an_order_are_not_joined():
    means = arms_by_seed(PANELS, ylabel="loss (nats)", joined=False).axes[0].lines[0]
    assert list(means.get_ydata()) == [4.5, 3.25]
    assert means.get_linestyle() == "None" and means.get_marker() == "_"


@pytest.mark.parametrize("panels", [{}, {"rank": {"1": []}}])
def test_nothing_to_draw_is_an_error(panels):
    with pytest.raises(ValueError, match="arms have values"):
        arms_by_seed(panels, ylabel="loss (nats)")


GROUPS = {
    "calm": ([0.1, -0.2], [0.0, -0.3], [0.2, -0.1]),
    "hard": ([0.3, 0.0], [0.2, -0.1], [0.4, 0.1]),
}


def test_every_group_has_its_markers_and_intervals():
    figure = effects(["no clipping", "no critic"], GROUPS, xlabel="difference (fraction)", caption="Replay.")
    ax = figure.axes[0]
    drawn = {line.get_label(): line for line in ax.lines}
    assert drawn["calm"].get_xdata().tolist() == [0.1, -0.2]
    assert [round(y, 3) for y in drawn["hard"].get_ydata()] == [0.125, 1.125]
    assert drawn["calm"].get_marker() != drawn["hard"].get_marker()  # told apart without colour
    assert ax.collections[0].get_segments()[1].tolist() == [[-0.3, 0.875], [-0.1, 0.875]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["no clipping", "no critic"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["calm", "hard"]
    assert figure.get_supxlabel() == "Replay." and to_png(figure).startswith(b"\x89PNG")


def test_wrong_columns_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        effects(["a"], {}, xlabel="x")
    with pytest.raises(ValueError, match="equal length"):
        effects(["a"], GROUPS, xlabel="x")
