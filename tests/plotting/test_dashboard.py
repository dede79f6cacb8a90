"""Dashboards: the mean over seeds is drawn thick, and the healthy range is shaded where it should be."""

from __future__ import annotations

import pytest

from rlhf_lite.plotting import MetricPanel, dashboard, to_png

STEPS = [1, 2, 3]
ARMS = {
    "healthy": [{"step": STEPS, "kl": [0.0, 1.0, 2.0]}, {"step": STEPS, "kl": [0.0, 3.0, None]}],
    "sick": [{"step": STEPS, "kl": [0.0, 10.0, 20.0]}],
}


def test_thin_lines_are_seeds_and_thick_ones_their_mean():
    figure = dashboard(ARMS, [MetricPanel("kl", "KL (nats)", healthy=(None, 5.0))], title="healthy and sick")
    (ax,) = figure.axes
    thick = {line.get_label(): list(line.get_ydata()) for line in ax.lines if line.get_linewidth() > 2}
    assert thick["healthy"][:2] == [0.0, 2.0]  # (0 + 0) / 2, (1 + 3) / 2; then a gap
    assert thick["healthy"][2] != thick["healthy"][2]
    assert thick["sick"] == [0.0, 10.0, 20.0]
    assert len(ax.lines) == 4  # two seeds and their mean; a single run has no thin line
    (band,) = ax.patches
    assert band.get_y() + band.get_height() == 5.0
    assert to_png(figure).startswith(b"\x89PNG")
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)


def test_a_range_outside_the_axis_is_not_shaded():
    figure = dashboard(ARMS, [MetricPanel("kl", "KL (nats)", healthy=(50.0, None), limits=(0.0, 20.0))])
    assert not figure.axes[0].patches and figure.axes[0].get_ylim() == (0.0, 20.0)


KL, OTHER = [MetricPanel("kl", "KL")], [MetricPanel("x", "X")]


@pytest.mark.parametrize(("arms", "panels"), [({}, KL), (ARMS, []), ({"a": []}, KL), (ARMS, OTHER)])
def test_what_is_missing_is_named(arms, panels):
    with pytest.raises(ValueError, match=r"expected arms|has no 'x'"):
        dashboard(arms, panels)
