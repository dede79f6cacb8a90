"""Constitutional AI: principles, critique and revision, feedback from a model instead of people.

Nothing here trains: the room makes revised texts and validated preference records, each with the provenance
of every step. Source: Bai et al. 2022, *Constitutional AI: Harmlessness from AI Feedback* (arXiv:2212.08073).
"""

from __future__ import annotations

from rlhf_lite.constitutional.feedback import (
    PairFeedback,
    judge_by_likelihood,
    judge_pairs,
    judge_texts,
    point_preferences,
    preferences,
)
from rlhf_lite.constitutional.principles import (
    Constitution,
    Principle,
    PromptSet,
    RevisionExample,
    default_constitution,
    load_constitution,
    load_prompts,
    printable,
    sentiment_questions,
)
from rlhf_lite.constitutional.revise import PROBLEMS, Chain, RevisionStep, find_problem, kept_words, revise
from rlhf_lite.constitutional.writer import PolicyWriter, Writer

__all__ = [
    "PROBLEMS", "Chain", "Constitution", "PairFeedback", "PolicyWriter", "Principle", "PromptSet",
    "RevisionExample", "RevisionStep", "Writer", "default_constitution", "find_problem",
    "judge_by_likelihood", "judge_pairs", "judge_texts", "kept_words", "load_constitution", "load_prompts",
    "point_preferences", "preferences", "printable", "revise", "sentiment_questions",
]
