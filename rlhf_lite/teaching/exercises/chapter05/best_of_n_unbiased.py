"""Exercise: what does the best of n score, estimated from one pool of samples?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _winner(scores: Sequence[float], rows: Sequence[int]) -> int:
    return max(rows, key=lambda i: scores[i])


def _best_of_n_unbiased(scores: Sequence[float], values: Sequence[float], n: int) -> float:
    subsets = list(combinations(range(len(scores)), n))
    return sum(values[_winner(scores, rows)] for rows in subsets) / len(subsets)


def _with_replacement(scores: Sequence[float], values: Sequence[float], n: int) -> float:
    order, pool = sorted(range(len(scores)), key=lambda i: scores[i]), len(scores)
    return sum(
        values[i] * (((rank + 1) / pool) ** n - (rank / pool) ** n) for rank, i in enumerate(order)
    )


def _blocks(scores: Sequence[float], values: Sequence[float], n: int) -> float:
    starts = range(0, len(scores) - n + 1, n)
    return sum(values[_winner(scores, range(s, s + n))] for s in starts) / len(starts)


def _top_mean(scores: Sequence[float], values: Sequence[float], n: int) -> float:
    return sum(values[i] for i in sorted(range(len(scores)), key=lambda i: -scores[i])[:n]) / n


def _case(title: str, scores: list[float], values: list[float], n: int, expected: float, hint: str) -> Case:
    return Case(title, lambda: (list(scores), list(values), n), expected, hint)


BEST_OF_N_UNBIASED = Exercise(
    name="best_of_n_unbiased",
    title="The best of n, from a pool of M",
    chapter="05_reward_modelling",
    difficulty="hard",
    minutes=15,
    cases=(
        _case(
            "three samples, two at a time",  # subsets {1,2} {1,3} {2,3}: winners 2, 3, 3
            [1.0, 2.0, 3.0],
            [1.0, 2.0, 3.0],
            2,
            8 / 3,
            "There are three ways to choose two of three samples. Take the winner of each, then the mean.",
        ),
        _case(
            "another judge",  # by score: {0,1} -> 1, {0,2} -> 0, {1,2} -> 1; values 5, 7, 5
            [2.0, 3.0, 1.0],
            [7.0, 5.0, 9.0],
            2,
            17 / 3,
            "The score chooses the winner; the value of that winner counts, whether it is high or low.",
        ),
        _case(
            "n = 1",  # no choice: the mean of the values
            [4.0, 1.0, 3.0, 2.0],
            [10.0, 20.0, 30.0, 60.0],
            1,
            30.0,
            "The best of one is any sample: the mean of the values.",
        ),
        _case(
            "n = M",  # one subset: the highest score is at place 3
            [0.1, -2.0, 0.3, 0.9],
            [1.0, 2.0, 3.0, -4.0],
            4,
            -4.0,
            "There is one way to choose all samples.",
        ),
        _case(
            "four samples, three at a time",  # subsets without 0, 1, 2, 3: winners 3, 3, 3, 2
            [1.0, 2.0, 3.0, 4.0],
            [0.0, 0.0, 8.0, 4.0],
            3,
            5.0,
            "The highest score wins in every subset that holds it: in three of four.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "drawn with replacement",
            _with_replacement,
            "You draw from the pool with replacement, so the same sample may be drawn twice, and two draws "
            "are then only one. That is biased: too low for the score itself. Choose n different samples.",
        ),
        WrongAnswer(
            "the first n samples",
            lambda s, v, n: v[_winner(s, range(n))],
            "You look at one subset, the first n samples. The estimate is right on average, and very noisy: "
            "use all subsets.",
        ),
        WrongAnswer(
            "the best of the whole pool",
            lambda s, v, n: v[_winner(s, range(len(s)))],
            "You take the best of all M samples. That is the best of M, not of n.",
        ),
        WrongAnswer(
            "the mean of the n best",
            _top_mean,
            "You average the n highest. A subset of n rarely holds all of them.",
        ),
        WrongAnswer(
            "blocks",
            _blocks,
            "You cut the pool into blocks of n. That is unbiased too, but it wastes most subsets, and the "
            "result depends on the order of the samples.",
        ),
        WrongAnswer(
            "the value chooses",
            lambda s, v, n: _best_of_n_unbiased(v, v, n),
            "You let the value choose the winner. The reward model chooses; the gold judge only looks on. "
            "Otherwise over-optimisation could never be seen.",
        ),
        WrongAnswer(
            "the score counts",
            lambda s, v, n: _best_of_n_unbiased(s, s, n),
            "You return the winner's score. The question is what the other judge says of the winner.",
        ),
        WrongAnswer(
            "the worst of n",
            lambda s, v, n: _best_of_n_unbiased([-x for x in s], v, n),
            "Your winner has the lowest score.",
        ),
    ),
    solution=_best_of_n_unbiased,
    praise="`functional.best_of_n_estimate` gives the same number without listing the subsets.",
)
