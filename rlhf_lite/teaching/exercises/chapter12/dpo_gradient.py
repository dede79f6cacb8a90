"""Exercise: how strongly does a pair push its two answers?"""

from __future__ import annotations

import math

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

LN3 = math.log(3.0)


def _sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z))


def _margin(pw: float, pl: float, qw: float, ql: float) -> float:
    return (pw - qw) - (pl - ql)


def _dpo_gradient(pw: float, pl: float, qw: float, ql: float, beta: float) -> list[float]:
    weight = beta * _sigmoid(-beta * _margin(pw, pl, qw, ql))
    return [-weight, weight]


def _with_weight(weight: float) -> list[float]:
    return [-weight, weight]


def _each_on_its_own(pw: float, pl: float, qw: float, ql: float, beta: float) -> list[float]:
    return [-beta * _sigmoid(-beta * (pw - qw)), beta * _sigmoid(beta * (pl - ql))]


def _case(
    title: str,
    logps: tuple[float, float, float, float],
    beta: float,
    expected: list[float],
    hint: str,
) -> Case:
    return Case(title, lambda: (*logps, beta), expected, hint)


DPO_GRADIENT = Exercise(
    name="dpo_gradient",
    title="The two slopes of a pair",
    chapter="12_dpo",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "a policy that is still the reference",  # h = 0: 0.4 * 1/2
            (-3.0, -5.0, -3.0, -5.0),
            0.4,
            [-0.2, 0.2],
            "The slopes are -beta * sigmoid(-beta h) and +beta * sigmoid(-beta h); here h = 0.",
        ),
        _case(
            "a pair that is already right",  # h = 1.5 - 0.5 = 1, z = ln 3: LN3 * 1/4
            (-1.5, -4.5, -3.0, -5.0),
            LN3,
            [-LN3 / 4, LN3 / 4],
            "The better a pair is told apart, the weaker it pushes: 1/4 of beta is left at a margin of ln 3.",
        ),
        _case(
            "a pair that is wrong",  # h = -1.5 - 0.5 = -2, z = -ln 3: LN3/2 * 3/4
            (-4.5, -4.5, -3.0, -5.0),
            LN3 / 2,
            [-LN3 * 3 / 8, LN3 * 3 / 8],
            "A wrong pair pushes with more than half of beta.",
        ),
        _case(
            "both answers less likely than before",  # h = -1 - (-3) = 2, z = ln 9: LN3 * 1/10
            (-4.0, -8.0, -3.0, -5.0),
            LN3,
            [-LN3 / 10, LN3 / 10],
            "Only the margin h counts, not whether the answers rose or fell: here h = -1 - (-3) = 2.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the weight upside down",
            lambda pw, pl, qw, ql, b: _with_weight(b * _sigmoid(b * _margin(pw, pl, qw, ql))),
            "You weigh by sigmoid(+beta h): pairs that are right already would push most, and margins would "
            "run away. It is the wrong pairs that push.",
        ),
        WrongAnswer(
            "beta forgotten in front",
            lambda pw, pl, qw, ql, b: _with_weight(_sigmoid(-b * _margin(pw, pl, qw, ql))),
            "The chain rule brings out a factor beta: the margin inside the sigmoid is beta times h.",
        ),
        WrongAnswer(
            "beta forgotten inside",
            lambda pw, pl, qw, ql, b: _with_weight(b * _sigmoid(-_margin(pw, pl, qw, ql))),
            "The sigmoid is taken of beta times h, not of h.",
        ),
        WrongAnswer(
            "the signs exchanged",
            lambda pw, pl, qw, ql, b: _dpo_gradient(pw, pl, qw, ql, b)[::-1],
            "These are the directions in which the answers move. The slope of a loss points the other way: "
            "gradient descent goes against it.",
        ),
        WrongAnswer(
            "each answer on its own",
            _each_on_its_own,
            "You look at each answer alone. In DPO both slopes have the same size, and it depends on the "
            "margin between the two.",
        ),
        WrongAnswer(
            "the rejected answer forgotten",
            lambda pw, pl, qw, ql, b: [_dpo_gradient(pw, pl, qw, ql, b)[0], 0.0],
            "The rejected answer is pushed down exactly as hard as the chosen one is pushed up.",
        ),
        WrongAnswer(
            "the reference forgotten",
            lambda pw, pl, qw, ql, b: _dpo_gradient(pw, pl, 0.0, 0.0, b),
            "The margin compares log-ratios: subtract the reference's log-probabilities.",
        ),
        WrongAnswer(
            "always half",
            lambda pw, pl, qw, ql, b: _with_weight(b / 2),
            "That is the slope before the first step. It changes with the margin: DPO does not push all "
            "pairs alike.",
        ),
    ),
    solution=_dpo_gradient,
    praise="Equal and opposite: so DPO cares only about the difference, a fact with consequences.",
)
