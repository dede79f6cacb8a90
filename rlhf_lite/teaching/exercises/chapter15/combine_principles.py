"""Exercise: one verdict from several principles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _verdict(score: Tensor, limit: float) -> Tensor:
    return score.sign() * (score.abs() > limit)


def _combine_principles(log_odds: Tensor, limit: float) -> Tensor:
    return _verdict(log_odds.mean(1), limit)


def _strongest(log_odds: Tensor, limit: float) -> Tensor:
    return _verdict(log_odds.gather(1, log_odds.abs().argmax(1, keepdim=True))[:, 0], limit)


def _case(title: str, log_odds: list[list[float]], limit: float, expected: list[float], hint: str) -> Case:
    def inputs() -> tuple[Tensor, float]:
        import torch

        return torch.tensor(log_odds), limit

    return Case(title, inputs, expected, hint)


COMBINE_PRINCIPLES = Exercise(
    name="combine_principles",
    title="One verdict from several principles",
    chapter="15_constitutional_ai",
    difficulty="easy",
    minutes=5,
    cases=(
        _case(
            "principles that agree",  # means 1 and -2
            [[1.0, 1.0], [-1.0, -3.0]],
            0.5,
            [1.0, -1.0],
            "The means are 1 and -2: the first text, then the second one.",
        ),
        _case(
            "one strong principle against two weak ones",  # mean (-0.5 - 0.5 + 2.5) / 3 = 0.5
            [[-0.5, -0.5, 2.5]],
            0.25,
            [1.0],
            "The mean is 0.5. How sure a principle is counts, and not only its side.",
        ),
        _case(
            "one principle that is outweighed",  # mean (2 - 1.5 - 1.5) / 3 = -1/3
            [[2.0, -1.5, -1.5]],
            0.25,
            [-1.0],
            "The mean is -1/3: the strongest single voice does not decide alone.",
        ),
        _case(
            "pairs too close to call",  # means 0.25 and -0.125
            [[0.5, 0.0], [-0.25, 0.0]],
            0.25,
            [0.0, 0.0],
            "A mean of exactly the limit is left out too: the rule is more than the limit.",
        ),
        _case(
            "many principles that all say a little",  # mean 0.2, sum 0.8
            [[0.2, 0.2, 0.2, 0.2], [-0.3, -0.3, -0.3, -0.3]],
            0.25,
            [0.0, -1.0],
            "The means are 0.2 and -0.3. Asking more questions must not make a judge surer.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the sum for the mean",
            lambda x, limit: _verdict(x.sum(1), limit),
            "You added the log-odds, as if each principle were an independent witness. It is one judge "
            "who answers several times; with the sum, more questions look like more certainty.",
        ),
        WrongAnswer(
            "a vote of the principles",
            lambda x, limit: _verdict(x.sign().mean(1), limit),
            "You counted votes. A principle that is nearly indifferent then weighs as much as one that is "
            "sure.",
        ),
        WrongAnswer(
            "the strongest principle alone",
            _strongest,
            "You took the principle with the largest log-odds. One loud principle would decide everything.",
        ),
        WrongAnswer(
            "the first principle alone",
            lambda x, limit: _verdict(x[:, 0], limit),
            "You used the first column only.",
        ),
        WrongAnswer(
            "no pair left out",
            lambda x, limit: x.mean(1).sign(),
            "You give a verdict on every pair. Where the judge hardly tells the texts apart, a label is "
            "little better than a coin.",
        ),
        WrongAnswer(
            "at least the limit",
            lambda x, limit: x.mean(1).sign() * (x.mean(1).abs() >= limit),
            "You keep pairs that lie exactly on the limit. The rule asks for more than the limit.",
        ),
    ),
    solution=_combine_principles,
    praise="The same rule makes the package's preference records.",
)
