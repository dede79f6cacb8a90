"""Exercise: how often does the model agree with one person?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _single_rater_accuracy(right: Tensor, agreement: Tensor) -> float:
    return float((right * agreement + (1 - right) * (1 - agreement)).mean())


def _rater_case(title: str, right: list[float], agreement: list[float], expected: float, hint: str) -> Case:
    def inputs() -> tuple[Tensor, Tensor]:
        import torch

        return torch.tensor(right).double(), torch.tensor(agreement).double()

    return Case(title, inputs, expected, hint)


SINGLE_RATER_ACCURACY = Exercise(
    name="single_rater_accuracy",
    title="How often does the model agree with one person?",
    chapter="05_reward_modelling",
    difficulty="easy",
    minutes=5,
    cases=(
        _rater_case(
            "a model that is always right",  # (0.9 + 0.6) / 2: the ceiling
            [1.0, 1.0],
            [0.9, 0.6],
            0.75,
            "Where the model sides with the mean, a random rater agrees with probability `agreement`.",
        ),
        _rater_case(
            "a model that is always wrong",  # (0.1 + 0.4) / 2
            [0.0, 0.0],
            [0.9, 0.6],
            0.25,
            "Where the model sides against the mean, it still agrees with those raters who did the same.",
        ),
        _rater_case(
            "one right and one wrong",  # (0.9 + 0.4) / 2
            [1.0, 0.0],
            [0.9, 0.6],
            0.65,
            "Treat each pair by itself: agreement where the model is right, one minus it where it is wrong.",
        ),
        _rater_case(
            "a tie",  # tie: one half whatever the raters say; (0.5 + 0.8) / 2
            [0.5, 1.0],
            [1.0, 0.8],
            0.65,
            "A tie is half right and half wrong.",
        ),
        _rater_case(
            "pairs that divide everybody",  # nobody can do better than a coin
            [1.0, 0.0, 1.0],
            [0.5, 0.5, 0.5],
            0.5,
            "Where raters are split evenly, every answer agrees with half of them.",
        ),
        _rater_case(
            "four pairs",  # (0.8 + 0.4 + 1.0 + 0.3) / 4
            [1.0, 0.0, 1.0, 0.0],
            [0.8, 0.6, 1.0, 0.7],
            0.625,
            "Add the four probabilities and divide by four.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the raters forgotten",
            lambda right, a: right.mean(),
            "That is the accuracy against the mean ratings. A single rater contradicts the mean now and "
            "then.",
        ),
        WrongAnswer(
            "the model forgotten",
            lambda right, a: a.mean(),
            "That is the ceiling: what somebody would reach who knew every mean rating. The model is not "
            "always right.",
        ),
        WrongAnswer(
            "nothing for a wrong answer",
            lambda right, a: (right * a).mean(),
            "You give nothing where the model is wrong. But some raters disagree with the mean, and those "
            "agree with the model.",
        ),
        WrongAnswer(
            "the product of the means",
            lambda right, a: right.mean() * a.mean(),
            "You multiply two averages. Whether the model is right depends on the pair, and so does the "
            "agreement: combine them pair by pair, then average.",
        ),
        WrongAnswer(
            "the means mixed",
            lambda right, a: right.mean() * a.mean() + (1 - right.mean()) * (1 - a.mean()),
            "You average first and combine afterwards. Models are mostly right on the pairs that people "
            "agree on: combine pair by pair.",
        ),
        WrongAnswer(
            "the share of the ceiling",
            lambda right, a: (right * a + (1 - right) * (1 - a)).mean() / a.mean(),
            "You divide by the ceiling. The exercise asks for the agreement itself.",
        ),
        WrongAnswer(
            "weights",
            lambda right, a: (right * a).sum() / a.sum(),
            "You take an average of `right` with the agreement as weight. The question is how often a random "
            "rater gives the same answer as the model.",
        ),
    ),
    solution=_single_rater_accuracy,
    praise="With a model that is always right it gives the ceiling of section 5.",
)
