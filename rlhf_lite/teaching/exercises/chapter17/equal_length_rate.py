"""Exercise: length control by hand, for a judge that only sees which text is longer."""

from __future__ import annotations

import math

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def _equal_length_rate(won_longer: int, longer: int, won_shorter: int, shorter: int) -> float:
    return _sigmoid((_logit(won_longer / longer) + _logit(won_shorter / shorter)) / 2)


def _weighted(a: int, n: int, b: int, m: int) -> float:
    return _sigmoid((n * _logit(a / n) + m * _logit(b / m)) / (n + m))


def _case(title: str, counts: tuple[int, int, int, int], expected: float, hint: str) -> Case:
    return Case(title, lambda: counts, expected, hint)


EQUAL_LENGTH_RATE = Exercise(
    name="equal_length_rate",
    title="Length control by hand",
    chapter="17_evaluation",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "a judge that looks at length alone",  # odds 4 and 1/4: logits cancel
            (64, 80, 4, 20), 0.5,
            "The odds are 4 when longer and 1/4 when shorter: their logs cancel, so nothing is left but "
            "length.",
        ),
        _case(
            "a policy that is worse, and mostly longer",  # odds 1 and 1/9: sqrt(1/9) = 1/3 -> 1/4
            (45, 90, 1, 10), 0.25,
            "Odds 1 when longer, 1/9 when shorter. The mean of the logs is the log of 1/3, a rate of 1/4.",
        ),
        _case(
            "a policy that is better at any length",  # odds 9 and 1: sqrt(9) = 3 -> 3/4
            (27, 30, 5, 10), 0.75,
            "Odds 9 and 1: the mean of the logs is log 3.",
        ),
        _case(
            "a judge that likes short texts",  # odds 2/3 and 6: sqrt(4) = 2 -> 2/3
            (8, 20, 60, 70), 2 / 3,
            "Length may count in either direction; the formula is the same.",
        ),
    ),
    wrong_answers=(
        WrongAnswer("all comparisons in one pot", lambda a, n, b, m: (a + b) / (n + m),
                    "That is the plain win rate. It rewards a policy for being the longer one more often."),
        WrongAnswer("the mean of the two rates", lambda a, n, b, m: (a / n + b / m) / 2,
                    "You average the two rates. The model adds length up in log-odds: average the logits"
                    " and turn the result back into a rate."),
        WrongAnswer("weighted by how often", _weighted,
                    "You weight the two logits by their numbers. The weights bring the imbalance of "
                    "lengths back in; at equal length neither side has more weight."),
        WrongAnswer("only the shorter texts", lambda a, n, b, m: b / m,
                    "You look at the shorter texts alone. That is a handicap in the other direction: "
                    "equal length lies in the middle."),
        WrongAnswer("only the longer texts", lambda a, n, b, m: a / n,
                    "You look at the longer texts alone: there the bonus for length is all in."),
        WrongAnswer("log-odds not turned back", lambda a, n, b, m: (_logit(a / n) + _logit(b / m)) / 2,
                    "You stop at the log-odds. The logistic function makes a rate of them."),
    ),
    solution=_equal_length_rate,
    praise="This is a logistic regression with one feature, +1 for longer and -1 for shorter, solved by "
    "hand.",
)  # fmt: skip
