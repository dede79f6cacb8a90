"""Chapter 15: which revisions to keep, and what to make of a model's judgements."""

from __future__ import annotations

import math
import re
from statistics import fmean as mean
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.loading import Mistakes

if TYPE_CHECKING:
    from torch import Tensor

MISTAKES: Mistakes = {}


def keep_revision(before: str, after: str, shown: list[str]) -> str:
    """May this revision be learned from?"""
    return _judged(before, after, _copied(after, shown))


def _judged(before: str, after: str, copied: bool) -> str:
    """The verdict on emptiness and change, and then on copies."""
    if not _words(after):
        return "empty"
    if _words(after) == _words(before):
        return "unchanged"
    return "copied" if copied else "keep"


def _copied(after: str, shown: list[str]) -> bool:
    return any(_likeness(after, text) >= 0.8 for text in shown)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _shared(a: str, b: str) -> int:
    return len({*_words(a)} & {*_words(b)})


def _likeness(a: str, b: str) -> float:
    either = {*_words(a), *_words(b)}
    return _shared(a, b) / len(either) if either else 0.0


MISTAKES["keep_revision"] = {
    "copies found letter by letter": lambda before, after, shown: _judged(before, after, after in shown),
    "one common word is a copy": lambda before, after, shown: _judged(
        before, after, any(_shared(after, text) for text in shown)
    ),
    "like the text before": lambda before, after, shown: _judged(
        before, after, _likeness(after, before) >= 0.8
    ),
    "no look at the examples": lambda before, after, shown: _judged(before, after, False),
    "a share of the revision's words": lambda before, after, shown: _judged(
        before, after, any(_shared(after, text) >= 0.8 * len({*_words(after)}) for text in shown)
    ),
    "change found letter by letter": lambda before, after, shown:
        "unchanged" if after == before else keep_revision("", after, shown),
    "copies before changes": lambda before, after, shown:
        "copied" if _copied(after, shown) else _judged(before, after, False),
    "empty texts kept": lambda before, after, shown:
        keep_revision(before, after, shown) if _words(after) else "keep",
}


def debiased_preference(a1: float, b1: float, a2: float, b2: float) -> float:
    """A preference between two texts from a judge that likes the letter A."""
    return _sigmoid(((a1 - b1) + (b2 - a2)) / 2)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


MISTAKES["debiased_preference"] = {
    "one order only": lambda a1, b1, a2, b2: _sigmoid(a1 - b1),
    "the sign of the second order": lambda a1, b1, a2, b2: _sigmoid(((a1 - b1) + (a2 - b2)) / 2),
    "the sum for the mean": lambda a1, b1, a2, b2: _sigmoid((a1 - b1) + (b2 - a2)),
    "the mean of probabilities": lambda a1, b1, a2, b2: (_sigmoid(a1 - b1) + _sigmoid(b2 - a2)) / 2,
    "probabilities that were not normalised": lambda a1, b1, a2, b2: (math.exp(a1) + math.exp(b2)) / 2,
    "log-odds for a probability": lambda a1, b1, a2, b2: ((a1 - b1) + (b2 - a2)) / 2,
}


def judge_auc(better: list[float], worse: list[float]) -> float:
    """How well does a score tell two groups of texts apart?"""
    return mean(_points(b, w) for b in better for w in worse)


def _points(better: float, worse: float) -> float:
    return (better > worse) + 0.5 * (better == worse)


MISTAKES["judge_auc"] = {
    "above or below zero": lambda better, worse: mean([x > 0 for x in better] + [x <= 0 for x in worse]),
    "ties lost": lambda better, worse: mean(b > w for b in better for w in worse),
    "ties won": lambda better, worse: mean(b >= w for b in better for w in worse),
    "first with first, second with second": lambda better, worse: mean(map(_points, better, worse)),
    "the distance of the means": lambda better, worse: mean(better) - mean(worse),
    "never below one half": lambda better, worse: max(judge_auc(better, worse), 1 - judge_auc(better, worse)),
}


def combine_principles(log_odds: Tensor, limit: float) -> Tensor:
    """One verdict from several principles: 1 for the first text, -1 for the second, 0 for a pair left out."""
    return _verdict(log_odds.mean(1), limit)


def _verdict(score: Tensor, limit: float) -> Tensor:
    return score.sign() * (score.abs() > limit)


MISTAKES["combine_principles"] = {
    "the sum for the mean": lambda x, limit: _verdict(x.sum(1), limit),
    "a vote of the principles": lambda x, limit: _verdict(x.sign().mean(1), limit),
    "the strongest principle alone": lambda x, limit: _verdict(
        x.gather(1, x.abs().argmax(1, keepdim=True))[:, 0], limit
    ),
    "the first principle alone": lambda x, limit: _verdict(x[:, 0], limit),
    "no pair left out": lambda x, limit: x.mean(1).sign(),
    "at least the limit": lambda x, limit: x.mean(1).sign() * (x.mean(1).abs() >= limit),
}
