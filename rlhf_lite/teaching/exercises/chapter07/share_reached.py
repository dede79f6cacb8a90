"""Exercise: which fraction of the possible improvement did a policy make?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

LN2, LN3 = math.log(2.0), math.log(3.0)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    kept = p > 0
    return (p[kept] * (p[kept].log() - q[kept].log())).sum()


def _value(p: Tensor, q: Tensor, r: Tensor, beta: float) -> Tensor:
    return (p * r).sum() - beta * _kl(p, q)


def _best(q: Tensor, r: Tensor, beta: float) -> Tensor:
    return beta * (q.log() + r / beta).logsumexp(-1)


def _optimum(q: Tensor, r: Tensor, beta: float) -> Tensor:
    return (q.log() + r / beta).softmax(-1)


def _share_reached(probs: Tensor, ref_probs: Tensor, rewards: Tensor, beta: float) -> float:
    start = (ref_probs * rewards).sum()
    gained = _value(probs, ref_probs, rewards, beta) - start
    return float(gained / (_best(ref_probs, rewards, beta) - start))


def _careless(p: Tensor, q: Tensor, r: Tensor, beta: float) -> Tensor:
    start = (q * r).sum()
    value = (p * r).sum() - beta * (p * (p.log() - q.log())).sum()
    return (value - start) / (_best(q, r, beta) - start)


def _other_kl(p: Tensor, q: Tensor, r: Tensor, beta: float) -> Tensor:
    start = (q * r).sum()
    value = (p * r).sum() - beta * _kl(q, p)
    return (value - start) / (_best(q, r, beta) - start)


def _share_case(
    title: str, probs: list[float], rewards: list[float], beta: float, expected: float, hint: str
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor, float]:
        import torch

        law, reward = torch.tensor(probs, dtype=torch.float64), torch.tensor(rewards, dtype=torch.float64)
        return law, torch.full_like(law, 1 / len(law)), reward, beta

    return Case(title, inputs, expected, hint)


# With two equally likely texts and rewards 0 and ln 3 at price 1: Z = (1 + 3) / 2 = 2, so that J* = ln 2 and
# J(reference) = ln(3) / 2. The optimum is [1/4, 3/4].
_GAP = LN2 - LN3 / 2
_MIDDLE = 0.6 * LN3 - (0.4 * math.log(0.8) + 0.6 * math.log(1.2))  # J of [0.4, 0.6]

SHARE_REACHED = Exercise(
    name="share_reached",
    title="How much of the possible was reached?",
    chapter="07_the_objective_and_its_optimum",
    difficulty="medium",
    minutes=10,
    cases=(
        _share_case(
            "a policy half-way to the optimum",
            [0.4, 0.6],
            [0.0, LN3],
            1.0,
            (_MIDDLE - LN3 / 2) / _GAP,
            "Compute J of the policy, of the reference and of the optimum: (J - J_ref) / (J* - J_ref).",
        ),
        _share_case(
            "the optimum itself",
            [0.25, 0.75],
            [0.0, LN3],
            1.0,
            1.0,
            "The optimum reaches all of it: the answer is 1.",
        ),
        _share_case(
            "the reference itself",
            [0.5, 0.5],
            [0.0, LN3],
            1.0,
            0.0,
            "The reference has gained nothing, and its KL is zero.",
        ),
        _share_case(
            "a policy that says one text only",  # J = ln 3 - ln 2: as far below the start as J* is above it
            [0.0, 1.0],
            [0.0, LN3],
            1.0,
            -1.0,
            "A policy may end below the reference; then the fraction is negative. And 0 log 0 is 0.",
        ),
        _share_case(
            "a hundred points more for every text, and another price",  # rewards and price doubled, then +100
            [0.4, 0.6],
            [100.0, 100.0 + 2 * LN3],
            2.0,
            (_MIDDLE - LN3 / 2) / _GAP,
            "A number added to all rewards changes nothing, and doubling reward and price changes nothing.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "a plain ratio",
            lambda p, q, r, beta: _value(p, q, r, beta) / _best(q, r, beta),
            "You divide J by J*. Then the answer changes when a number is added to all rewards, and the "
            "reference gets credit for doing nothing. Measure both from J of the reference.",
        ),
        WrongAnswer(
            "the KL forgotten",
            lambda p, q, r, beta: ((p - q) * r).sum() / (_best(q, r, beta) - (q * r).sum()),
            "You count the reward and not the price. J of the policy is its mean reward minus beta "
            "times its KL.",
        ),
        WrongAnswer(
            "the share of the highest reward",
            lambda p, q, r, beta: ((p - q) * r).sum() / (r.max() - (q * r).sum()),
            "You compare rewards with the highest reward. No policy should earn that: at price beta the best "
            "possible value is J*.",
        ),
        WrongAnswer(
            "the share of the optimum's reward",
            lambda p, q, r, beta: ((p - q) * r).sum() / ((_optimum(q, r, beta) - q) * r).sum(),
            "You compare mean rewards. A policy that drifts further than the optimum has more reward and is "
            "still worse: compare J, which includes the price.",
        ),
        WrongAnswer(
            "a price of 1",
            lambda p, q, r, beta: _share_reached(p, q, r, 1.0),
            "You leave out beta, or use 1. The price belongs before the KL and inside J*.",
        ),
        WrongAnswer(
            "clipped to between 0 and 1",
            lambda p, q, r, beta: min(1.0, max(0.0, _share_reached(p, q, r, beta))),
            "You cut negative answers off. A policy that is worse than the reference must be seen as such.",
        ),
        WrongAnswer(
            "NaN from zero probabilities",
            _careless,
            "The formula is right, but a text that the policy never says gives 0 times minus infinity, which "
            "is NaN. Such a term counts as zero.",
        ),
        WrongAnswer(
            "the KL the other way round",
            _other_kl,
            "You take KL(reference || policy). The texts come from the policy: it stands first and gives the "
            "weights.",
        ),
        WrongAnswer(
            "one minus the KL to the optimum",
            lambda p, q, r, beta: 1 - _kl(p, _optimum(q, r, beta)),
            "Good idea: what is missing is beta times KL(policy || optimum). But it has to be measured in "
            "units of what could be gained, which is beta times KL(reference || optimum). Divide by that.",
        ),
    ),
    solution=_share_reached,
    praise="This is the yardstick of every lab table in this book.",
)
