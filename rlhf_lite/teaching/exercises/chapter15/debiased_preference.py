"""Exercise: a preference between two texts from a judge that likes the letter A."""

from __future__ import annotations

import math

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _debiased_preference(a1: float, b1: float, a2: float, b2: float) -> float:
    return _sigmoid(((a1 - b1) + (b2 - a2)) / 2)


def _case(title: str, values: tuple[float, float, float, float], expected: float, hint: str) -> Case:
    return Case(title, lambda: values, expected, hint)


DEBIASED_PREFERENCE = Exercise(
    name="debiased_preference",
    title="A preference without the letter",
    chapter="15_constitutional_ai",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "a judge that says A whatever stands there",  # ((2) + (-2)) / 2 = 0
            (-1.0, -3.0, -1.0, -3.0),
            0.5,
            "Both orders say A by 2 nats. The two texts have then not been told apart: log-odds 2 and -2.",
        ),
        _case(
            "a judge with an opinion and no bias",  # (1 + 1) / 2 = 1, sigmoid(1)
            (-1.0, -2.0, -2.0, -1.0),
            0.7310585786,
            "Log-odds for the first text are 1 in both orders; their mean is 1.",
        ),
        _case(
            "a strong bias and a weak opinion",  # 2 and -2 - -1 = -1: mean 0.5
            (-0.5, -2.5, -1.0, -2.0),
            0.6224593312,
            "The log-odds for the first text are 2 in the first order and -1 in the second: the mean is 0.5.",
        ),
        _case(
            "a judge that prefers B",  # -3 and 2: mean -0.5
            (-4.0, -1.0, -3.0, -1.0),
            0.3775406688,
            "The letter B may be the favourite too: log-odds for the first text are -3 and 2.",
        ),
        _case(
            "letters that are both unlikely",  # 1 and 3: mean 2
            (-9.0, -10.0, -12.0, -9.0),
            0.8807970780,
            "Only differences of log-probabilities count, however unlikely the two letters are.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "one order only",
            lambda a1, b1, a2, b2: _sigmoid(a1 - b1),
            "You asked once. What you see is opinion plus liking for a letter, and nobody can tell which.",
        ),
        WrongAnswer(
            "the sign of the second order",
            lambda a1, b1, a2, b2: _sigmoid(((a1 - b1) + (a2 - b2)) / 2),
            "In the second order the first text stands as B. You added the log-odds of A twice, so the bias "
            "stays and the opinion cancels.",
        ),
        WrongAnswer(
            "the sum for the mean",
            lambda a1, b1, a2, b2: _sigmoid((a1 - b1) + (b2 - a2)),
            "You added the two log-odds. Two questions about the same pair are not two independent "
            "witnesses: take the mean.",
        ),
        WrongAnswer(
            "the mean of probabilities",
            lambda a1, b1, a2, b2: (_sigmoid(a1 - b1) + _sigmoid(b2 - a2)) / 2,
            "You averaged probabilities. A bias that is added to the log-odds cancels in the mean of "
            "log-odds, and only partly in the mean of probabilities.",
        ),
        WrongAnswer(
            "probabilities that were not normalised",
            lambda a1, b1, a2, b2: (math.exp(a1) + math.exp(b2)) / 2,
            "You used the bare probabilities of the letters. Most of the probability lies on other words: "
            "compare the two letters with each other.",
        ),
        WrongAnswer(
            "log-odds for a probability",
            lambda a1, b1, a2, b2: ((a1 - b1) + (b2 - a2)) / 2,
            "These are the log-odds, in nats. The logistic function turns them into a probability.",
        ),
    ),
    solution=_debiased_preference,
    praise="What depends on the place alone is gone. What is left may be little, but it is about the texts.",
)
