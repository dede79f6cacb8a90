"""Exercise: the log-probability of each response, with shift and mask together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _tokens(logits: Tensor, ids: Tensor) -> Tensor:
    return logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)


def _sequence_logp(logits: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    import torch

    return torch.where(counts[:, 1:], _tokens(logits, ids), 0.0).sum(1)


def _wrong_place(logits: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    import torch

    return torch.where(counts[:, :-1], _tokens(logits, ids), 0.0).sum(1)


def _no_shift(logits: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    import torch

    here = logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
    return torch.where(counts, here, 0.0).sum(1)


def _not_summed(logits: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    import torch

    return torch.where(counts[:, 1:], _tokens(logits, ids), 0.0)


def _case(
    title: str,
    ones: list[list[float]],
    ids: list[list[int]],
    counts: list[list[int]],
    expected: Any,
    hint: str,
) -> Case:
    """Two possible tokens; ``ones[b][t]`` is the probability that position t gives to token 1."""

    def inputs() -> tuple[Tensor, Tensor, Tensor]:
        import torch

        one = torch.tensor(ones)
        return torch.stack([(1 - one).log(), one.log()], -1), torch.tensor(ids), torch.tensor(counts).bool()

    return Case(title, inputs, expected, hint)


_LN = math.log

SEQUENCE_LOGP = Exercise(
    name="sequence_logp",
    title="The log-probability of a response",
    chapter="01_language_models_as_policies",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "a prompt of two tokens and a response of two",
            # token 2 is a 1, predicted at position 1: 0.8; token 3 is a 0, predicted at position 2: 0.75
            [[0.5, 0.8, 0.25, 0.1]],
            [[0, 1, 1, 0]],
            [[0, 0, 1, 1]],
            [_LN(0.8 * 0.75)],
            "After the shift, column 0 of your log-probabilities belongs to token 1. So the mask must lose "
            "its first column too: counts[:, 1:].",
        ),
        _case(
            "two rows of different length",
            # row 0: 0.5 and 1 - 0.8, then padding; row 1: 0.9, 0.5 and 0.4
            [[0.5, 0.8, 0.25, 0.1], [0.9, 0.5, 0.4, 0.3]],
            [[0, 1, 0, 0], [1, 1, 1, 1]],
            [[0, 1, 1, 0], [0, 1, 1, 1]],
            [_LN(0.5 * 0.2), _LN(0.9 * 0.5 * 0.4)],
            "Add up over the counted tokens of each row: one number per row.",
        ),
        _case(
            "a padded token of probability zero",  # counted: 0.5 alone
            [[0.5, 1.0, 0.5]],
            [[1, 1, 0]],
            [[0, 1, 0]],
            [_LN(0.5)],
            "Minus infinity times zero is NaN. Choose with torch.where(mask, logps, 0) instead of a product.",
        ),
        _case(
            "a response without a token",
            [[0.5, 0.5]],
            [[1, 1]],
            [[0, 0]],
            [0.0],
            "A sum of nothing is zero: an empty response has probability one.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the mask not shifted",
            _wrong_place,
            "You cut the mask at its end, so every mark sits one token too far left: the first response "
            "token is lost, and what follows the response slips in. Cut it at its start: counts[:, 1:].",
        ),
        WrongAnswer(
            "no shift at all",
            _no_shift,
            "You ask each position about the token that it has just read. Shift the logits first.",
        ),
        WrongAnswer(
            "everything counts",
            lambda z, i, c: _tokens(z, i).sum(1),
            "You add up prompt, response and padding. Only the positions with counts == True belong to the "
            "response.",
        ),
        WrongAnswer(
            "multiplying by the mask",
            lambda z, i, c: (_tokens(z, i) * c[:, 1:]).sum(1),
            "Right as long as everything is finite. But minus infinity times zero is NaN: use torch.where.",
        ),
        WrongAnswer(
            "a mean over tokens",
            lambda z, i, c: _sequence_logp(z, i, c) / c.sum(1),
            "You divide by the number of tokens. That is not the log-probability of a text: probabilities of "
            "tokens multiply, so their logarithms add up.",
        ),
        WrongAnswer(
            "a sum over the batch",
            lambda z, i, c: _sequence_logp(z, i, c).sum(),
            "You add up the rows as well. Keep one number per row.",
        ),
        WrongAnswer(
            "one number per token",
            _not_summed,
            "These are the log-probabilities of the tokens. Add them up along each row.",
        ),
        WrongAnswer(
            "the probability",
            lambda z, i, c: _sequence_logp(z, i, c).exp(),
            "You return the probability. For a text of a hundred tokens that is zero in floating point: stay "
            "with the logarithm.",
        ),
        WrongAnswer(
            "a loss",
            lambda z, i, c: -_sequence_logp(z, i, c),
            "You return minus the log-probability, which is a loss. Leave the sign alone.",
        ),
    ),
    solution=_sequence_logp,
    praise="DPO, PPO and best-of-n all begin with this number.",
)
