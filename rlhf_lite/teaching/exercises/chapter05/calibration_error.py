"""Exercise: the expected calibration error."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _bins(p: list[float], y: list[float], bins: int) -> list[tuple[float, float, int]]:
    """Mean forecast, mean outcome and size of every bin that is not empty."""
    members: list[list[int]] = [[] for _ in range(bins)]
    for i, value in enumerate(p):
        members[min(int(value * bins), bins - 1)].append(i)
    return [
        (sum(p[i] for i in rows) / len(rows), sum(y[i] for i in rows) / len(rows), len(rows))
        for rows in members
        if rows
    ]


def _calibration_error(probabilities: list[float], outcomes: list[float], bins: int) -> float:
    parts = _bins(probabilities, outcomes, bins)
    return sum(n * abs(observed - predicted) for predicted, observed, n in parts) / len(probabilities)


def _case(title: str, p: list[float], y: list[float], bins: int, expected: float, hint: str) -> Case:
    return Case(title, lambda: (list(p), list(y), bins), expected, hint)


def _over_parts(combine: Callable[[list[tuple[float, float, int]], int], float]) -> Callable[..., float]:
    return lambda p, y, bins: combine(_bins(p, y, bins), bins)


CALIBRATION_ERROR = Exercise(
    name="calibration_error",
    title="Expected calibration error",
    chapter="05_reward_modelling",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "forecasts that come true as often as they say",  # one bin: mean forecast 0.75, 3 of 4 came true
            [0.75, 0.75, 0.75, 0.75],
            [1, 1, 1, 0],
            5,
            0.0,
            "Inside one bin compare the mean forecast with the share that came true.",
        ),
        _case(
            "one overconfident bin",  # mean forecast 0.9, half of them came true
            [0.85, 0.95],
            [1, 0],
            5,
            0.4,
            "The gap of a bin is the distance between its mean forecast and its mean outcome.",
        ),
        _case(
            "bins of different size",  # gaps 0.1 (one forecast) and 0.3 (three): (1*0.1 + 3*0.3) / 4
            [0.1, 0.7, 0.7, 0.7],
            [0, 1, 1, 1],
            2,
            0.25,
            "A bin with three forecasts weighs three times as much as a bin with one.",
        ),
        _case(
            "gaps of opposite sign",  # bins: 0.3 against 0.5 (+0.2) and 0.9 against 0.5 (-0.4), two each
            [0.3, 0.3, 0.9, 0.9],
            [0, 1, 1, 0],
            2,
            0.3,
            "Too high in one bin and too low in another are both wrong: take the distance in every bin.",
        ),
        _case(
            "forecasts of exactly 0 and 1",  # bins: 0 against 0, and 1 against 0.5, two forecasts each
            [0.0, 0.0, 1.0, 1.0],
            [0, 0, 1, 0],
            10,
            0.25,
            "A forecast of exactly 1 belongs to the last bin.",
        ),
        _case(
            "many empty bins",  # gaps 0.05 and 0.05 in two of a hundred bins
            [0.05, 0.95],
            [0, 1],
            100,
            0.05,
            "Empty bins have weight zero. Do not divide by the number of bins.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "bins that count the same",
            _over_parts(lambda parts, bins: sum(abs(o - q) for q, o, _ in parts) / len(parts)),
            "You take the plain mean over the bins. A bin with three forecasts must weigh three times as "
            "much as a bin with one.",
        ),
        WrongAnswer(
            "empty bins counted",
            _over_parts(lambda parts, bins: sum(abs(o - q) for q, o, _ in parts) / bins),
            "You divide by the number of bins, empty ones included: more bins then make any model look "
            "calibrated. Weigh each bin by its share of the forecasts.",
        ),
        WrongAnswer(
            "no bins",
            lambda p, y, bins: sum(abs(a - b) for a, b in zip(p, y, strict=True)) / len(p),
            "You compare each forecast with its own outcome. An outcome is 0 or 1, so even a perfect "
            "forecast of one half would be wrong by one half. Average inside a bin first.",
        ),
        WrongAnswer(
            "one bin for all",
            lambda p, y, bins: abs(sum(p) - sum(y)) / len(p),
            "You compare two overall means. Too high here and too low there cancel; bins keep them apart.",
        ),
        WrongAnswer(
            "gaps that cancel",
            _over_parts(
                lambda parts, bins: sum(n * (o - q) for q, o, n in parts) / sum(n for *_, n in parts)
            ),
            "You add gaps with their sign, and they cancel. Take the distance in each bin.",
        ),
        WrongAnswer(
            "the largest gap",
            _over_parts(lambda parts, bins: max(abs(o - q) for q, o, _ in parts)),
            "You return the largest gap. That is the maximum calibration error; this one is the mean, "
            "weighted by the size of the bins.",
        ),
        WrongAnswer(
            "squared gaps",
            _over_parts(
                lambda parts, bins: sum(n * (o - q) ** 2 for q, o, n in parts) / sum(n for *_, n in parts)
            ),
            "You square the gaps. That is another, respectable measure; this one takes distances.",
        ),
        WrongAnswer(
            "a sum, not a mean",
            _over_parts(lambda parts, bins: sum(n * abs(o - q) for q, o, n in parts)),
            "You forget to divide by the number of forecasts.",
        ),
    ),
    solution=_calibration_error,
    praise="A model can be calibrated and useless: one that always says one half has no error here.",
)
