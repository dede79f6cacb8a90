"""Exercise: the probability that one text is preferred, from two scores."""

from __future__ import annotations

import math

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _bradley_terry(score_a: float, score_b: float) -> float:
    difference = score_a - score_b
    if difference >= 0:
        return 1 / (1 + math.exp(-difference))
    return math.exp(difference) / (1 + math.exp(difference))


def _rating_case(title: str, a: float, b: float, expected: float, hint: str) -> Case:
    return Case(title, lambda: (a, b), expected, hint)


BRADLEY_TERRY = Exercise(
    name="bradley_terry",
    title="From two scores to a probability",
    chapter="00_quickstart",
    difficulty="easy",
    minutes=5,
    cases=(
        _rating_case(
            "two equal scores", 1.5, 1.5, 0.5, "Equal scores mean that either text may win: one half."
        ),
        _rating_case(
            "a difference of ln 3",  # 1 / (1 + 1/3)
            math.log(3.0) + 2.0,
            2.0,
            0.75,
            "A difference of ln 3 means odds of 3 to 1: apply the logistic function to score_a - score_b.",
        ),
        _rating_case(
            "two negative scores",  # difference -ln 4: odds of 1 to 4
            -3.0 - math.log(4.0),
            -3.0,
            0.2,
            "Scores may be negative. Only their difference counts.",
        ),
        _rating_case("a score of zero", 0.0, -math.log(9.0), 0.9, "Zero is a score like any other."),
        _rating_case(
            "a very large difference",
            1000.0,
            0.0,
            1.0,
            "Large scores must not overflow: choose the form of the logistic function whose exponent is "
            "negative.",
        ),
        _rating_case(
            "a very large difference the other way",
            0.0,
            1000.0,
            0.0,
            "Large scores must not overflow: choose the form of the logistic function whose exponent is "
            "negative.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "a and b swapped",
            lambda a, b: _bradley_terry(b, a),
            "You return the probability that b wins. Swap the two scores.",
        ),
        WrongAnswer(
            "overflow in the logistic function",
            lambda a, b: 1 / (1 + math.exp(b - a)),
            "The formula is right, but math.exp of a large number overflows. For a negative difference d use "
            "exp(d) / (1 + exp(d)), or torch.sigmoid, which does this for you.",
        ),
        WrongAnswer(
            "overflow in the softmax",
            lambda a, b: math.exp(a) / (math.exp(a) + math.exp(b)),
            "The formula is right, but math.exp of a large score overflows. Only the difference of the "
            "scores matters: subtract first, then use the form whose exponent is negative.",
        ),
        WrongAnswer(
            "a ratio of the scores",
            lambda a, b: a / (a + b),
            "You divide the scores themselves. In the original model the strengths are positive; here a "
            "score is the logarithm of a strength, so it may be negative or zero. Take exponentials first.",
        ),
        WrongAnswer(
            "a hard decision",
            lambda a, b: 1.0 if a > b else 0.5 if a == b else 0.0,
            "You say that the higher score always wins. People disagree: a small difference gives a "
            "probability near one half.",
        ),
        WrongAnswer(
            "one score only",
            lambda a, b: _bradley_terry(a, 0.0),
            "You use score_a alone. A score means something only compared with another one.",
        ),
        WrongAnswer(
            "chess ratings",
            lambda a, b: 1 / (1 + 10 ** ((b - a) / 400)),
            "That is the scale of chess ratings (Elo: base 10, divided by 400). Here scores are in nats: "
            "base e.",
        ),
        WrongAnswer(
            "the normal distribution",
            lambda a, b: 0.5 * (1 + math.erf((a - b) / math.sqrt(2))),
            "That is the model of Thurstone, with the normal distribution. Bradley and Terry use the "
            "logistic function, which has heavier tails.",
        ),
        WrongAnswer(
            "the log-probability",
            lambda a, b: -math.log1p(math.exp(-(a - b))) if a - b > -500 else a - b,
            "You return the logarithm of the probability. That is what the loss needs; the exercise asks "
            "for the probability itself.",
        ),
    ),
    solution=_bradley_terry,
    praise="Minus the logarithm of this probability is the loss of every reward model in this book.",
)
