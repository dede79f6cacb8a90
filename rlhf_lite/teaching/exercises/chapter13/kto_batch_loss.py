"""Exercise: KTO's loss of a batch, with its reference point."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

LN3 = math.log(3.0)


def _where(liked: Tensor, gain: Tensor, beta: float) -> Tensor:
    import torch

    return torch.where(liked, torch.sigmoid(-beta * gain), torch.sigmoid(beta * gain))


def _kto_batch_loss(ratio: Tensor, liked: Tensor, mismatched: Tensor, beta: float) -> Tensor:
    return _where(liked, ratio - mismatched.mean().clamp(min=0.0), beta)


def _case(
    title: str, ratio: list, liked: list, mismatched: list, beta: float, expected: list, hint: str
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor, float]:
        import torch

        numbers = torch.tensor(ratio, dtype=torch.float64), torch.tensor(liked)
        return *numbers, torch.tensor(mismatched, dtype=torch.float64), beta

    return Case(title, inputs, expected, hint)


KTO_BATCH_LOSS = Exercise(
    name="kto_batch_loss",
    title="KTO and its reference point",
    chapter="13_preference_losses",
    difficulty="medium",
    minutes=15,
    cases=(
        _case(
            "a policy that is still the reference",
            [0.0, 0.0], [True, False], [0.0, 0.0], 0.1, [0.5, 0.5],
            "With all log-ratios zero, 1 - sigma(0) is one half for everybody.",
        ),
        _case(
            "a reference point of zero",  # sigma(ln 3) = 3/4, and 1 - 3/4 = 1/4
            [LN3, -LN3, LN3], [True, False, False], [-1.0, 1.0, 0.0], 1.0, [0.25, 0.25, 0.75],
            "A liked answer pays 1 - sigma(beta (ratio - z)), a disliked one 1 - sigma(beta (z - ratio)).",
        ),
        _case(
            "a reference point above zero",  # z = (3 + 1) ln 3 / 2 = 2 ln 3; gain ln 3 and -ln 3
            [3 * LN3, LN3], [True, True], [3 * LN3, LN3], 1.0, [0.25, 0.75],
            "z is the mean of the mismatched log-ratios, here 2 log 3.",
        ),
        _case(
            "mismatched ratios of mixed signs",  # mean (6 - 2) ln 3 / 2 = 2 ln 3. Clamped one by one: 3 ln 3
            [3 * LN3], [False], [6 * LN3, -2 * LN3], 1.0, [0.75],
            "Take the mean first, then cut it off at zero.",
        ),
        _case(
            "a mean below zero",  # z = 0: the liked answer has sigma(ln 3) = 3/4
            [LN3], [True], [-5.0, -7.0], 1.0, [0.25],
            "z stands for a KL divergence, which is never negative: cut the mean off at zero.",
        ),
        _case(
            "a small beta",  # z = 4 ln 3; gain 2 ln 3; beta gain = ln 3
            [6 * LN3], [True], [4 * LN3], 0.5, [0.25],
            "beta multiplies the difference of ratio and z.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "each mismatched ratio cut off",
            lambda r, up, m, b: _where(up, r - m.clamp(min=0.0).mean(), b),
            "You cut off each mismatched ratio before you average. That makes z too large whenever some are "
            "negative, even at a policy that has not moved on average.",
        ),
        WrongAnswer(
            "not cut off",
            lambda r, up, m, b: _where(up, r - m.mean(), b),
            "A mean of mismatched log-ratios can be negative; a KL divergence cannot. Cut it off at zero.",
        ),
        WrongAnswer(
            "no reference point",
            lambda r, up, m, b: _where(up, r, b),
            "The reference point z is missing: this is KTO with z = 0, which is one half of APO-zero.",
        ),
        WrongAnswer(
            "the batch's own mean",
            lambda r, up, m, b: _where(up, r - r.mean().clamp(min=0.0), b),
            "You take the mean over the answers themselves. They are what is pushed; z comes from "
            "the mismatched ones.",
        ),
        WrongAnswer(
            "beta on the ratio only",
            lambda r, up, m, b: _where(up, r - m.mean().clamp(min=0.0) / b, b),
            "You subtract z after the multiplication by beta. ratio and z are both in nats: subtract first.",
        ),
        WrongAnswer(
            "z with the wrong sign for disliked answers",
            lambda r, up, m, b: _where(up, r + m.mean().clamp(min=0.0) * (1 - 2 * up.double()), b),
            "For a disliked answer the whole difference changes its sign: z - ratio. Yours has -z - ratio.",
        ),
        WrongAnswer(
            "kinds exchanged",
            lambda r, up, m, b: _where(~up, r - m.mean().clamp(min=0.0), b),
            "Your loss falls when a disliked answer becomes more likely. Exchange the two kinds.",
        ),
        WrongAnswer(
            "a logarithm",
            lambda r, up, m, b: -(1 - _where(up, r - m.mean().clamp(min=0.0), b)).log(),
            "There is no logarithm in KTO: that would be BCO. KTO's loss, 1 - sigma, flattens on both sides.",
        ),
    ),
    solution=_kto_batch_loss,
    praise="A liked answer far above z earns next to nothing more, and neither does a hopeless one.",
)
