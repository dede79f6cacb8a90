"""Exercise: the loss that undoes a known share of flipped labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

LN2, LN3 = math.log(2.0), math.log(3.0)


def _logsigmoid(x: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.logsigmoid(x)


def _robust_loss(gap: Tensor, beta: float, flip_rate: float) -> Tensor:
    clean, flipped = -_logsigmoid(beta * gap), -_logsigmoid(-beta * gap)
    return ((1 - flip_rate) * clean - flip_rate * flipped) / (1 - 2 * flip_rate)


def _overflowing(gap: Tensor, beta: float, flip_rate: float) -> Tensor:
    clean, flipped = -(beta * gap).sigmoid().log(), -(-beta * gap).sigmoid().log()
    return ((1 - flip_rate) * clean - flip_rate * flipped) / (1 - 2 * flip_rate)


def _case(title: str, gap: list, beta: float, flip_rate: float, expected: list, hint: str) -> Case:
    def inputs() -> tuple[Tensor, float, float]:
        import torch

        return torch.tensor(gap, dtype=torch.float64), beta, flip_rate

    return Case(title, inputs, expected, hint)


ROBUST_LOSS = Exercise(
    name="robust_loss",
    title="A loss that expects flipped labels",
    chapter="13_preference_losses",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "a policy that is still the reference",  # both logs are -ln 2; (0.75 - 0.25) / 0.5 = 1
            [0.0],
            0.1,
            0.25,
            [LN2],
            "Both -log sigma(0) are log 2, and the weights (1 - e)/(1 - 2e) and -e/(1 - 2e) sum to one.",
        ),
        _case(
            "labels that are never flipped",  # sigma(ln 3) = 3/4: -log(3/4)
            [LN3],
            1.0,
            0.0,
            [math.log(4 / 3)],
            "With a flip rate of zero this is DPO: -log sigma(beta h).",
        ),
        _case(
            "a quarter of the labels flipped",
            # sigma = 3/4: clean ln 4/3, flipped ln 4: (0.75 ln 4/3 - 0.25 ln 4) / 0.5.
            # Second row mirrored: 1.5 ln 4 - 0.5 ln 4/3.
            [LN3, -LN3],
            1.0,
            0.25,
            [1.5 * math.log(4 / 3) - 0.5 * math.log(4), 1.5 * math.log(4) - 0.5 * math.log(4 / 3)],
            "The flipped reading is subtracted, and everything is divided by 1 - 2e.",
        ),
        _case(
            "a beta of one half",  # beta h = ln 3 again
            [2 * LN3],
            0.5,
            0.25,
            [1.5 * math.log(4 / 3) - 0.5 * math.log(4)],
            "beta multiplies the gap, inside the sigmoid, and nothing else.",
        ),
        _case(
            "very large gaps",
            # beta h = 2000: clean 0, flipped 2000: -0.25 * 2000 / 0.5 = -1000; mirrored 0.75 * 2000 / 0.5
            [2000.0, -2000.0],
            1.0,
            0.25,
            [-1000.0, 3000.0],
            "sigmoid(-2000) is zero in the computer and its log is minus infinity. Use logsigmoid.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "conservative DPO",
            lambda h, b, e: -(1 - e) * _logsigmoid(b * h) - e * _logsigmoid(-b * h),
            "This is conservative DPO: it adds the flipped reading. The robust loss subtracts it and divides "
            "by 1 - 2e, so that the mean over flipped and unflipped labels is the clean loss.",
        ),
        WrongAnswer(
            "no divisor",
            lambda h, b, e: -(1 - e) * _logsigmoid(b * h) + e * _logsigmoid(-b * h),
            "The divisor 1 - 2e is missing. Without it the mean over the flips is the clean loss times "
            "1 - 2e.",
        ),
        WrongAnswer(
            "added and divided",
            lambda h, b, e: (-(1 - e) * _logsigmoid(b * h) - e * _logsigmoid(-b * h)) / (1 - 2 * e),
            "You divide by 1 - 2e but add the flipped reading. Subtract it: it is what the flipped labels "
            "brought in.",
        ),
        WrongAnswer(
            "the roles of the rates exchanged",
            lambda h, b, e: (-e * _logsigmoid(b * h) + (1 - e) * _logsigmoid(-b * h)) / (1 - 2 * e),
            "The weights are exchanged: a label is right with probability 1 - e.",
        ),
        WrongAnswer(
            "flips ignored",
            lambda h, b, e: -_logsigmoid(b * h),
            "You return DPO's loss; flip_rate plays no part.",
        ),
        WrongAnswer(
            "beta in front",
            lambda h, b, e: b * _robust_loss(h, 1.0, e),
            "You multiply the loss by beta. beta multiplies the gap, inside the sigmoid.",
        ),
        WrongAnswer(
            "the mean over the batch",
            lambda h, b, e: _robust_loss(h, b, e).mean(),
            "You return the mean. Return one loss for each pair; the caller reduces.",
        ),
        WrongAnswer(
            "overflow",
            _overflowing,
            "The formula is right, but the logarithm of a sigmoid that has become zero is minus infinity. "
            "torch.nn.functional.logsigmoid computes both steps at once, and stays finite.",
        ),
    ),
    solution=_robust_loss,
    praise="Note the last case: a pair with a wide gap has a loss far below zero.",
)
