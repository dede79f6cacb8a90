"""Exercise: how many comparisons does a win rate need?"""

from __future__ import annotations

import math

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _n(rate: float, z_level: float, z_power: float) -> float:
    reach = z_level * 0.5 + z_power * math.sqrt(rate * (1 - rate))
    return (reach / (rate - 0.5)) ** 2


def _comparisons_for(rate: float, z_level: float, z_power: float) -> int:
    return math.ceil(_n(rate, z_level, z_power))


def _case(title: str, inputs: tuple[float, float, float], expected: float, hint: str) -> Case:
    return Case(title, lambda: inputs, expected, hint)


COMPARISONS_FOR = Exercise(
    name="comparisons_for",
    title="How many comparisons does a win rate need?",
    chapter="17_evaluation",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "a rate of 0.6 and a power of 80 per cent",
            # (.98 + .84 · .489898)² / .01 = 1.391514² · 100 = 193.63
            (0.6, 1.96, 0.84), 194,
            "Half of 1.96, plus 0.84 times the root of 0.24, divided by 0.1, squared, rounded up.",
        ),
        _case(
            "a rate below one half",  # as above: the square forgets the sign
            (0.4, 1.96, 0.84), 194,
            "It takes as many to show that a policy is worse.",
        ),
        _case(
            "a small advantage",  # (.98 + .84 · .49749)² / .0025 = 1.397892² · 400 = 781.6
            (0.55, 1.96, 0.84), 782,
            "Half the difference needs four times the comparisons.",
        ),
        _case(
            "a large advantage and a power of 90 per cent",  # (.98 + 1.28 · .4)² / .09 = 1.492² / .09 = 24.73
            (0.8, 1.96, 1.28), 25,
            "The spread under the true rate is the root of 0.16.",
        ),
    ),
    wrong_answers=(
        WrongAnswer("no power", lambda p, a, b: math.ceil((a * 0.5 / (p - 0.5)) ** 2),
                    "You leave out the power. With so few comparisons a true difference is found only "
                    "half of the time."),
        WrongAnswer("the square forgotten",
                    lambda p, a, b: math.ceil((a * 0.5 + b * math.sqrt(p * (1 - p))) / abs(p - 0.5)),
                    "You forget to square. The error falls with the root of n, so n grows with the square."),
        WrongAnswer("the distance from zero",
                    lambda p, a, b: math.ceil(((a * 0.5 + b * math.sqrt(p * (1 - p))) / p) ** 2),
                    "You divide by the rate. Equally good is one half, so the difference is rate - 1/2."),
        WrongAnswer("variances for spreads",
                    lambda p, a, b: math.ceil(((a * 0.25 + b * p * (1 - p)) / (p - 0.5)) ** 2),
                    "You use p (1 - p), which is a variance. The formula needs its root."),
        WrongAnswer("two groups",
                    lambda p, a, b: math.ceil(2 * _n(p, a, b)),
                    "You double the number, as for two separate groups. Here each comparison is one "
                    "observation."),
        WrongAnswer("rounded down", lambda p, a, b: math.floor(_n(p, a, b)),
                    "You round down: then the power is just missed. Round up."),
        WrongAnswer("the two squared apart",
                    lambda p, a, b: math.ceil(((a * 0.5) ** 2 + b * b * p * (1 - p)) / (p - 0.5) ** 2),
                    "You square the two parts and then add. Add first: the true rate must lie both "
                    "distances away from one half."),
    ),
    solution=_comparisons_for,
    praise="Write this number down before the evaluation, not after it.",
)  # fmt: skip
