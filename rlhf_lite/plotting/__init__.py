"""Figures of the book and of the reports: plain numbers in, ``matplotlib.figure.Figure`` out.

The look of all of them stands in ``rlhf_lite.mplstyle``.
"""

from rlhf_lite.plotting.comparisons import (
    accuracy_by_gap,
    arms_by_seed,
    effects,
    policy_comparison,
    reward_calibration,
)
from rlhf_lite.plotting.curves import MetricPanel, Panel, dashboard, reward_versus_kl, training_curves
from rlhf_lite.plotting.style import OKABE_ITO, POLICY_COLOURS, pipeline_picture, save_png, to_png, to_svg
from rlhf_lite.plotting.tokens import shift_picture, token_bars, token_breakdown, token_grid

__all__ = [
    "OKABE_ITO", "POLICY_COLOURS", "MetricPanel", "Panel", "accuracy_by_gap", "arms_by_seed", "dashboard",
    "effects", "pipeline_picture", "policy_comparison", "reward_calibration", "reward_versus_kl", "save_png",
    "shift_picture", "to_png", "to_svg", "token_bars", "token_breakdown", "token_grid", "training_curves",
]
