"""Exercise: recognise a loss by its slope against the gap."""

from __future__ import annotations

import math
from collections.abc import Callable

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

GAPS = (-60.0, -30.0, 0.0, 30.0, 60.0)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _dpo(h: float, beta: float) -> float:
    return -beta * _sigmoid(-beta * h)


def _conservative(h: float, beta: float, eps: float) -> float:
    return beta * (_sigmoid(beta * h) - (1 - eps))


def _robust(h: float, beta: float, eps: float) -> float:
    return -beta * ((1 - eps) * _sigmoid(-beta * h) + eps * _sigmoid(beta * h)) / (1 - 2 * eps)


def _hinge(h: float, beta: float) -> float:
    return -beta if beta * h < 1 else 0.0


def _ipo(h: float, tau: float) -> float:
    return 2 * (h - 0.5 / tau)


def _which_loss(slopes: list[float]) -> str:
    first, second, middle, _, last = slopes
    if last > 0:  # pulls back from a gap that is too wide: conservative DPO and IPO
        return "ipo" if math.isclose(middle - second, second - first) else "conservative"
    if last == 0:
        return "hinge"
    return "dpo" if abs(last) < 0.01 * abs(first) else "robust"


def _sign_only(slopes: list[float]) -> str:
    return "conservative" if slopes[-1] > 0 else "dpo"


def _case(title: str, slope: Callable[[float], float], expected: str, hint: str) -> Case:
    return Case(title, lambda: ([slope(h) for h in GAPS],), expected, hint)


WHICH_LOSS = Exercise(
    name="which_loss",
    title="Which loss is it?",
    chapter="13_preference_losses",
    difficulty="hard",
    minutes=15,
    cases=(
        _case(
            "DPO's slopes",  # -0.5 sigma(30), ..., -0.5 sigma(-30) = -5e-14: small, not zero
            lambda h: _dpo(h, 0.5),
            "dpo",
            "Steep while the gap is wrong, and almost flat, though never quite, once it is wide and right.",
        ),
        _case(
            "the hinge's slopes",  # zero from h = 2 on
            lambda h: _hinge(h, 0.5),
            "hinge",
            "The last slopes are exactly zero: beyond its target this loss does not care.",
        ),
        _case(
            "slopes on a straight line",  # 2 (h - 5): -130, -70, -10, 50, 110
            lambda h: _ipo(h, 0.1),
            "ipo",
            "The slope of a square is a straight line: equal steps in the gap, equal steps in the slope.",
        ),
        _case(
            "conservative DPO's slopes",  # from -0.5 * 0.75 to +0.5 * 0.25
            lambda h: _conservative(h, 0.5, 0.25),
            "conservative",
            "The slope turns positive at wide gaps, and then stays where it is.",
        ),
        _case(
            "robust DPO's slopes",  # from -0.5 * 0.75 / 0.5 = -0.75 to -0.5 * 0.25 / 0.5 = -0.25
            lambda h: _robust(h, 0.5, 0.25),
            "robust",
            "The slope is negative at every gap and does not fade: it levels off far below zero.",
        ),
        _case(
            "a gentle conservative loss",  # beta 0.4, eps 0.01: ends at 0.4 * 0.01 = 0.004
            lambda h: _conservative(h, 0.4, 0.01),
            "conservative",
            "The last slope is small, and positive.",
        ),
        _case(
            "a robust loss with a small flip rate",  # ends at -0.4 * 0.05 / 0.9 = -0.022; starts at -0.422
            lambda h: _robust(h, 0.4, 0.05),
            "robust",
            "The last slope is a twentieth of the first: small, but not fading away.",
        ),
        _case(
            "a strongly regularised IPO",  # tau 1: 2 (h - 0.5)
            lambda h: _ipo(h, 1.0),
            "ipo",
            "Is the step from the first slope to the second as large as that from the second to the third?",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "always DPO", lambda slopes: "dpo", "You always answer DPO. Look at the slopes at wide gaps."
        ),
        WrongAnswer(
            "the last sign only",
            _sign_only,
            "The sign of the last slope only tells those that pull back from those that do not.",
        ),
        WrongAnswer(
            "IPO and conservative DPO mixed up",
            lambda slopes: {"ipo": "conservative", "conservative": "ipo"}.get(
                _which_loss(slopes), _which_loss(slopes)
            ),
            "You have the two that pull back the wrong way round. IPO's slope is a straight line, "
            "conservative DPO's levels off.",
        ),
        WrongAnswer(
            "robust and conservative mixed up",
            lambda slopes: {"robust": "conservative", "conservative": "robust"}.get(
                _which_loss(slopes), _which_loss(slopes)
            ),
            "You have robust and conservative DPO the wrong way round. Conservative: 'part of the labels is "
            "wrong, so do not become too sure', and the slope turns round. Robust: 'part of the labels is "
            "wrong, so the others count more', and it never does.",
        ),
        WrongAnswer(
            "robust taken for DPO",
            lambda slopes: "dpo" if _which_loss(slopes) == "robust" else _which_loss(slopes),
            "DPO's slope fades to nothing at wide gaps. Robust DPO's levels off at a negative number.",
        ),
        WrongAnswer(
            "the hinge taken for DPO",
            lambda slopes: "dpo" if _which_loss(slopes) == "hinge" else _which_loss(slopes),
            "DPO's slope becomes tiny, the hinge's becomes exactly zero.",
        ),
        WrongAnswer(
            "tiny taken for zero",
            lambda slopes: "hinge" if abs(slopes[-1]) < 1e-6 else _which_loss(slopes),
            "A very small slope is not zero. DPO never stops pushing, however gently: that is why its gaps "
            "grow without end on labels that never contradict each other.",
        ),
    ),
    solution=_which_loss,
    praise="You can now read a loss off its gradient, which is all that the optimiser ever sees.",
)
