"""Exercise: how often does the majority of several votes mislabel a pair?"""

from __future__ import annotations

from math import comb

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _majority_flip(p: float, votes: int) -> float:
    total = 0.0
    for right in range(votes + 1):
        chance = comb(votes, right) * p**right * (1 - p) ** (votes - right)
        if 2 * right < votes:
            total += chance
        elif 2 * right == votes:
            total += 0.5 * chance
    return total


def _tail(p: float, votes: int, *, tie: float) -> float:
    terms = [comb(votes, k) * p**k * (1 - p) ** (votes - k) for k in range(votes + 1)]
    return sum(t * (1.0 if 2 * k < votes else tie if 2 * k == votes else 0.0) for k, t in enumerate(terms))


def _no_ways(p: float, votes: int) -> float:
    terms = [p**k * (1 - p) ** (votes - k) for k in range(votes + 1)]
    return sum(t * (1.0 if 2 * k < votes else 0.5 if 2 * k == votes else 0.0) for k, t in enumerate(terms))


def _case(title: str, p: float, votes: int, expected: float, hint: str) -> Case:
    return Case(title, lambda: (p, votes), expected, hint)


MAJORITY_FLIP = Exercise(
    name="majority_flip",
    title="How often does a majority mislabel a pair?",
    chapter="02_human_feedback",
    difficulty="medium",
    minutes=10,
    cases=(
        _case("one vote", 0.8, 1, 0.2, "With one vote the label is wrong when that vote is wrong: 1 - p."),
        _case(
            "three votes",  # none right 0.2^3 = 0.008, one right 3 * 0.8 * 0.2^2 = 0.096
            0.8,
            3,
            0.104,
            "Add up the chances of 0 right votes and of 1 right vote. One right vote can be any of three: "
            "math.comb(3, 1) ways.",
        ),
        _case(
            "two votes, which may tie",  # none right 0.04, plus half of the tie 2 * 0.8 * 0.2 = 0.32
            0.8,
            2,
            0.2,
            "One vote each way is a tie. A coin decides it, so half of that chance counts as wrong.",
        ),
        _case(
            "five votes of a coin",  # symmetric: wrong as often as right
            0.5,
            5,
            0.5,
            "When every vote is a coin, the majority is a coin too.",
        ),
        _case(
            "raters who are mostly wrong",  # none right 0.7^3 = 0.343, one right 3 * 0.3 * 0.49 = 0.441
            0.3,
            3,
            0.784,
            "Below one half, more votes make it worse. The formula is the same.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the probability of a right label",
            lambda p, votes: 1 - _majority_flip(p, votes),
            "You return the probability that the majority is right. The exercise asks how often it is wrong.",
        ),
        WrongAnswer(
            "ties forgotten",
            lambda p, votes: _tail(p, votes, tie=0.0),
            "You leave out the ties. With an even number of votes they are common, and a coin decides them: "
            "half of their chance is a wrong label.",
        ),
        WrongAnswer(
            "ties counted as wrong",
            lambda p, votes: _tail(p, votes, tie=1.0),
            "You count every tie as a wrong label. A coin decides a tie, so only half of them are wrong.",
        ),
        WrongAnswer(
            "all votes wrong",
            lambda p, votes: (1 - p) ** votes,
            "You return the chance that every single vote is wrong. A wrong majority is enough.",
        ),
        WrongAnswer(
            "the number of ways forgotten",
            _no_ways,
            "You count one order of the votes only. k right votes can be chosen in math.comb(votes, k) ways.",
        ),
        WrongAnswer(
            "one vote whatever the number",
            lambda p, votes: 1 - p,
            "You return the error of one vote. Asking more people must change something.",
        ),
        WrongAnswer(
            "error divided by the number of votes",
            lambda p, votes: (1 - p) / votes,
            "You divide the error by the number of votes. Noise does not shrink that way: five votes of a "
            "coin "
            "are still a coin.",
        ),
    ),
    solution=_majority_flip,
    praise="With an even number of votes, the last vote bought nothing. Buy odd numbers.",
)
