"""Exercise: how far apart does IPO want two texts, in each of its two forms?"""

from __future__ import annotations

import math

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _ipo_target_gap(tau: float, win_rate: float, tokens: int, form: str) -> float:
    gap = (win_rate - 0.5) / tau
    return gap * tokens if form == "mean" else gap


def _case(
    title: str, tau: float, win_rate: float, tokens: int, form: str, expected: float, hint: str
) -> Case:
    return Case(title, lambda: (tau, win_rate, tokens, form), expected, hint)


IPO_TARGET_GAP = Exercise(
    name="ipo_target_gap",
    title="Where IPO wants the gap to be",
    chapter="13_preference_losses",
    difficulty="easy",
    minutes=5,
    cases=(
        _case(
            "a pair whose winner always wins",  # 1/(2 tau) = 1/0.2
            0.1, 1.0, 20, "sum", 5.0,
            "With a win rate of one the square (h - 1/(2 tau))^2 is smallest at h = 1/(2 tau).",
        ),
        _case(
            "the same pair in the form with means",  # 5 nats per token, 20 tokens
            0.1, 1.0, 20, "mean", 100.0,
            "In this form the gap per token is 1/(2 tau). A text has `tokens` of them.",
        ),
        _case(
            "a win rate of three quarters",  # 0.75 * 5 - 0.25 * 5, the mean of the targets +5 and -5
            0.1, 0.75, 20, "sum", 2.5,
            "Weigh the two squares by 0.75 and 0.25: the minimum is the mean of their targets, +5 and -5.",
        ),
        _case(
            "two texts that win equally often",
            0.05, 0.5, 8, "mean", 0.0,
            "If each wins half of the time, the two targets cancel.",
        ),
        _case(
            "a text that usually loses",  # (0.25 - 0.5) / 0.5 = -0.5 nats per token, 8 tokens
            0.5, 0.25, 8, "mean", -4.0,
            "Below one half the gap is negative: the first text must fall.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the win rate ignored",
            lambda tau, p, n, form: 0.5 / tau * (n if form == "mean" else 1),
            "1/(2 tau) is the target of one label. When the other text sometimes wins, its label pulls the "
            "other way, and the minimum of the mean loss is (p - 1/2)/tau.",
        ),
        WrongAnswer(
            "DPO's target",
            lambda tau, p, n, form: (
                math.log(p / (1 - p)) / tau * (n if form == "mean" else 1) if 0 < p < 1 else math.inf
            ),
            "That is where DPO wants the gap: the log-odds, divided by beta, infinite for a win rate of one. "
            "IPO's target is (p - 1/2)/tau, which is always finite. That is its whole point.",
        ),
        WrongAnswer(
            "lengths forgotten",
            lambda tau, p, n, form: (p - 0.5) / tau,
            "In the form with means this is the gap *per token*. The question is about whole texts.",
        ),
        WrongAnswer(
            "divided by the length",
            lambda tau, p, n, form: (p - 0.5) / tau / (n if form == "mean" else 1),
            "The loss divides log-ratios by the number of tokens. So the log-ratio of the whole text is the "
            "target *times* the number of tokens.",
        ),
        WrongAnswer(
            "tau multiplied",
            lambda tau, p, n, form: (p - 0.5) * tau * (n if form == "mean" else 1),
            "A larger tau keeps the policy nearer to the reference, so the target shrinks: divide by tau.",
        ),
        WrongAnswer(
            "the forms exchanged",
            lambda tau, p, n, form: (p - 0.5) / tau * (n if form == "sum" else 1),
            "You multiply by the length in the form with sums. There h is already a gap of whole texts.",
        ),
        WrongAnswer(
            "the factor two forgotten",
            lambda tau, p, n, form: (2 * p - 1) / tau * (n if form == "mean" else 1),
            "The target of a sure label is 1/(2 tau), not 1/tau.",
        ),
    ),
    solution=_ipo_target_gap,
    praise="The same tau asks for twenty times as much on texts of twenty tokens: always say which form.",
)
