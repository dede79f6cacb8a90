"""Exercise: the gradient of the Bradley-Terry loss, by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _bt_gradient(chosen: Tensor, rejected: Tensor) -> Tensor:
    import torch

    return -torch.sigmoid(rejected - chosen)


def _sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid()


def _gradient_case(title: str, chosen: list[float], rejected: list[float], expected: Any, hint: str) -> Case:
    def inputs() -> tuple[Tensor, Tensor]:
        import torch

        return torch.tensor(chosen).double(), torch.tensor(rejected).double()

    return Case(title, inputs, expected, hint)


BT_GRADIENT = Exercise(
    name="bt_gradient",
    title="How surprised is the loss?",
    chapter="05_reward_modelling",
    difficulty="medium",
    minutes=10,
    cases=(
        _gradient_case(
            "equal scores",  # -(1 - 1/2)
            [1.0, -3.0],
            [1.0, -3.0],
            [-0.5, -0.5],
            "With equal scores the model gave the outcome the probability one half: the surprise is one "
            "half.",
        ),
        _gradient_case(
            "a difference of ln 3, right and wrong",  # probabilities 3/4 and 1/4
            [math.log(3.0), 0.0],
            [0.0, math.log(3.0)],
            [-0.25, -0.75],
            "Write the loss as -log p and differentiate: the gradient is minus (1 - p), where p is the "
            "probability that the model gave to what people preferred.",
        ),
        _gradient_case(
            "scores far from zero",  # the differences are ln 4 and -ln 9: p = 4/5 and 1/10
            [100.0 + math.log(4.0), -50.0],
            [100.0, -50.0 + math.log(9.0)],
            [-0.2, -0.9],
            "Only the difference of the two scores enters.",
        ),
        _gradient_case(
            "three pairs",  # p = 1/2, 2/3, 1/3
            [0.0, math.log(2.0), 5.0],
            [0.0, 0.0, 5.0 + math.log(2.0)],
            [-1 / 2, -1 / 3, -2 / 3],
            "Give one number for each pair.",
        ),
        _gradient_case(
            "very large differences",  # p = 1 and p = 0
            [1000.0, 0.0],
            [0.0, 1000.0],
            [0.0, -1.0],
            "A confident and right answer teaches nothing; a confident mistake pulls with full force. Use "
            "torch.sigmoid, which does not overflow.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the sign",
            lambda c, r: _sigmoid(r - c),
            "The sign is wrong (or this is the gradient for the rejected score, which is the same number "
            "with the other sign). Raising the chosen score lowers the loss: the gradient is negative.",
        ),
        WrongAnswer(
            "how right instead of how wrong",
            lambda c, r: -_sigmoid(c - r),
            "You return minus the probability of the right answer. The gradient is large where the model was "
            "wrong: minus one plus that probability.",
        ),
        WrongAnswer(
            "the loss itself",
            lambda c, r: -(c - r).sigmoid().clamp_min(1e-300).log(),
            "You return the loss. The exercise asks for its derivative with respect to the chosen score.",
        ),
        WrongAnswer(
            "the logarithm forgotten",
            lambda c, r: -_sigmoid(c - r) * _sigmoid(r - c),
            "That is the derivative of the probability. The loss is its negative logarithm, which divides "
            "this by the probability: a confident mistake then still has a gradient.",
        ),
        WrongAnswer(
            "the mean over the batch",
            lambda c, r: -_sigmoid(r - c) / len(c),
            "You divide by the number of pairs: that is the gradient of the mean loss. The exercise asks for "
            "the gradient of each pair's own loss.",
        ),
        WrongAnswer(
            "no probability at all",
            lambda c, r: -((c - r) * 0 + 1),
            "You differentiate minus the difference. That loss pulls every pair apart for ever, whether it "
            "is right already or not.",
        ),
        WrongAnswer(
            "one score only",
            lambda c, r: -_sigmoid(-c),
            "You forget the rejected score. What matters is the difference.",
        ),
        WrongAnswer(
            "an overflow",
            lambda c, r: -(r - c).exp() / (1 + (r - c).exp()),
            "The formula is right, but exp of a large number is infinite, and infinity divided by infinity "
            "is NaN. torch.sigmoid picks the safe form.",
        ),
        WrongAnswer(
            "one number for the batch",
            lambda c, r: -_sigmoid(r - c).sum(),
            "You add up over the pairs. Each pair has a chosen score of its own, and so a gradient of its "
            "own.",
        ),
    ),
    solution=_bt_gradient,
    praise="The gradient for the rejected score is the same with a plus: one score goes up, the other down.",
)
