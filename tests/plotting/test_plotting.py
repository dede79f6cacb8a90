"""Figures from plain arrays: what they show, how large their text is, that nothing global is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_lite import plotting

PANEL = plotting.Panel("SFT: loss", "loss (nats per token)", {"train": ([1, 2, 3], [3.9, None, 3.5])})
FIGURES = {
    "training": lambda: plotting.training_curves([PANEL, PANEL, PANEL]),
    "gap": lambda: plotting.accuracy_by_gap(
        ["1 to 2", "over 2"], [0.8, 0.9], low=[0.7, 0.8], high=[0.9, 1.0]
    ),
    "calibration": lambda: plotting.reward_calibration([0.2, 0.8], [0.1, 0.9], n_pairs=[10, 30]),
    "policies": lambda: plotting.policy_comparison(
        ["SFT", "PPO"], [-0.1, 0.5], low=[-0.2, 0.4], high=[0, 0.6]
    ),
    "trajectory": lambda: plotting.reward_versus_kl({"PPO": ([0, 1, 3], [0.1, 0.5, 0.9])}),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_opaque_and_readable_on_a_phone(draw):
    figure = draw()
    svg = plotting.to_svg(figure)
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert plotting.to_png(figure).startswith(b"\x89PNG")
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    if figure.get_figwidth() < 5:  # one panel: shown 350 px wide on a 390 px screen
        points_to_pixels = 350 / (figure.get_figwidth() * 72)
        sizes = [
            text.get_fontsize() for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))
        ]
        assert min(sizes) * points_to_pixels > 9.5


def test_axes_carry_units_and_values():
    axes = plotting.training_curves(PANEL).axes[0]
    assert axes.get_ylabel() == "loss (nats per token)"
    assert axes.get_xlabel() == "optimiser step"
    line = axes.get_lines()[0]
    assert list(line.get_xdata()) == [1, 2, 3]
    assert line.get_ydata()[0] == 3.9 and line.get_ydata()[1] != line.get_ydata()[1]  # None is a gap


def test_curves_differ_in_style_and_not_only_in_colour():
    steps = [1, 2, 3]
    panel = plotting.Panel("t", "y (units)", {name: (steps, steps) for name in "abcd"}, target=("goal", 2.0))
    lines = plotting.training_curves(panel).axes[0].get_lines()[:4]
    assert len({line.get_linestyle() for line in lines}) == 4
    assert len({line.get_color() for line in lines}) == 4
    from matplotlib.colors import to_hex

    known = {colour.lower() for colour in plotting.OKABE_ITO.values()}
    assert {to_hex(line.get_color()) for line in lines} <= known


def test_policy_intervals_are_drawn_where_they_are():
    axes = plotting.policy_comparison(["SFT", "PPO"], [0.1, 0.5], low=[0.0, 0.4], high=[0.2, 0.6]).axes[0]
    drawn = [sorted(line.get_xdata()) for line in axes.get_lines() if len(line.get_xdata()) == 2]
    assert [0.0, 0.2] in drawn and [0.4, 0.6] in drawn
    bottom, top = axes.get_ylim()
    assert bottom > top  # the first policy is on top


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plotting.training_curves([]), "at least one Panel"),
        (
            lambda: plotting.training_curves(plotting.Panel("t", "y", {"a": ([1, 2], [1.0])})),
            "equal length, got {'steps': 2, 'values': 1}",
        ),
        (lambda: plotting.policy_comparison([], []), "at least one value"),
        (lambda: plotting.accuracy_by_gap(["a"], [0.5], n_pairs=[1, 2]), "equal length"),
    ],
)
def test_bad_input_is_named(draw, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        draw()


def test_svg_is_the_same_twice():
    assert plotting.to_svg(FIGURES["gap"]()) == plotting.to_svg(FIGURES["gap"]())


def test_save_png_makes_the_folder_and_leaves_no_other_file(tmp_path: Path):
    path = plotting.save_png(FIGURES["gap"](), tmp_path / "a" / "b" / "gap.png", dpi=40)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["gap.png"]


def test_no_pyplot_and_a_light_import():
    code = (
        "import sys; from rlhf_lite import plotting; assert 'matplotlib' not in sys.modules;"
        "plotting.to_svg(plotting.reward_calibration([0.2], [0.1]));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_style_sheet_is_used_whatever_the_notebook_has_set_and_leaves_that_alone():
    import matplotlib

    plain = plotting.to_svg(plotting.training_curves(PANEL))
    with matplotlib.rc_context({"axes.grid": False, "font.size": 30, "xtick.labelsize": 30}):
        assert plotting.to_svg(plotting.training_curves(PANEL)) == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_the_cycle_of_the_sheet_tells_series_apart_without_colour():
    from rlhf_lite.plotting.style import cycled, styled

    seven = styled(lambda: [cycled(index) for index in range(7)])()
    assert len({style["marker"] for style in seven}) == len({style["color"].lower() for style in seven}) == 7
    known = {colour.lower() for colour in plotting.OKABE_ITO.values()}
    assert {"#" + style["color"].lower().lstrip("#") for style in seven} < known


@pytest.mark.parametrize("name", ["a$x_{$b", "we_ird%$1^$", r"x\frac$y$", "100 % & <b>"])
def test_a_name_is_never_read_as_a_formula(name):
    """Names of models and folders are drawn as they are, not as the mathematics of matplotlib."""
    from rlhf_lite.plotting.comparisons import policy_comparison

    figure = policy_comparison([name, "other"], [0.1, 0.2], xlabel=name, low=[0.0, 0.1], high=[0.2, 0.3])
    drawn = plotting.to_svg(figure)
    assert drawn.startswith("<svg") and len(plotting.to_png(figure)) > 1000
