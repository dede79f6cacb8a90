"""Exercise: the law that maximises reward minus β times KL, without overflow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

LN2, LN3 = math.log(2.0), math.log(3.0)


def _tilted_law(ref_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return (ref_probs.log() + rewards / beta).softmax(-1)


def _unstable(ref_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    weights = ref_probs * (rewards / beta).exp()
    return weights / weights.sum(-1, keepdim=True)


def _tilt_case(title: str, ref: list, rewards: list, beta: float, expected: list, hint: str) -> Case:
    def inputs() -> tuple[Tensor, Tensor, float]:
        import torch

        return torch.tensor(ref, dtype=torch.float64), torch.tensor(rewards, dtype=torch.float64), beta

    return Case(title, inputs, expected, hint)


def _one_text(q: Tensor, r: Tensor, beta: float) -> Tensor:
    import torch

    return torch.nn.functional.one_hot(r.argmax(-1), r.shape[-1]).double()


TILTED_LAW = Exercise(
    name="tilted_law",
    title="The best policy, without overflow",
    chapter="07_the_objective_and_its_optimum",
    difficulty="medium",
    minutes=10,
    cases=(
        _tilt_case(
            "three texts and a price of 1",  # weights 0.5 * 1, 0.25 * 2, 0.25 * 4: they sum to 2
            [0.5, 0.25, 0.25],
            [0.0, LN2, 2 * LN2],
            1.0,
            [0.25, 0.25, 0.5],
            "Multiply each probability of the reference by exp(reward / beta), then divide by the sum.",
        ),
        _tilt_case(
            "a price of 2",  # rewards and price doubled: the same law as before
            [0.5, 0.25, 0.25],
            [0.0, 2 * LN2, 4 * LN2],
            2.0,
            [0.25, 0.25, 0.5],
            "The reward is divided by beta. The reference is not.",
        ),
        _tilt_case(
            "a text that the reference never says",  # weights 0.5, 1.5 and 0 * exp(100)
            [0.5, 0.5, 0.0],
            [0.0, LN3, 100.0],
            1.0,
            [0.25, 0.75, 0.0],
            "Zero times anything is zero: no reward brings back what the reference never says.",
        ),
        _tilt_case(
            "two prompts at once",  # first row as above; second: weights 0.25 * 3, 0.25 * 1, 0.5 * 1, sum 1.5
            [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]],
            [[0.0, LN2, 2 * LN2], [LN3, 0.0, 0.0]],
            1.0,
            [[0.25, 0.25, 0.5], [0.5, 1 / 6, 1 / 3]],
            "Each row is a law of its own: normalise along the last axis.",
        ),
        _tilt_case(
            "very large rewards",  # adding 5000 to all rewards changes nothing: weights 1 and 3
            [0.5, 0.5],
            [5000.0, 5000.0 + LN3],
            1.0,
            [0.25, 0.75],
            "exp(5000) is infinite. Work with log ref + reward / beta, and let softmax subtract the largest.",
        ),
        _tilt_case(
            "very small rewards",
            [0.5, 0.5],
            [-5000.0, -5000.0 + LN3],
            1.0,
            [0.25, 0.75],
            "exp(-5000) is zero, and zero divided by zero is NaN. Work with logarithms.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "overflow",
            _unstable,
            "The formula is right, but exp(reward / beta) overflows for large rewards and vanishes for very "
            "negative ones. Add logarithms instead, log ref + reward / beta, and take a softmax: it "
            "subtracts "
            "the largest exponent first, which changes nothing after normalising.",
        ),
        WrongAnswer(
            "the reference forgotten",
            lambda q, r, beta: (r / beta).softmax(-1),
            "You use the reward alone. That is the optimum for a reference that finds all texts equally "
            "likely. The language model's own probability has to be multiplied in.",
        ),
        WrongAnswer(
            "beta multiplied",
            lambda q, r, beta: (q.log() + r * beta).softmax(-1),
            "You multiply the reward by beta. A high price of KL must keep the policy near the reference, so "
            "the reward is divided by beta.",
        ),
        WrongAnswer(
            "the reference tempered too",
            lambda q, r, beta: ((q.log() + r) / beta).softmax(-1),
            "You divide the log of the reference by beta as well. Only the reward is divided: for rewards of "
            "zero the answer must be the reference itself, at every price.",
        ),
        WrongAnswer(
            "a probability added to a logarithm",
            lambda q, r, beta: (q + r / beta).softmax(-1),
            "You add the probability itself to reward / beta. Inside a softmax stand logarithms: use "
            "ref_probs.log().",
        ),
        WrongAnswer(
            "the sign of the reward",
            lambda q, r, beta: (q.log() - r / beta).softmax(-1),
            "Your law prefers low rewards. The exponent is plus reward / beta.",
        ),
        WrongAnswer(
            "not normalised",
            lambda q, r, beta: (q.log() + r / beta - (r / beta).amax(-1, keepdim=True)).exp(),
            "Your numbers are in the right proportion, but do not sum to one. Divide by their sum.",
        ),
        WrongAnswer(
            "normalised over all prompts",
            lambda q, r, beta: (q.log() + r / beta).flatten().softmax(-1).reshape(q.shape),
            "You normalise over the whole tensor. Every prompt has its own law, which sums to one by itself: "
            "normalise along the last axis.",
        ),
        WrongAnswer(
            "normalised along the wrong axis",
            lambda q, r, beta: (q.log() + r / beta).softmax(0),
            "You normalise along the first axis. With two prompts that compares prompts, not texts: use "
            "dim=-1.",
        ),
        WrongAnswer(
            "a small number under the logarithm",
            lambda q, r, beta: ((q + 1e-8).log() + r / beta).softmax(-1),
            "A small number added to the reference keeps log away from minus infinity, and lets a text of "
            "high reward in that the reference never says. log 0 = -inf is what we want here: softmax "
            "turns it "
            "into an exact zero.",
        ),
        WrongAnswer(
            "the best text only",
            _one_text,
            "You put everything on the text with the highest reward. That maximises the reward alone; the KL "
            "term has gone.",
        ),
    ),
    solution=_tilted_law,
    praise="Every algorithm of this book is a way to come near this law without being able to write it down.",
)
