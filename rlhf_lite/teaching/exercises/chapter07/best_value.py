"""Exercise: the highest value of the objective that any policy can reach."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

LN2, LN3 = math.log(2.0), math.log(3.0)


def _best_value(ref_probs: Tensor, rewards: Tensor, beta: float) -> float:
    return float(beta * (ref_probs.log() + rewards / beta).logsumexp(-1))


def _optimum(q: Tensor, r: Tensor, beta: float) -> Tensor:
    return (q.log() + r / beta).softmax(-1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    kept = p > 0
    return (p[kept] * (p[kept].log() - q[kept].log())).sum()


def _value_case(
    title: str, ref: list[float], rewards: list[float], beta: float, expected: float, hint: str
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, float]:
        import torch

        return torch.tensor(ref, dtype=torch.float64), torch.tensor(rewards, dtype=torch.float64), beta

    return Case(title, inputs, expected, hint)


BEST_VALUE = Exercise(
    name="best_value",
    title="How good can any policy be?",
    chapter="07_the_objective_and_its_optimum",
    difficulty="easy",
    minutes=5,
    cases=(
        _value_case(
            "three texts and a price of 1",  # Z = 0.5 * 1 + 0.25 * 2 + 0.25 * 4 = 2
            [0.5, 0.25, 0.25],
            [0.0, LN2, 2 * LN2],
            1.0,
            LN2,
            "Z is the reference's mean of exp(reward / beta). The value is beta times log Z.",
        ),
        _value_case(
            "a price of 2",  # Z = 2 again, times beta = 2
            [0.5, 0.25, 0.25],
            [0.0, 2 * LN2, 4 * LN2],
            2.0,
            2 * LN2,
            "Divide the reward by beta inside, and multiply the logarithm by beta outside.",
        ),
        _value_case(
            "a reward that is always 3",  # nothing to gain: every policy earns 3, the reference pays nothing
            [0.2, 0.8],
            [3.0, 3.0],
            0.5,
            3.0,
            "If all texts earn the same, staying at the reference is best, and it earns that reward.",
        ),
        _value_case(
            "negative rewards",  # Z = exp(-10) * 2, times beta = 0.5
            [0.5, 0.25, 0.25],
            [-5.0, -5.0 + 0.5 * LN2, -5.0 + LN2],
            0.5,
            0.5 * LN2 - 5.0,
            "A number added to every reward is added to the value.",
        ),
        _value_case(
            "a text that the reference never says",  # Z = 0.5 * 1 + 0.5 * 3 + 0 = 2
            [0.5, 0.5, 0.0],
            [0.0, LN3, 100.0],
            1.0,
            LN2,
            "A text with probability zero adds nothing to Z, whatever its reward.",
        ),
        _value_case(
            "very large rewards",  # 5000 comes out of the logarithm: 5000 + ln 2
            [0.5, 0.5],
            [5000.0, 5000.0 + LN3],
            1.0,
            5000.0 + LN2,
            "exp(5000) is infinite. torch.logsumexp takes the largest exponent out first.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "beta missing outside",
            lambda q, r, beta: (q.log() + r / beta).logsumexp(-1),
            "You return log Z, which is in nats. The value is in points of reward: multiply by beta.",
        ),
        WrongAnswer(
            "the reward of the best policy",
            lambda q, r, beta: (_optimum(q, r, beta).nan_to_num() * r).sum(),
            "You return the mean reward of the best policy. It has to pay for its distance: subtract beta "
            "times its KL from the reference, or use beta log Z directly.",
        ),
        WrongAnswer(
            "the price missing before the KL",
            lambda q, r, beta: (_optimum(q, r, beta) * r).sum() - _kl(_optimum(q, r, beta), q),
            "You subtract the KL itself. A nat costs beta points of reward: subtract beta times the KL.",
        ),
        WrongAnswer(
            "the highest reward",
            lambda q, r, beta: r.max(),
            "You return the highest reward. A policy that always says this text pays for a large KL, and the "
            "reference may never say it at all.",
        ),
        WrongAnswer(
            "the reference's reward",
            lambda q, r, beta: (q * r).sum(),
            "You return the mean reward of the reference. That is where everyone starts: log of the mean of "
            "exp is not the mean.",
        ),
        WrongAnswer(
            "the reference forgotten",
            lambda q, r, beta: beta * (r / beta).logsumexp(-1),
            "You add up exp(reward / beta) over the texts without the probabilities of the reference. Z is a "
            "mean under the reference: add log ref inside.",
        ),
        WrongAnswer(
            "all texts equally likely",
            lambda q, r, beta: beta * ((r / beta).logsumexp(-1) - math.log(len(r))),
            "You take the plain mean over the texts. Z is the mean under the reference, which does not find "
            "all texts equally likely.",
        ),
        WrongAnswer(
            "overflow",
            lambda q, r, beta: beta * (q * (r / beta).exp()).sum().log(),
            "The formula is right, but exp(reward / beta) overflows. Use torch.logsumexp on log ref + "
            "reward / beta.",
        ),
        WrongAnswer(
            "beta the wrong way round",
            lambda q, r, beta: (q.log() + r * beta).logsumexp(-1) / beta,
            "You multiply inside and divide outside. It is the other way round: reward / beta inside, times "
            "beta outside.",
        ),
        WrongAnswer(
            "the logarithm forgotten",
            lambda q, r, beta: beta * (q.log() + r / beta).logsumexp(-1).exp(),
            "You return beta times Z. The value is beta times the logarithm of Z.",
        ),
    ),
    solution=_best_value,
    praise="You can now say how far any policy is from the best, without knowing how it was trained.",
)
