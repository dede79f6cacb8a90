"""Exercise: log-probabilities of the tokens that stand in a text, with the one-token shift."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _pick(logp: Tensor, ids: Tensor) -> Tensor:
    return logp.gather(-1, ids[..., None]).squeeze(-1)


def _shifted_logps(logits: Tensor, ids: Tensor) -> Tensor:
    return _pick(logits[:, :-1].log_softmax(-1), ids[:, 1:])


def _case(title: str, logits: list[Any], ids: list[list[int]], expected: list[Any], hint: str) -> Case:
    def inputs() -> tuple[Tensor, Tensor]:
        import torch

        return torch.tensor(logits), torch.tensor(ids)

    return Case(title, inputs, expected, hint)


_LN = math.log

SHIFTED_LOGPS = Exercise(
    name="shifted_logps",
    title="The one-token shift",
    chapter="01_language_models_as_policies",
    difficulty="easy",
    minutes=10,
    cases=(
        _case(
            "one text of three tokens",
            # after token 0 the odds are 3 : 1, so token 1 has 1/4; then 1 : 4, so token 1 has 4/5
            [[[_LN(3.0), 0.0], [0.0, _LN(4.0)], [0.0, _LN(9.0)]]],
            [[0, 1, 1]],
            [[_LN(1 / 4), _LN(4 / 5)]],
            "The row of logits at position t - 1 predicts the token at position t: pair logits[:, :-1] with "
            "ids[:, 1:].",
        ),
        _case(
            "two texts and three possible tokens",
            # row 0: 1/3, then 2/4; row 1: 6/8, then 8/10
            [
                [[0.0, 0.0, 0.0], [0.0, _LN(2.0), 0.0], [5.0, 0.0, 0.0]],
                [[0.0, _LN(6.0), 0.0], [0.0, 0.0, _LN(8.0)], [0.0, 5.0, 0.0]],
            ],
            [[2, 0, 1], [1, 1, 2]],
            [[_LN(1 / 3), _LN(1 / 2)], [_LN(3 / 4), _LN(4 / 5)]],
            "Normalise over the last dimension, the vocabulary, and pick one entry per position with gather.",
        ),
        _case(
            "very large logits",
            # equal logits: 1/2; then e^-1000 against 1
            [[[1000.0, 1000.0], [0.0, -1000.0], [0.0, 0.0]]],
            [[0, 1, 1]],
            [[_LN(1 / 2), -1000.0]],
            "exp of 1000 overflows, and the logarithm of a probability that was rounded to zero is minus "
            "infinity. log_softmax avoids both.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "no shift",
            lambda z, i: _pick(z.log_softmax(-1), i),
            "You ask each position about the token that stands there. But the model has just read that "
            "token: it says nothing about it. What it predicts is the next one.",
        ),
        WrongAnswer(
            "no shift, cut to the right shape",
            lambda z, i: _pick(z.log_softmax(-1), i)[:, 1:],
            "The shape is right, and the pairing is not: you still ask position t about token t. Drop the "
            "LAST row of logits and the FIRST token, so that position t - 1 meets token t.",
        ),
        WrongAnswer(
            "the shift the wrong way",
            lambda z, i: _pick(z[:, 1:].log_softmax(-1), i[:, :-1]),
            "You ask position t about token t - 1, which it read long ago. Swap the two slices.",
        ),
        WrongAnswer(
            "labels rolled around",
            lambda z, i: _pick(z.log_softmax(-1), i.roll(-1, 1)),
            "roll brings the first token back at the end, so the last column is the log-probability of a "
            "token that does not follow. S tokens give S - 1 log-probabilities.",
        ),
        WrongAnswer(
            "probabilities",
            lambda z, i: _shifted_logps(z, i).exp(),
            "You return probabilities. Log-probabilities add up, and they do not underflow for long texts.",
        ),
        WrongAnswer(
            "raw logits",
            lambda z, i: _pick(z[:, :-1], i[:, 1:]),
            "You return logits. They are log-probabilities only up to a constant for each position: "
            "subtract the log-sum-exp over the vocabulary (log_softmax does).",
        ),
        WrongAnswer(
            "a loss",
            lambda z, i: -_shifted_logps(z, i),
            "You return minus the log-probability: a loss. A log-probability is never above zero.",
        ),
        WrongAnswer(
            "softmax over the positions",
            lambda z, i: _pick(z[:, :-1].log_softmax(1), i[:, 1:]),
            "You normalise over the positions of the text. The probabilities of the possible tokens at one "
            "position add up to one: use the last dimension.",
        ),
        WrongAnswer(
            "logarithm of a softmax",
            lambda z, i: _pick(z[:, :-1].softmax(-1).log(), i[:, 1:]),
            "Right for small logits. But a probability below the smallest float is rounded to zero, and its "
            "logarithm is minus infinity. Use log_softmax, which never leaves the logarithms.",
        ),
        WrongAnswer(
            "the most likely token",
            lambda z, i: z[:, :-1].log_softmax(-1).max(-1).values,
            "You return the log-probability of the model's favourite token. Wanted is the one that stands "
            "in the text.",
        ),
    ),
    solution=_shifted_logps,
    praise="These two slices stand at the bottom of every loss in this book.",
)
