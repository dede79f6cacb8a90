"""Whole runs: SFT, reward model, PPO and evaluation, each resumable, and the tools around them."""

# ruff: noqa: F401 (the imports are for editors, type checkers and lazy_names)
from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.lazy import lazy_names

if TYPE_CHECKING:
    from rlhf_lite.pipeline.check import check_file
    from rlhf_lite.pipeline.commands import generate_text, score_file, train_reward_file
    from rlhf_lite.pipeline.run import PHASES, run_pipeline

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
