"""Exercise: the log-probability of a token that was drawn at a temperature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _pick(logp: Tensor, tokens: Tensor) -> Tensor:
    return logp.gather(-1, tokens[:, None]).squeeze(-1)


def _tempered_logps(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return _pick((logits / temperature).log_softmax(-1), tokens)


def _case(
    title: str,
    logits: list[list[float]],
    tokens: list[int],
    temperature: float,
    expected: list[float],
    hint: str,
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, float]:
        import torch

        return torch.tensor(logits), torch.tensor(tokens), temperature

    return Case(title, inputs, expected, hint)


_LN = math.log

TEMPERED_LOGPS = Exercise(
    name="tempered_logps",
    title="The law that the token was drawn from",
    chapter="01_language_models_as_policies",
    difficulty="easy",
    minutes=5,
    cases=(
        _case(
            "temperature one half",  # odds 1 : 4 become 1 : 16
            [[0.0, _LN(4.0)], [0.0, _LN(4.0)]],
            [1, 0],
            0.5,
            [_LN(16 / 17), _LN(1 / 17)],
            "Divide the logits by the temperature, then normalise again with log_softmax.",
        ),
        _case(
            "temperature two",  # odds 1 : 4 : 9 become 1 : 2 : 3
            [[0.0, _LN(4.0), _LN(9.0)]],
            [0],
            2.0,
            [_LN(1 / 6)],
            "A temperature above one flattens the law: rare tokens become more likely.",
        ),
        _case(
            "temperature one",
            [[0.0, _LN(4.0)]],
            [1],
            1.0,
            [_LN(4 / 5)],
            "At temperature one nothing changes.",
        ),
        _case(
            "large logits that are not normalised",  # only the difference counts: odds 1 : 16 again
            [[1000.0, 1000.0 + _LN(4.0)]],
            [1],
            0.5,
            [_LN(16 / 17)],
            "exp of 2000 overflows: let log_softmax do it.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "temperature ignored",
            lambda z, i, t: _pick(z.log_softmax(-1), i),
            "That is the log-probability at temperature one. The token was drawn from another law, and its "
            "log-probability must come from that law.",
        ),
        WrongAnswer(
            "multiplied",
            lambda z, i, t: _pick((z * t).log_softmax(-1), i),
            "You multiply by the temperature. A low temperature must make the law sharper: divide.",
        ),
        WrongAnswer(
            "the log-probability divided",
            lambda z, i, t: _pick(z.log_softmax(-1), i) / t,
            "You divide the log-probability by the temperature. After that the probabilities do not add up "
            "to one any more: divide the logits, then normalise.",
        ),
        WrongAnswer(
            "only the numerator",
            lambda z, i, t: _pick(z / t - z.logsumexp(-1, keepdim=True), i),
            "You divide the token's logit, but normalise with the sum at temperature one. Numerator and sum "
            "must have the same temperature.",
        ),
        WrongAnswer(
            "temperature after the softmax",
            lambda z, i, t: _pick((z.softmax(-1) / t).log_softmax(-1), i),
            "You take a softmax of probabilities. The temperature divides the logits, before the only "
            "softmax.",
        ),
        WrongAnswer(
            "not normalised",
            lambda z, i, t: _pick(z / t, i),
            "These are logits, not log-probabilities: log_softmax is missing.",
        ),
        WrongAnswer(
            "a probability",
            lambda z, i, t: _tempered_logps(z, i, t).exp(),
            "You return the probability. Take its logarithm.",
        ),
        WrongAnswer(
            "overflow",
            lambda z, i, t: _pick((z / t).exp() / (z / t).exp().sum(-1, keepdim=True), i).log(),
            "The formula is right, but exp of a large logit is infinite, and infinity over infinity is NaN. "
            "Use log_softmax.",
        ),
    ),
    solution=_tempered_logps,
    tolerance=1e-4,  # float32 keeps few digits of a logit near 1000
    praise="Samplers, scorers and losses must agree on this number, or every ratio is wrong.",
)
