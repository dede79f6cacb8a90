"""Constitutional AI: principles, critique and revision, feedback from a model instead of people.

Nothing here trains: the room makes revised texts and validated preference records, each with the provenance
of every step. Source: Bai et al. 2022, *Constitutional AI: Harmlessness from AI Feedback* (arXiv:2212.08073).
"""

from __future__ import annotations

from rlhf_lite.constitutional.feedback import PairFeedback, judge_pairs, judge_texts, preferences
from rlhf_lite.constitutional.principles import (
    Constitution,
    Example,
    Principle,
    default_constitution,
    load_constitution,
)
from rlhf_lite.constitutional.revise import Chain, Step, revise
from rlhf_lite.constitutional.writer import PolicyWriter, Writer

__all__ = [
    "Chain",
    "Constitution",
    "Example",
    "PairFeedback",
    "PolicyWriter",
    "Principle",
    "Step",
    "Writer",
    "default_constitution",
    "judge_pairs",
    "judge_texts",
    "load_constitution",
    "preferences",
    "revise",
]
