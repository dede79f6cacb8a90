"""Exercise: what is wrong with this DPO run?"""

from __future__ import annotations

import math
from collections.abc import Callable

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

_WRONG, _FOLLOWS, _SWAPPED, _NONE = "wrong reference", "reference follows", "labels swapped", "none of these"
LN2 = math.log(2.0)

Question = Callable[[float, float, float], bool]


def _off(first_loss: float, last_margin: float, accuracy: float) -> bool:
    return abs(first_loss - LN2) > 0.01


def _still(first_loss: float, last_margin: float, accuracy: float) -> bool:
    return abs(last_margin) < 1e-6


def _backwards(first_loss: float, last_margin: float, accuracy: float) -> bool:
    return accuracy < 0.4


def _ask(*questions: tuple[Question, str]) -> Callable[[float, float, float], str]:
    def answer(first_loss: float, last_margin: float, accuracy: float) -> str:
        for question, name in questions:
            if question(first_loss, last_margin, accuracy):
                return name
        return _NONE

    return answer


_OFF, _STILL, _BACK = (_off, _WRONG), (_still, _FOLLOWS), (_backwards, _SWAPPED)
_diagnose_dpo = _ask(_OFF, _STILL, _BACK)


def _case(title: str, log: tuple[float, float, float], expected: str, hint: str) -> Case:
    return Case(title, lambda: log, expected, hint)


DIAGNOSE_DPO = Exercise(
    name="diagnose_dpo",
    title="What is wrong with this run?",
    chapter="12_dpo",
    difficulty="easy",
    minutes=10,
    cases=(
        _case(
            "a first loss far above log 2",
            (0.94, 0.8, 0.66),
            _WRONG,
            "Before the first step the policy is the reference: every margin is zero, every loss log 2.",
        ),
        _case(
            "a healthy log",
            (0.6931, 0.9, 0.72),
            _NONE,
            "The first loss is log 2, the margin has grown, and held-out pairs are told apart.",
        ),
        _case(
            "a first loss below log 2",
            (0.45, 0.9, 0.71),
            _WRONG,
            "A low loss at step one is no gift: nothing has been learnt yet, so the two policies differ.",
        ),
        _case(
            "a margin of exactly zero",
            (0.6931, 0.0, 0.5),
            _FOLLOWS,
            "The policy is compared with itself: the reference takes every step along with it.",
        ),
        _case(
            "held-out pairs told apart the wrong way round",
            (0.6931, 1.1, 0.21),
            _SWAPPED,
            "The training margin looks fine, and held-out pairs with correct labels come out reversed.",
        ),
        _case(
            "two troubles at once",
            (0.60, 0.5, 0.30),
            _WRONG,
            "Ask in the order given: with a wrong reference the later numbers mean little.",
        ),
        _case(
            "a coin toss on held-out pairs, and no margin",
            (0.6932, 0.0, 0.35),
            _FOLLOWS,
            "Ask in the order given: a margin of exactly zero comes before the accuracy.",
        ),
        _case(
            "a run that learnt little",
            (0.6930, -0.02, 0.46),
            _NONE,
            "A margin that is small or slightly negative is not *exactly* zero, and 0.46 is not below 0.4.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "only a high first loss",
            _ask((lambda loss, margin, accuracy: loss > LN2 + 0.01, _WRONG), _STILL, _BACK),
            "You let a first loss *below* log 2 pass. It is as impossible as one above: before the first "
            "step policy and reference must agree.",
        ),
        WrongAnswer(
            "bits for nats",
            _ask((lambda loss, margin, accuracy: abs(loss - 1.0) > 0.01, _WRONG), _STILL, _BACK),
            "You expect a first loss of one. In bits a coin toss costs one; in nats it costs log 2.",
        ),
        WrongAnswer(
            "a small margin taken for none",
            _ask(_OFF, (lambda loss, margin, accuracy: margin < 0.05, _FOLLOWS), _BACK),
            "A small or negative margin can be bad luck or too few steps. A reference that follows gives "
            "*exactly* zero.",
        ),
        WrongAnswer(
            "every accuracy below one half",
            _ask(_OFF, _STILL, (lambda loss, margin, accuracy: accuracy < 0.5, _SWAPPED)),
            "On a few hundred pairs a coin toss often falls below one half. Swapped labels push the accuracy "
            "far below.",
        ),
        WrongAnswer(
            "the accuracy first",
            _ask(_BACK, _OFF, _STILL),
            "You look at the accuracy first. With a wrong reference, or none, it is not to be trusted.",
        ),
        WrongAnswer(
            "the follower forgotten",
            _ask(_OFF, _BACK),
            "You never ask whether the margin moved at all.",
        ),
        WrongAnswer(
            "the first loss forgotten",
            _ask(_STILL, _BACK),
            "You do not look at the first loss. It is the cheapest test: one number, before training.",
        ),
    ),
    solution=_diagnose_dpo,
    praise="Three numbers, and none of them is the training loss at the end.",
)
