"""The picture of a sweep shows every seed, and the mean of each arm."""

from __future__ import annotations

import pytest

from rlhf_lite.plotting import to_png
from rlhf_lite.plotting.arms import arms_by_seed

PANELS = {"rank": {"1": [4.0, 5.0], "4": [3.0, 3.5]}, "layers": {"4": [4.5], "8": [4.0], "all": [2.0]}}


def test_every_seed_and_the_mean_are_drawn():
    figure = arms_by_seed(PANELS, ylabel="loss (nats)", baseline=("untouched", 6.0), caption="A replay.")
    first, second = figure.axes
    assert list(first.lines[0].get_ydata()) == [4.5, 3.25]  # the means
    assert [list(line.get_ydata()) for line in first.lines[1:3]] == [[4.0, 5.0], [3.0, 3.5]]
    assert [tick.get_text() for tick in second.get_xticklabels()] == ["4", "8", "all"]
    assert first.get_ylabel() == "loss (nats)"
    assert "replay" in figure._supxlabel.get_text()
    assert to_png(figure).startswith(b"\x89PNG")


def test_arms_without_an_order_are_not_joined():
    means = arms_by_seed(PANELS, ylabel="loss (nats)", joined=False).axes[0].lines[0]
    assert list(means.get_ydata()) == [4.5, 3.25]
    assert means.get_linestyle() == "None" and means.get_marker() == "_"


@pytest.mark.parametrize("panels", [{}, {"rank": {"1": []}}])
def test_nothing_to_draw_is_an_error(panels):
    with pytest.raises(ValueError, match="arms have values"):
        arms_by_seed(panels, ylabel="loss (nats)")
