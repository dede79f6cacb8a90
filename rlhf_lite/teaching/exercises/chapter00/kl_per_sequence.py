"""Exercise: the KL divergence of a policy from its reference, per sequence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _kl_per_sequence(logp: Tensor, ref_logp: Tensor, mask: Tensor) -> float:
    import torch

    log_ratio = torch.where(mask, logp - ref_logp, 0.0)
    return float(log_ratio.sum(dim=1).mean())


def _kl_case(
    title: str,
    logp: list[list[float]],
    ref: list[list[float]],
    mask: list[list[int]],
    expected: float,
    hint: str,
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor]:
        import torch

        return torch.tensor(logp), torch.tensor(ref), torch.tensor(mask).bool()

    return Case(title, inputs, expected, hint)


KL_PER_SEQUENCE = Exercise(
    name="kl_per_sequence",
    title="How far has the policy moved?",
    chapter="00_quickstart",
    difficulty="medium",
    minutes=10,
    cases=(
        _kl_case(
            "one sequence of two tokens",  # (-1 - -2) + (-0.5 - -1)
            [[-1.0, -0.5]],
            [[-2.0, -1.0]],
            [[1, 1]],
            1.5,
            "Subtract the log-probabilities token by token, and add up over the tokens.",
        ),
        _kl_case(
            "two sequences of different length",  # rows: 1 + 1 + 1 = 3 and 0.5; mean 1.75
            [[-1.0, -1.0, -1.0], [-1.0, -9.0, -9.0]],
            [[-2.0, -2.0, -2.0], [-1.5, -1.0, -4.0]],
            [[1, 1, 1], [1, 0, 0]],
            1.75,
            "Sum over the counted tokens of each row, then take the mean over the rows.",
        ),
        _kl_case(
            "a policy that finds its sample less likely than the reference does",  # rows: -1 and 0.5
            [[-3.0], [-1.0]],
            [[-2.0], [-1.5]],
            [[1], [1]],
            -0.25,
            "An estimate from samples may be negative, although the true KL never is. Keep the sign.",
        ),
        _kl_case(
            "an answer that has no counted token",  # rows: 2 and 0; mean over both rows
            [[-1.0, -1.0], [-1.0, -1.0]],
            [[-2.0, -2.0], [-7.0, -7.0]],
            [[1, 1], [0, 0]],
            1.0,
            "An empty answer has a sum of zero, and is still one of the sequences.",
        ),
        _kl_case(
            "padding that holds minus infinity",  # counted: 1 in each row
            [[-1.0, -math.inf], [-2.0, -math.inf]],
            [[-2.0, -math.inf], [-3.0, -math.inf]],
            [[1, 0], [1, 0]],
            1.0,
            "A position that does not count may hold anything. Multiplying by zero does not remove "
            "infinity or NaN: use torch.where.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "multiplying by the mask",
            lambda p, q, m: ((p - q) * m).sum(1).mean(),
            "The numbers are right as long as they are finite. But infinity minus infinity is NaN, and NaN "
            "times zero is still NaN. Choose with torch.where(mask, logp - ref_logp, 0) instead of "
            "multiplying.",
        ),
        WrongAnswer(
            "the sign swapped",
            lambda p, q, m: ((q - p) * m).sum(1).mean(),
            "You subtract the policy from the reference. The tokens were sampled from the policy, and "
            "KL(policy, reference) is the mean of log policy minus log reference.",
        ),
        WrongAnswer(
            "a mean over tokens",
            lambda p, q, m: ((p - q) * m).sum() / m.sum(),
            "You divide by the number of tokens. That is nats per token, and it lets a long answer drift "
            "further for the same price. Add up over the tokens of a sequence; take the mean over "
            "sequences only.",
        ),
        WrongAnswer(
            "a mean within each sequence",
            lambda p, q, m: (((p - q) * m).sum(1) / m.sum(1)).mean(),
            "You take the mean over the tokens of each sequence. The log-probability of a sequence is a "
            "sum over its tokens, so the KL is a sum too (and an empty answer would divide by zero).",
        ),
        WrongAnswer(
            "the mask forgotten",
            lambda p, q, m: (p - q).sum(1).mean(),
            "You count the positions after the end of the answer. Only positions with mask True belong to "
            "it.",
        ),
        WrongAnswer(
            "the mask inverted",
            lambda p, q, m: ((p - q) * ~m).sum(1).mean(),
            "You count the positions where the mask is False. In this book mask True means: this position "
            "counts.",
        ),
        WrongAnswer(
            "a sum over sequences",
            lambda p, q, m: ((p - q) * m).sum(),
            "You add up over the whole batch, so a larger batch gives a larger KL. Take the mean over "
            "sequences.",
        ),
        WrongAnswer(
            "absolute values",
            lambda p, q, m: ((p - q) * m).abs().sum(1).mean(),
            "You drop the sign of each difference. Negative and positive terms must cancel: a policy equal "
            "to the reference up to noise would otherwise look far away.",
        ),
        WrongAnswer(
            "divided by the padded length",
            lambda p, q, m: ((p - q) * m).mean(),
            "You take the mean over all B x T positions, padding included. Then more padding makes the KL "
            "smaller. Sum over the tokens, and take the mean over sequences only.",
        ),
        WrongAnswer(
            "empty answers dropped",
            lambda p, q, m: ((p - q) * m).sum(1)[m.any(1)].mean(),
            "You leave out the sequences that have no counted token. An empty answer is an answer: its sum "
            "is zero, and it counts in the mean.",
        ),
    ),
    solution=_kl_per_sequence,
    praise="This is the estimator called k1, in nats per sequence: the price that PPO pays for moving away.",
)
