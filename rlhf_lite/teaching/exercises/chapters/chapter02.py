"""Chapter 2 (human feedback): majorities, agreement, copies, leaks, Bradley-Terry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from math import comb
from statistics import fmean as mean
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.loading import Mistakes

if TYPE_CHECKING:
    from torch import Tensor

Table = list[list[float]]
Difference = Callable[[float, float], float]
Pairs = list[tuple[str, str]]
MISTAKES: Mistakes = {}


def interval_alpha(table: Table) -> float:
    """Krippendorff's alpha of a tiny table, one row of scores for each text."""
    return _alpha(table, _square)


def _square(a: float, b: float) -> float:
    return (a - b) ** 2


def _alpha(table: Table, difference: Difference) -> float:
    return 1 - _within(table, difference) / _between(_scores(_rated_twice(table)), difference)


def _rated_twice(table: Table) -> Table:
    return [row for row in table if len(row) > 1]


def _scores(table: Table) -> list[float]:
    return [score for row in table for score in row]


def _within(table: Table, difference: Difference = _square) -> float:
    """Mean difference between raters of the same text; a score counts once."""
    rows = _rated_twice(table)
    of_rows = [2 * sum(difference(a, b) for a, b in combinations(row, 2)) / (len(row) - 1) for row in rows]
    return sum(of_rows) / len(_scores(rows))


def _between(scores: list[float], difference: Difference = _square) -> float:
    return mean(difference(a, b) for a, b in combinations(scores, 2))


def _pairs_pooled(table: Table) -> float:
    within = mean(_square(a, b) for row in table for a, b in combinations(row, 2))
    return 1 - within / _between(_scores(_rated_twice(table)))


def _paired_with_itself(table: Table) -> float:
    scores = _scores(_rated_twice(table))
    return 1 - _within(table) / mean(_square(a, b) for a in scores for b in scores)


MISTAKES["interval_alpha"] = {
    "texts with one rater kept": lambda table: 1 - _within(table) / _between(_scores(table)),
    "all pairs of raters pooled": _pairs_pooled,
    "a score paired with itself": _paired_with_itself,
    "absolute differences": lambda table: _alpha(table, lambda a, b: abs(a - b)),
    "any difference counts alike": lambda table: _alpha(table, lambda a, b: a != b),
    "one minus forgotten": lambda table: 1 - interval_alpha(table),
    "observed disagreement alone": lambda table: 1 - _within(table),
}


def majority_flip(p: float, votes: int) -> float:
    """How often does the majority of several votes mislabel a pair?"""
    return _wrong_majority(p, votes, tie=0.5)


def _wrong_majority(p: float, votes: int, *, tie: float, ways: Callable[[int, int], int] = comb) -> float:
    """The chance of a wrong label, if a tie is wrong with the chance ``tie``."""
    total = 0.0
    for right in range(votes + 1):
        wrong = 1.0 if 2 * right < votes else tie if 2 * right == votes else 0.0
        total += wrong * ways(votes, right) * p**right * (1 - p) ** (votes - right)
    return total


MISTAKES["majority_flip"] = {
    "the probability of a right label": lambda p, votes: 1 - majority_flip(p, votes),
    "ties forgotten": lambda p, votes: _wrong_majority(p, votes, tie=0.0),
    "ties counted as wrong": lambda p, votes: _wrong_majority(p, votes, tie=1.0),
    "all votes wrong": lambda p, votes: (1 - p) ** votes,
    "the number of ways forgotten": lambda p, votes: _wrong_majority(p, votes, tie=0.5, ways=lambda n, k: 1),
    "one vote whatever the number": lambda p, votes: 1 - p,
    "error divided by the number of votes": lambda p, votes: (1 - p) / votes,
}


def bradley_terry_gradient(strengths: Tensor, wins: Tensor) -> Tensor:
    """The gradient of the Bradley-Terry log-likelihood: wins minus expected wins."""
    return _surprise(wins, _probability(strengths))


def _surprise(wins: Tensor, probability: Tensor) -> Tensor:
    return (wins - (wins + wins.T) * probability).sum(dim=1)


def _probability(strengths: Tensor) -> Tensor:
    return (strengths[:, None] - strengths[None, :]).sigmoid()


MISTAKES["bradley_terry_gradient"] = {
    "the sign of a loss": lambda s, w: -bradley_terry_gradient(s, w),
    "every pair expected to play once": lambda s, w: (w - _probability(s)).sum(dim=1) + 0.5,
    "wins counted as games": lambda s, w: (w - w * _probability(s)).sum(dim=1),
    "columns instead of rows": lambda s, w: bradley_terry_gradient(s, w.T),
    "wins minus losses": lambda s, w: (w - w.T).sum(dim=1),
    "divided by the games": lambda s, w: bradley_terry_gradient(s, w) / (w + w.T).sum(dim=1).clamp_min(1.0),
    "the strengths used as odds": lambda s, w: _surprise(w, s[:, None] / (s[:, None] + s[None, :])),
}


def jaccard_similarity(a: str, b: str, n: int) -> float:
    """How alike are two texts? Shared runs of n characters, divided by all runs."""
    return _jaccard(_runs(_plain(a), n), _runs(_plain(b), n))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _runs(text: str, n: int) -> list[str]:
    return [text[i : i + n] for i in range(max(len(text) - n, 0) + 1)]


def _jaccard(one: Iterable[str], other: Iterable[str]) -> float:
    return len({*one} & {*other}) / len({*one} | {*other})


def _of_runs(measure: Callable[[list[str], list[str]], float]) -> Callable[[str, str, int], float]:
    """A wrong answer that differs in what is done with the runs."""
    return lambda a, b, n: measure(_runs(_plain(a), n), _runs(_plain(b), n))


def _short_texts_lost(a: str, b: str, n: int) -> float:
    one, other = ([run for run in _runs(_plain(text), n) if len(run) == n] for text in (a, b))
    return _jaccard(one, other)


MISTAKES["jaccard_similarity"] = {
    "the Dice coefficient": _of_runs(lambda a, b: 2 * len({*a} & {*b}) / (len({*a}) + len({*b}))),
    "divided by the smaller set": _of_runs(lambda a, b: len({*a} & {*b}) / min(len({*a}), len({*b}))),
    "divided by the first set": _of_runs(lambda a, b: len({*a} & {*b}) / len({*a})),
    "lists instead of sets": _of_runs(lambda a, b: sum(run in b for run in a) / len({*a} | {*b})),
    "words instead of characters": lambda a, b, n: _jaccard(_plain(a).split(), _plain(b).split()),
    "case and spaces kept": lambda a, b, n: _jaccard(_runs(a, n), _runs(b, n)),
    "the last run missing": _of_runs(lambda a, b: _jaccard(a[:-1], b[:-1])),
    "short texts lost": _short_texts_lost,
}


def leaked_share(train: Pairs, test: Pairs) -> float:
    """What share of the test pairs holds a text of the training pairs?"""
    return _leaked(_texts(train), test) if test else 0.0


def _texts(pairs: Pairs) -> set[str]:
    return {_plain(text) for pair in pairs for text in pair}


def _leaked(known: set[str], test: Sequence[Sequence[str]], leaks: Callable[..., bool] = any) -> float:
    return sum(leaks(_plain(text) in known for text in pair) for pair in test) / len(test)


def _only_whole_pairs(train: Pairs, test: Pairs) -> float:
    known = [{*map(_plain, pair)} for pair in train]
    return mean({*map(_plain, pair)} in known for pair in test) if test else 0.0


def _only_the_same_side(train: Pairs, test: Pairs) -> float:
    sides = [[_plain(pair[side]) for pair in train] for side in (0, 1)]
    return mean(_plain(c) in sides[0] or _plain(r) in sides[1] for c, r in test) if test else 0.0


def _only_the_chosen(train: Pairs, test: Pairs) -> float:
    known = {_plain(chosen) for chosen, _ in train}
    return _leaked(known, [pair[:1] for pair in test]) if test else 0.0


def _exact_comparison(train: Pairs, test: Pairs) -> float:
    known = [text for pair in train for text in pair]
    return mean(any(text in known for text in pair) for pair in test) if test else 0.0


MISTAKES["leaked_share"] = {
    "only whole pairs": _only_whole_pairs,
    "only texts on the same side": _only_the_same_side,
    "only the chosen texts": _only_the_chosen,
    "both texts have to be known": lambda train, test: _leaked(_texts(train), test, all) if test else 0.0,
    "exact comparison": _exact_comparison,
    "a share of texts": lambda train, test:
        _leaked(_texts(train), [[text] for pair in test for text in pair]) if test else 0.0,
    "a share of the training pairs": lambda train, test: leaked_share(test, train),
    "no test pairs forgotten": lambda train, test: _leaked(_texts(train), test),
}
