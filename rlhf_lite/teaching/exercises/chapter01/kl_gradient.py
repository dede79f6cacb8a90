"""Exercise: the gradient that a KL penalty should have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _parts(logits: Tensor, ref_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both laws p and q, and the log-ratio d of each token."""
    p, q = logits.softmax(-1), ref_logits.softmax(-1)
    return p, q, logits.log_softmax(-1) - ref_logits.log_softmax(-1)


def _kl_gradient(logits: Tensor, ref_logits: Tensor) -> Tensor:
    p, _, d = _parts(logits, ref_logits)
    return p * (d - (p * d).sum())


def _other_weights(logits: Tensor, ref_logits: Tensor) -> Tensor:
    p, q, d = _parts(logits, ref_logits)
    return q * (d - (p * d).sum())


def _without_weights(logits: Tensor, ref_logits: Tensor) -> Tensor:
    p, _, d = _parts(logits, ref_logits)
    return d - (p * d).sum()


def _case(
    title: str, p: list[float], q: list[float], expected: list[float], hint: str, add: float = 0.0
) -> Case:
    def inputs() -> tuple[Tensor, Tensor]:
        import torch

        wide = torch.float64
        return torch.tensor(p, dtype=wide).log() + add, torch.tensor(q, dtype=wide).log()

    return Case(title, inputs, expected, hint)


_L = math.log(2.5)
_THREE = [0.35 * _L, -0.09 * _L, -0.26 * _L]

KL_GRADIENT = Exercise(
    name="kl_gradient",
    title="The gradient of a KL",
    chapter="01_language_models_as_policies",
    difficulty="hard",
    minutes=15,
    cases=(
        _case(
            "two tokens",
            # p = (1/2, 1/2), d = (ln 2, ln 2/3), KL = ln(4/3) / 2; p (d - KL) = (ln 2 - ln(4/3) / 2) / 2
            [0.5, 0.5],
            [0.25, 0.75],
            [math.log(3) / 4, -math.log(3) / 4],
            "Differentiate sum p d. The derivative of p_u by logit v is p_u (1[u = v] - p_v), and "
            "the part that comes from d itself adds up to zero.",
        ),
        _case(
            "three tokens",
            # p = (.5, .3, .2), q reversed: d = (L, 0, -L) with L = ln 2.5, KL = .3 L
            # p (d - KL) = (.5 * .7, .3 * -.3, .2 * -1.3) L
            [0.5, 0.3, 0.2],
            [0.2, 0.3, 0.5],
            _THREE,
            "Each token's entry is p times (d minus the mean of d). The entries add up to zero.",
        ),
        _case(
            "logits with a constant added",
            [0.5, 0.3, 0.2],
            [0.2, 0.3, 0.5],
            _THREE,
            "Adding a constant to all logits changes no probability, and so no gradient.",
            add=3.0,
        ),
        _case(
            "two equal policies",
            [0.5, 0.5],
            [0.5, 0.5],
            [0.0, 0.0],
            "The KL is smallest, zero, where both are equal: the gradient vanishes there.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "zero",
            lambda z, r: z * 0.0,
            "That is the expected gradient of k1 used as a loss: the mean of d's own gradient is zero for "
            "any policy. The KL also changes because the probabilities of the tokens change.",
        ),
        WrongAnswer(
            "p minus q",
            lambda z, r: z.softmax(-1) - r.softmax(-1),
            "That is the gradient of KL(reference, policy), the other direction. It is what k3 used as a "
            "loss gives in expectation.",
        ),
        WrongAnswer(
            "not centred",
            lambda z, r: _parts(z, r)[0] * _parts(z, r)[2],
            "You forgot that raising one logit lowers the probability of all other tokens: subtract the mean "
            "of d, which is the KL.",
        ),
        WrongAnswer(
            "not weighted",
            _without_weights,
            "The entry of each token is weighted by its probability: a token that is never drawn has no "
            "say.",
        ),
        WrongAnswer(
            "weighted by the reference",
            _other_weights,
            "You weight by the reference's probabilities. The expectation is over the policy.",
        ),
        WrongAnswer(
            "the sign turned",
            lambda z, r: -_kl_gradient(z, r),
            "This points downhill. The gradient points towards a larger KL: the token that the policy "
            "already prefers too much has a positive entry.",
        ),
        WrongAnswer(
            "with respect to the probabilities",
            lambda z, r: _parts(z, r)[2] + 1,
            "That is the derivative by the probabilities, as if they could move freely. They come from "
            "logits by a softmax: apply the chain rule.",
        ),
        WrongAnswer(
            "the KL itself",
            lambda z, r: (_parts(z, r)[0] * _parts(z, r)[2]).sum(),
            "You return the KL, one number. Its gradient has one entry for each logit.",
        ),
    ),
    solution=_kl_gradient,
    praise="p times (d minus its mean): you will meet this shape again as the policy gradient of chapter 8.",
)
