"""Whole runs: SFT, reward model, PPO and evaluation, each resumable, and the tools around them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_lite.pipeline.commands import generate_text, score_file, train_reward_file
    from rlhf_lite.pipeline.run import PHASES, run_pipeline

_LAZY = {
    "PHASES": "run",
    "run_pipeline": "run",
    "generate_text": "commands",
    "score_file": "commands",
    "train_reward_file": "commands",
}
__all__ = ["PHASES", "generate_text", "run_pipeline", "score_file", "train_reward_file"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
