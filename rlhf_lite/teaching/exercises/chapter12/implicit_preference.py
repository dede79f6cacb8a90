"""Exercise: a policy read as a reward model, and its forecast for a pair."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

LN3 = math.log(3.0)


def _margin(pw: Tensor, pl: Tensor, qw: Tensor, ql: Tensor) -> Tensor:
    return (pw - qw) - (pl - ql)


def _implicit_preference(pw: Tensor, pl: Tensor, qw: Tensor, ql: Tensor, beta: float) -> Tensor:
    return (beta * _margin(pw, pl, qw, ql)).sigmoid()


def _case(
    title: str, rows: list[tuple[float, float, float, float]], beta: float, expected: list[float], hint: str
) -> Case:
    """``rows``: policy chosen, policy rejected, reference chosen, reference rejected."""

    def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        import torch

        pw, pl, qw, ql = torch.tensor(rows, dtype=torch.float64).unbind(1)
        return pw, pl, qw, ql, beta

    return Case(title, inputs, expected, hint)


IMPLICIT_PREFERENCE = Exercise(
    name="implicit_preference",
    title="A policy read as a reward model",
    chapter="12_dpo",
    difficulty="easy",
    minutes=5,
    cases=(
        _case(
            "a policy that dislikes the chosen answer less than the reference does",
            # implicit rewards: LN3/2 * 2 = LN3 and 0; odds 3 to 1
            [(-5.0, -3.0, -7.0, -3.0)],
            LN3 / 2,
            [0.75],
            "Implicit rewards first: beta (log pi - log pi_ref) for each answer. Then Bradley-Terry: sigmoid "
            "of their difference. Shape (B,).",
        ),
        _case(
            "a policy that is the reference",
            [(-2.0, -9.0, -2.0, -9.0)],
            0.3,
            [0.5],
            "All implicit rewards are zero before training: the forecast is a coin toss, however much "
            "likelier one answer is.",
        ),
        _case(
            "a policy that has it backwards, and one that has it right",  # margins -LN3 and 2 LN3: 1/4, 9/10
            [(-4.0, -3.0, -3.5, -3.5), (-1.0, -6.0, -2.0, -5.0)],
            LN3,
            [0.25, 0.9],
            "The margin is (chosen policy - chosen reference) - (rejected policy - rejected reference).",
        ),
        _case(
            "a small beta",  # margin 10, beta LN3/10
            [(-10.0, -30.0, -15.0, -25.0)],
            LN3 / 10,
            [0.75],
            "Multiply the log-ratios by beta: a nat is worth beta points.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the policy alone",
            lambda pw, pl, qw, ql, b: (b * (pw - pl)).sigmoid(),
            "You compare what the policy says. Some answers are likely under any policy: the implicit reward "
            "is relative to the reference.",
        ),
        WrongAnswer(
            "the ratio of probabilities",
            lambda pw, pl, qw, ql, b: (pw - pl).sigmoid(),
            "You return pi(chosen) / (pi(chosen) + pi(rejected)): how the policy would draw, not what it has "
            "learnt about the pair. The reference and beta are missing.",
        ),
        WrongAnswer(
            "the sign",
            lambda pw, pl, qw, ql, b: (-b * _margin(pw, pl, qw, ql)).sigmoid(),
            "This is the forecast for the rejected answer.",
        ),
        WrongAnswer(
            "beta forgotten",
            lambda pw, pl, qw, ql, b: _margin(pw, pl, qw, ql).sigmoid(),
            "You leave out beta: nats are not points.",
        ),
        WrongAnswer(
            "divided by beta",
            lambda pw, pl, qw, ql, b: (_margin(pw, pl, qw, ql) / b).sigmoid(),
            "You divide by beta. Solving the optimum for the reward multiplies by it.",
        ),
        WrongAnswer(
            "yes or no",
            lambda pw, pl, qw, ql, b: (_margin(pw, pl, qw, ql) > 0).double(),
            "You say which answer has the higher implicit reward. Asked for is the probability.",
        ),
        WrongAnswer(
            "the loss",
            lambda pw, pl, qw, ql, b: -_implicit_preference(pw, pl, qw, ql, b).log(),
            "That is the DPO loss: minus the logarithm of the probability that was asked for.",
        ),
    ),
    solution=_implicit_preference,
    praise="So every policy trained with DPO can be tested like a reward model, on held-out pairs.",
)
