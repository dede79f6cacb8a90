"""Exercise: perplexity of texts of different length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _total(losses: Tensor, counts: Tensor) -> float:
    import torch

    return float(torch.where(counts > 0, losses * counts, 0.0).sum())


def _perplexity(losses: Tensor, counts: Tensor) -> float:
    return math.exp(_total(losses, counts) / int(counts.sum()))


def _case(title: str, losses: list[float], counts: list[int], expected: float, hint: str) -> Case:
    def inputs() -> tuple[Tensor, Tensor]:
        import torch

        return torch.tensor(losses), torch.tensor(counts)

    return Case(title, inputs, expected, hint)


PERPLEXITY = Exercise(
    name="perplexity",
    title="The perplexity of several texts",
    chapter="03_supervised_fine_tuning",
    difficulty="easy",
    minutes=5,
    cases=(
        _case(
            "a short and a long text",  # (2 * 1 + 1 * 4) / 5 nats per token
            [2.0, 1.0],
            [1, 4],
            math.exp(6 / 5),
            "First the mean loss per token over all texts together, then the exponential.",
        ),
        _case(
            "a model that chooses among eight equally likely tokens",  # ln 8 each
            [math.log(8.0), math.log(8.0)],
            [3, 5],
            8.0,
            "The loss of choosing among k equal tokens is ln k, so the perplexity is k.",
        ),
        _case(
            "three texts",  # (0 * 2 + 3 * 1 + 1 * 3) / 6 = 1
            [0.0, 3.0, 1.0],
            [2, 1, 3],
            math.e,
            "Multiply each text's loss by its number of tokens before you add up.",
        ),
        _case(
            "a text without a token",  # its mean is 0 / 0; the others: (2 * 2 + 1 * 2) / 4
            [2.0, math.nan, 1.0],
            [2, 0, 2],
            math.exp(1.5),
            "A text without tokens has a mean of NaN, and NaN times zero is NaN: use torch.where.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "a mean over texts",
            lambda losses, counts: losses[counts > 0].mean().exp(),
            "You give each text the same weight. Perplexity is per token: a long text has more tokens, so "
            "its loss weighs more.",
        ),
        WrongAnswer(
            "the mean of the perplexities",
            lambda losses, counts: losses[counts > 0].exp().mean(),
            "You take the perplexity of each text and then the mean. One surprising text would dominate. "
            "Average the losses first, and take the exponential once.",
        ),
        WrongAnswer(
            "the exponential before the mean",
            lambda losses, counts: (losses.exp() * counts)[counts > 0].sum() / counts.sum(),
            "The weights are right, but you take the exponential before the mean. The mean of exponentials "
            "is larger than the exponential of the mean.",
        ),
        WrongAnswer(
            "no exponential",
            lambda losses, counts: _total(losses, counts) / int(counts.sum()),
            "That is the loss in nats per token. The perplexity is its exponential.",
        ),
        WrongAnswer(
            "base two",
            lambda losses, counts: 2 ** (_total(losses, counts) / int(counts.sum())),
            "You raise 2 to the loss. That fits a loss in bits; ours is in nats, so the base is e.",
        ),
        WrongAnswer(
            "the empty text spoils the sum",
            lambda losses, counts: ((losses * counts).sum() / counts.sum()).exp(),
            "The formula is right, but a text without tokens has a loss of NaN, and NaN times zero is NaN. "
            "Choose with torch.where(counts > 0, losses * counts, 0).",
        ),
        WrongAnswer(
            "per text instead of per token",
            lambda losses, counts: math.exp(_total(losses, counts) / int((counts > 0).sum())),
            "You divide by the number of texts. That is the loss of a whole text, which grows with its "
            "length. Divide by the number of tokens.",
        ),
        WrongAnswer(
            "the sign",
            lambda losses, counts: math.exp(-_total(losses, counts) / int(counts.sum())),
            "You return the typical probability of a token. The perplexity is its inverse: losses are "
            "already minus log-probabilities.",
        ),
    ),
    solution=_perplexity,
    praise="First the mean over all tokens, then the exponential: a long text weighs as much as it should.",
)
