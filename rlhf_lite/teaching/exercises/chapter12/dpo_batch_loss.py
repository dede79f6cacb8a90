"""Exercise: the DPO loss of a batch, from the log-probabilities of its tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

LN2 = math.log(2.0)


def _log_ratios(policy: Tensor, ref: Tensor, mask: Tensor) -> Tensor:
    """Log π/π_ref of each answer, summed over its tokens."""
    import torch

    return torch.where(mask, policy - ref, 0.0).sum(1)


def _loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (chosen - rejected))


def _dpo_batch_loss(policy: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    return _loss(*_log_ratios(policy, ref, mask).chunk(2), beta)


def _mean_over_tokens(policy: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    return _loss(*(_log_ratios(policy, ref, mask) / mask.sum(1)).chunk(2), beta)


def _neighbours(policy: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    ratios = _log_ratios(policy, ref, mask)
    return _loss(ratios[0::2], ratios[1::2], beta)


def _log_of_sigmoid(policy: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    chosen, rejected = _log_ratios(policy, ref, mask).chunk(2)
    return -(beta * (chosen - rejected)).sigmoid().log()


def _case(
    title: str,
    policy: list[list[float]],
    ref: list[list[float]],
    mask: list[list[int]],
    beta: float,
    expected: list[float],
    hint: str,
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor, float]:
        import torch

        return torch.tensor(policy), torch.tensor(ref), torch.tensor(mask).bool(), beta

    return Case(title, inputs, expected, hint)


DPO_BATCH_LOSS = Exercise(
    name="dpo_batch_loss",
    title="The DPO loss of a batch",
    chapter="12_dpo",
    difficulty="medium",
    minutes=15,
    cases=(
        _case(
            "one pair of equal length",  # Δ_w = 1, Δ_l = -1, h = 2, z = 1: log(1 + e^-1)
            [[-1.0, -1.0], [-2.0, -2.0]],
            [[-2.0, -1.0], [-2.0, -1.0]],
            [[1, 1], [1, 1]],
            0.5,
            [math.log1p(math.exp(-1.0))],
            "Sum log pi - log pi_ref over each answer, take chosen minus rejected, times beta, then "
            "-logsigmoid. One pair gives a tensor with one entry.",
        ),
        _case(
            "a policy that is still the reference",  # h = 0: -log(1/2)
            [[-1.0, -3.0], [-2.0, -0.5]],
            [[-1.0, -3.0], [-2.0, -0.5]],
            [[1, 1], [1, 0]],
            0.1,
            [LN2],
            "Before the first step nothing is known yet: a coin toss, whose loss is log 2.",
        ),
        _case(
            "answers of different length",  # Δ_w = 3, Δ_l = 0: log(1 + e^-3)
            [[-1.0, -1.0, -1.0], [-1.0, -9.0, -9.0]],
            [[-2.0, -2.0, -2.0], [-1.0, -1.0, -1.0]],
            [[1, 1, 1], [1, 0, 0]],
            1.0,
            [math.log1p(math.exp(-3.0))],
            "The probability of a text is the product over its tokens, so its log-probability is the sum: "
            "over the tokens where the mask is True, and not divided by their number.",
        ),
        _case(
            "two pairs",  # rows: chosen 1, chosen 2, rejected 1, rejected 2; h = 1 and -2
            [[-1.0], [-3.0], [-2.0], [-1.0]],
            [[-2.0], [-2.0], [-2.0], [-2.0]],
            [[1], [1], [1], [1]],
            1.0,
            [math.log1p(math.exp(-1.0)), math.log1p(math.exp(2.0))],
            "The first half of the rows are the chosen answers, the second half the rejected ones, in the "
            "same order.",
        ),
        _case(
            "a prompt before the answers",  # Δ_w = 1/2, Δ_l = -1/2, z = 2: log(1 + e^-2)
            [[-9.0, -1.0, -2.0], [-9.0, -3.0, -1.0]],
            [[-1.0, -1.5, -2.0], [-4.0, -2.5, -1.0]],
            [[0, 1, 1], [0, 1, 1]],
            2.0,
            [math.log1p(math.exp(-2.0))],
            "The prompt does not count: take the tokens where the mask is True.",
        ),
        _case(
            "a pair that is badly wrong",  # z = -1000: log(1 + e^1000) = 1000
            [[-1500.0], [-10.0]],
            [[-500.0], [-10.0]],
            [[1], [1]],
            1.0,
            [1000.0],
            "sigmoid(-1000) is zero in a computer, and its logarithm infinite. "
            "torch.nn.functional.logsigmoid does both at once, safely.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the mean over tokens",
            _mean_over_tokens,
            "You divide by the number of tokens. The optimum that DPO comes from speaks of the probability "
            "of the whole text: a sum. With means, long answers need far larger changes for the same margin.",
        ),
        WrongAnswer(
            "the mask forgotten",
            lambda p, q, m, b: _loss(*(p - q).sum(1).chunk(2), b),
            "You add up prompt and padding as well. Only positions with mask True belong to the answer.",
        ),
        WrongAnswer(
            "chosen and rejected exchanged",
            lambda p, q, m, b: _loss(*_log_ratios(q, p, m).chunk(2), b),
            "The sign of the margin is turned round (chosen and rejected, or policy and reference, stand in "
            "each other's place). Training would make the rejected answers likelier.",
        ),
        WrongAnswer(
            "neighbours taken for pairs",
            _neighbours,
            "You pair row 0 with row 1. The batch holds all chosen answers first, then all rejected ones.",
        ),
        WrongAnswer(
            "the reference forgotten",
            lambda p, q, m, b: _loss(*_log_ratios(p, 0 * q, m).chunk(2), b),
            "You compare the policy's log-probabilities alone. A long answer is unlikely under every policy; "
            "what counts is how much likelier it became than it was under the reference.",
        ),
        WrongAnswer(
            "beta forgotten",
            lambda p, q, m, b: _dpo_batch_loss(p, q, m, 1.0),
            "You leave out beta. It says how many points of reward a nat is worth.",
        ),
        WrongAnswer(
            "beta outside",
            lambda p, q, m, b: b * _dpo_batch_loss(p, q, m, 1.0),
            "You multiply the loss by beta. Beta belongs inside: it scales the margin, so that the margin is "
            "a difference of rewards.",
        ),
        WrongAnswer(
            "the logarithm of the sigmoid",
            _log_of_sigmoid,
            "Right on paper, but sigmoid underflows to zero and the loss becomes infinite. Use logsigmoid.",
        ),
        WrongAnswer(
            "one number for the batch",
            lambda p, q, m, b: _dpo_batch_loss(p, q, m, b).mean(),
            "You average over the batch. Return one loss for each pair, a tensor of shape (B,); whoever "
            "calls it decides how to average.",
        ),
    ),
    solution=_dpo_batch_loss,
    praise="That is the whole algorithm. The rest is data.",
)
