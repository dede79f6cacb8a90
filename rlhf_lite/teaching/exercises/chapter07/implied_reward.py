"""Exercise: which reward makes this policy the best one?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

LN2 = math.log(2.0)


def _implied_reward(logp: Tensor, ref_logp: Tensor, beta: float) -> Tensor:
    reward = beta * (logp - ref_logp)
    return reward - reward[..., :1]


def _from_probabilities(logp: Tensor, ref_logp: Tensor, beta: float) -> Tensor:
    reward = beta * (logp.exp() / ref_logp.exp()).log()
    return reward - reward[..., :1]


def _ratio_without_log(logp: Tensor, ref_logp: Tensor, beta: float) -> Tensor:
    ratio = beta * (logp - ref_logp).exp()
    return ratio - ratio[..., :1]


def _one_zero_for_all(logp: Tensor, ref_logp: Tensor, beta: float) -> Tensor:
    reward = beta * (logp - ref_logp)
    return reward - reward.flatten()[0]


def _mean_zero(logp: Tensor, ref_logp: Tensor, beta: float) -> Tensor:
    reward = beta * (logp - ref_logp)
    return reward - reward.mean(-1, keepdim=True)


def _implied_case(
    title: str, logp: list, ref_logp: list, beta: float, expected: list, hint: str
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, float]:
        import torch

        return torch.tensor(logp, dtype=torch.float64), torch.tensor(ref_logp, dtype=torch.float64), beta

    return Case(title, inputs, expected, hint)


_REFERENCE = [-LN2, -2 * LN2, -2 * LN2]  # probabilities 1/2, 1/4, 1/4
_POLICY = [-2 * LN2, -2 * LN2, -LN2]  # probabilities 1/4, 1/4, 1/2

IMPLIED_REWARD = Exercise(
    name="implied_reward",
    title="Which reward makes this policy the best one?",
    chapter="07_the_objective_and_its_optimum",
    difficulty="medium",
    minutes=10,
    cases=(
        _implied_case(
            "three texts and a price of 1",  # ratios 1/2, 1, 2: logs -ln 2, 0, ln 2; shifted by ln 2
            _POLICY,
            _REFERENCE,
            1.0,
            [0.0, LN2, 2 * LN2],
            "Solve the equation of the optimum for the reward: beta times the log-ratio, up to a constant.",
        ),
        _implied_case(
            "a price of 3",
            _POLICY,
            _REFERENCE,
            3.0,
            [0.0, 3 * LN2, 6 * LN2],
            "At a higher price it takes more reward to move a policy just as far: multiply by beta.",
        ),
        _implied_case(
            "a policy that never moved",
            _REFERENCE,
            _REFERENCE,
            0.5,
            [0.0, 0.0, 0.0],
            "The reference is the best policy for a reward that does not vary.",
        ),
        _implied_case(
            "two prompts",  # second row: ratios 2, 1, 1/2, so that the rewards fall
            [_POLICY, _REFERENCE],
            [_REFERENCE, _POLICY],
            1.0,
            [[0.0, LN2, 2 * LN2], [0.0, -LN2, -2 * LN2]],
            "The constant belongs to the prompt: every row has its own first text at zero.",
        ),
        _implied_case(
            "long texts, whose probabilities are zero in the computer",  # only differences of logs are needed
            [-1000.0, -1200.0],
            [-1001.0, -1203.0],
            1.0,
            [0.0, 2.0],
            "exp(-1000) is zero. Stay with log-probabilities from start to end.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the ratio upside down",
            lambda p, q, beta: _implied_reward(q, p, beta),
            "You take the reference over the policy. A text that the policy likes more than the reference "
            "does must have a higher reward.",
        ),
        WrongAnswer(
            "divided by beta",
            lambda p, q, beta: _implied_reward(p, q, 1 / beta),
            "You divide by beta. In the optimum the reward is divided by beta, so solving for it multiplies.",
        ),
        WrongAnswer(
            "the reference forgotten",
            lambda p, q, beta: beta * (p - p[..., :1]),
            "You use the policy's log-probabilities alone. A text may be likely only because the reference "
            "already found it likely: subtract ref_logp.",
        ),
        WrongAnswer(
            "beta forgotten",
            lambda p, q, beta: _implied_reward(p, q, 1.0),
            "You leave out beta, so the answer is in nats. The reward is in points: beta times the "
            "log-ratio.",
        ),
        WrongAnswer(
            "no zero chosen",
            lambda p, q, beta: beta * (p - q),
            "Right up to a constant per prompt. The exercise fixes it: subtract the first text's value, so "
            "that it has reward zero.",
        ),
        WrongAnswer(
            "mean zero",
            _mean_zero,
            "You fix the constant by the mean over the texts. That is a fair choice, and not the one "
            "that was "
            "asked for: the first text must have reward zero.",
        ),
        WrongAnswer(
            "one zero for all prompts",
            _one_zero_for_all,
            "You subtract the same number from every prompt. The constant is beta log Z(x): each prompt has "
            "its own.",
        ),
        WrongAnswer(
            "through probabilities",
            _from_probabilities,
            "The formula is right, but probabilities of whole texts are too small for a computer: exp gives "
            "zero, and zero over zero is NaN. Subtract log-probabilities.",
        ),
        WrongAnswer(
            "the ratio itself",
            _ratio_without_log,
            "You use the ratio of probabilities. The reward stands in an exponent, so it takes the logarithm "
            "of the ratio.",
        ),
    ),
    solution=_implied_reward,
    praise="This is the idea of DPO: a policy is a reward model in disguise. A later chapter trains it "
           "that way.",
)
