"""Figures of the book and of the reports: plain numbers in, ``matplotlib.figure.Figure`` out."""

from rlhf_lite.plotting.curves import (
    OKABE_ITO,
    POLICY_COLOURS,
    Panel,
    accuracy_by_gap,
    policy_comparison,
    reward_calibration,
    reward_versus_kl,
    save_png,
    to_png,
    to_svg,
    training_curves,
)
from rlhf_lite.plotting.pipeline import pipeline_picture

__all__ = [
    "OKABE_ITO",
    "POLICY_COLOURS",
    "Panel",
    "accuracy_by_gap",
    "pipeline_picture",
    "policy_comparison",
    "reward_calibration",
    "reward_versus_kl",
    "save_png",
    "to_png",
    "to_svg",
    "training_curves",
]
