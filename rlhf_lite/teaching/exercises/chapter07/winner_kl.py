"""Exercise: the exact KL of best-of-n from the reference, when all rewards differ."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _winner_law(probs: Tensor, rewards: Tensor, n: int) -> Tensor:
    order = rewards.argsort()
    at_most = probs[order].cumsum(0)
    law = probs.new_empty(len(probs))
    law[order] = at_most**n - (at_most - probs[order]).clamp(min=0) ** n
    return law


def _winner_kl(probs: Tensor, rewards: Tensor, n: int) -> float:
    return _kl(_winner_law(probs, rewards, n), probs)


def _kl(p: Tensor, q: Tensor) -> float:
    kept = p > 0
    return float((p[kept] * (p[kept] / q[kept]).log()).sum())


def _careless_kl(probs: Tensor, rewards: Tensor, n: int) -> Tensor:
    law = _winner_law(probs, rewards, n)
    return (law * (law / probs).log()).sum()


def _among_them(probs: Tensor, rewards: Tensor, n: int) -> float:
    seen = 1 - (1 - probs) ** n
    return _kl(seen / seen.sum(), probs)


def _all_the_same(probs: Tensor, rewards: Tensor, n: int) -> float:
    return _kl((n * probs.log()).softmax(-1), probs)


def _in_the_given_order(probs: Tensor, rewards: Tensor, n: int) -> float:
    return _kl(_winner_law(probs, rewards * 0 + rewards.sort().values, n), probs)


def _winner_case(
    title: str, probs: list[float], rewards: list[float], n: int, expected: float, hint: str
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, int]:
        import torch

        return torch.tensor(probs, dtype=torch.float64), torch.tensor(rewards, dtype=torch.float64), n

    return Case(title, inputs, expected, hint)


WINNER_KL = Exercise(
    name="winner_kl",
    title="How far is the best of n from the reference?",
    chapter="07_the_objective_and_its_optimum",
    difficulty="hard",
    minutes=15,
    cases=(
        _winner_case(
            "two equally likely texts and two draws",  # the worse wins only if drawn twice: laws 1/4 and 3/4
            [0.5, 0.5],
            [0.0, 1.0],
            2,
            0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5),
            "The worse text wins only if both draws give it. Find the law of the winner, then its KL.",
        ),
        _winner_case(
            "three texts",  # at most: 0.5, 0.8, 1; squared 0.25, 0.64, 1; differences 0.25, 0.39, 0.36
            [0.5, 0.3, 0.2],
            [0.0, 1.0, 2.0],
            2,
            0.25 * math.log(0.25 / 0.5) + 0.39 * math.log(0.39 / 0.3) + 0.36 * math.log(0.36 / 0.2),
            "A text wins if all n draws are no better than it, and not all of them are worse.",
        ),
        _winner_case(
            "one draw",
            [0.2, 0.5, 0.3],
            [3.0, 1.0, 2.0],
            1,
            0.0,
            "The best of one draw is that draw: the law is the reference, and the KL is zero.",
        ),
        _winner_case(
            "texts that are not sorted by reward",  # the second is worse: it wins with 0.8 squared
            [0.2, 0.8],
            [5.0, 1.0],
            2,
            0.64 * math.log(0.64 / 0.8) + 0.36 * math.log(0.36 / 0.2),
            "Sort by reward before you add up the probabilities.",
        ),
        _winner_case(
            "a text that is never drawn",  # the middle text has no chance; the others as in the first case
            [0.5, 0.0, 0.5],
            [0.0, 1.0, 2.0],
            2,
            0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5),
            "A term with probability zero is zero: 0 log 0 counts as nothing, and must not become NaN.",
        ),
        _winner_case(
            "two thousand draws",  # the better text wins for certain: log(1 / 0.5)
            [0.5, 0.5],
            [0.0, 1.0],
            2000,
            math.log(2.0),
            "With many draws the best text always wins, and the KL is minus the log of its probability.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the well-known bound",
            lambda p, r, n: math.log(n) - (n - 1) / n,
            "log n - (n-1)/n is an upper bound, reached only with infinitely many texts. Here they can be "
            "counted: find the law of the winner, and take its KL.",
        ),
        WrongAnswer(
            "the logarithm of n",
            lambda p, r, n: math.log(n),
            "log n is the largest possible log-ratio of a single text, not the mean over the winner's law.",
        ),
        WrongAnswer(
            "the KL the other way round",
            lambda p, r, n: float((p[p > 0] * (p / _winner_law(p, r, n))[p > 0].log()).sum()),
            "You compute KL(reference || winner). The texts come from the winner's law, so it stands "
            "first and "
            "gives the weights.",
        ),
        WrongAnswer(
            "not sorted",
            _in_the_given_order,
            "You add up the probabilities in the order in which the texts are listed. What counts is "
            "the order "
            "of their rewards: use rewards.argsort().",
        ),
        WrongAnswer(
            "the worst of n",
            lambda p, r, n: _kl(_winner_law(p, -r, n), p),
            "You sort from high to low, so your law is that of the worst of n draws.",
        ),
        WrongAnswer(
            "NaN from zero probabilities",
            _careless_kl,
            "The formula is right, but a law that is exactly zero gives 0 times minus infinity, which "
            "is NaN. "
            "Leave those terms out, for instance with torch.where or a mask.",
        ),
        WrongAnswer(
            "the chance to be among the draws",
            _among_them,
            "1 - (1 - p)^n is the chance that a text is drawn at all. It wins only if nothing better is "
            "drawn "
            "with it.",
        ),
        WrongAnswer(
            "all draws the same text",
            _all_the_same,
            "p^n is the chance that all n draws are this very text. It also wins if the other draws are "
            "worse "
            "texts: use the probability of everything that is no better.",
        ),
    ),
    solution=_winner_kl,
    praise="This is exact for every n. The bound that papers quote is larger, most of all for large n.",
)
