"""Exercise: the number that each sample's gradient is multiplied by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _others(returns: Tensor) -> Tensor:
    """The mean of the other samples."""
    return (returns.sum() - returns) / (len(returns) - 1)


def _reinforce_weights(scores: Tensor, logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    returns = scores - beta * (logps - ref_logps)
    return returns - _others(returns)


def _case(
    title: str,
    scores: list[float],
    logps: list[float],
    ref_logps: list[float],
    beta: float,
    expected: list[float],
    hint: str,
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor, float]:
        import torch

        return torch.tensor(scores), torch.tensor(logps), torch.tensor(ref_logps), beta

    return Case(title, inputs, expected, hint)


def _wrong_returns(returns) -> object:
    """A wrong answer that differs in the returns only."""

    def function(scores: Tensor, logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
        found = returns(scores, logps - ref_logps, beta)
        return found - _others(found)

    return function


def _wrong_baseline(weights) -> object:
    """A wrong answer that differs in what is done with the returns."""
    return lambda scores, logps, ref_logps, beta: weights(scores - beta * (logps - ref_logps))


REINFORCE_WEIGHTS = Exercise(
    name="reinforce_weights",
    title="The weight of each sample",
    chapter="08_policy_gradients_to_ppo",
    difficulty="easy",
    minutes=8,
    cases=(
        _case(
            "three samples and no penalty",  # others: (2 + 3)/2, (1 + 3)/2, (1 + 2)/2
            [1.0, 2.0, 3.0],
            [-1.0, -2.0, -3.0],
            [-1.0, -2.0, -3.0],
            0.5,
            [-1.5, 0.0, 1.5],
            "Policy and reference agree, so only the scores count. From each take the mean of the others.",
        ),
        _case(
            "two samples that differ in their penalty alone",  # returns 1 - 0.1 * 2 and 1 + 0.1 * 1
            [1.0, 1.0],
            [-2.0, -5.0],
            [-4.0, -4.0],
            0.1,
            [-0.3, 0.3],
            "A text that the policy likes better than the reference does pays beta times the difference of "
            "the log-probabilities; one that it likes less earns it.",
        ),
        _case(
            "a price above one",  # returns 4 - 2 * 1, 0 - 2 * -1, -1 - 2 * 0, 3 - 2 * 2: 2, 2, -1, -1
            [4.0, 0.0, -1.0, 3.0],
            [-3.0, -6.0, -2.0, -1.0],
            [-4.0, -5.0, -2.0, -3.0],
            2.0,
            [2.0, 2.0, -2.0, -2.0],  # others: (2-1-1)/3 = 0 and (2+2-1)/3 = 1
            "First the returns: score minus beta times (logp - ref_logp). Then the baselines.",
        ),
        _case(
            "scores that are all alike and high",
            [7.0, 7.0, 7.0],
            [-1.0, -1.0, -1.0],
            [-1.0, -1.0, -1.0],
            0.1,
            [0.0, 0.0, 0.0],
            "If all samples are worth the same, there is nothing to learn: every weight is zero.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "no baseline",
            _wrong_baseline(lambda r: r),
            "These are the returns themselves. The gradient is right on average, but a constant added to all "
            "scores makes it very noisy. Subtract the mean of the other samples.",
        ),
        WrongAnswer(
            "the own return in the mean",
            _wrong_baseline(lambda r: r - r.mean()),
            "You subtract the mean of all samples. The own return is in it, so the baseline depends on the "
            "sample that it is subtracted from, and the gradient shrinks by (G-1)/G. Leave the own one out.",
        ),
        WrongAnswer(
            "the penalty left out",
            _wrong_returns(lambda s, d, b: s),
            "You use the scores alone. The return is the score minus beta times (logp - ref_logp): drift "
            "from the reference has a price.",
        ),
        WrongAnswer(
            "the penalty as a bonus",
            _wrong_returns(lambda s, d, b: s + b * d),
            "Your policy is paid for leaving the reference. The penalty is subtracted: "
            "score - beta * (logp - ref_logp).",
        ),
        WrongAnswer(
            "beta left out",
            _wrong_returns(lambda s, d, b: s - d),
            "You charge one point for each nat. The price of a nat is beta.",
        ),
        WrongAnswer(
            "divided by the spread",
            _wrong_baseline(lambda r: (r - _others(r)) / (r.std() + 1e-4)),
            "You divide by the standard deviation as well. That is another estimator: it changes the length "
            "of the gradient from batch to batch. Here only the baseline is asked for.",
        ),
        WrongAnswer(
            "the sign of the loss",
            _wrong_baseline(lambda r: _others(r) - r),
            "Your weights have the opposite sign: good samples would become rarer. The weight is the return "
            "minus the baseline; a minus belongs only in front of the loss.",
        ),
        WrongAnswer(
            "the best of the others",
            _wrong_baseline(lambda r: r - r.max()),
            "You subtract the best return. Then no weight is ever positive, and even the best sample is not "
            "made likelier. Subtract the mean of the other samples.",
        ),
        WrongAnswer(
            "a mean over the batch",
            _wrong_baseline(lambda r: (r - _others(r)) / len(r)),
            "You have divided by the number of samples already. The exercise asks for the weight of each "
            "sample; the mean over samples comes later, with the loss.",
        ),
    ),
    solution=_reinforce_weights,
    praise="A baseline from the other samples leaves the gradient unbiased. This is what RLOO does.",
)
