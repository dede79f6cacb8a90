"""Figures of switches: every group is drawn at its place, and mistakes are refused."""

from __future__ import annotations

import pytest

from rlhf_lite import plotting
from rlhf_lite.plotting.effects import effects

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
    assert figure.get_supxlabel() == "Replay." and plotting.to_png(figure).startswith(b"\x89PNG")


def test_wrong_columns_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        effects(["a"], {}, xlabel="x")
    with pytest.raises(ValueError, match="equal length"):
        effects(["a"], GROUPS, xlabel="x")
