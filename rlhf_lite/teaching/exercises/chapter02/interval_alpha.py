"""Exercise: Krippendorff's alpha of a tiny table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

Table = Sequence[Sequence[float]]


def _within(table: Table) -> float:
    """Mean squared difference between raters of the same text; a score counts once."""
    used = [row for row in table if len(row) > 1]
    n = sum(len(row) for row in used)
    return sum(
        2 * sum((a - b) ** 2 for a, b in combinations(row, 2)) / (len(row) - 1) for row in used
    ) / n  # fmt: skip


def _between(scores: Sequence[float]) -> float:
    pairs = list(combinations(scores, 2))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


def _interval_alpha(table: Table) -> float:
    return 1 - _within(table) / _between([score for row in table if len(row) > 1 for score in row])


def _all_scores(table: Table) -> list[float]:
    return [score for row in table for score in row]


def _pairs_pooled(table: Table) -> float:
    inside = [(a - b) ** 2 for row in table for a, b in combinations(row, 2)]
    used = [score for row in table if len(row) > 1 for score in row]
    return 1 - sum(inside) / len(inside) / _between(used)


def _with_itself(table: Table) -> float:
    used = [score for row in table if len(row) > 1 for score in row]
    return 1 - _within(table) / (sum((a - b) ** 2 for a in used for b in used) / len(used) ** 2)


def _absolute(table: Table) -> float:
    used = [row for row in table if len(row) > 1]
    scores = [score for row in used for score in row]
    inside = sum(2 * sum(abs(a - b) for a, b in combinations(row, 2)) / (len(row) - 1) for row in used)
    pairs = list(combinations(scores, 2))
    return 1 - inside / len(scores) / (sum(abs(a - b) for a, b in pairs) / len(pairs))


def _nominal(table: Table) -> float:
    used = [row for row in table if len(row) > 1]
    scores = [score for row in used for score in row]
    inside = sum(2 * sum(a != b for a, b in combinations(row, 2)) / (len(row) - 1) for row in used)
    pairs = list(combinations(scores, 2))
    return 1 - inside / len(scores) / (sum(a != b for a, b in pairs) / len(pairs))


def _single_kept(table: Table) -> float:
    return 1 - _within(table) / _between(_all_scores(table))


def _case(title: str, table: Table, expected: float, hint: str) -> Case:
    return Case(title, lambda: ([list(row) for row in table],), expected, hint)


INTERVAL_ALPHA = Exercise(
    name="interval_alpha",
    title="Krippendorff's alpha of a tiny table",
    chapter="02_human_feedback",
    difficulty="hard",
    minutes=20,
    cases=(
        _case(
            "two raters who always agree",
            [[-2, -2], [1, 1], [3, 3]],
            1.0,
            "No disagreement was observed, so alpha is 1.",
        ),
        _case(
            "two texts with two raters each",
            # Observed: text one (0 - 2)^2 = 4 for each of its 2 scores, text two 0: 8 / 4 = 2.
            # Expected: scores 0 2 2 2, six pairs, three of them differ by 2: 3 * 4 / 6 = 2.
            [[0, 2], [2, 2]],
            0.0,
            "Observed: the mean over the four scores of the squared difference to the other rater. Expected: "
            "the mean squared difference over all six pairs of the four scores.",
        ),
        _case(
            "texts with different numbers of raters",
            # Observed: text one: 3 scores, mean squared difference of its pairs (0, 1, 1): 2/3; text two: 2
            # scores, 4. Mean over the five scores: (3 * 2/3 + 2 * 4) / 5 = 2.
            # Expected: 1 1 2 -1 -3, pairs: 0 1 4 16, 1 4 16, 9 25, 4: 80 / 10 = 8.
            [[1, 1, 2], [-1, -3]],
            0.75,
            "Every score counts once, so a text weighs as much as it has raters: take the mean squared "
            "difference within each text, weighted by its number of raters.",
        ),
        _case(
            "a text with a single rater",
            # The 4 is left out, and the rest is the case above.
            [[1, 1, 2], [4], [-1, -3]],
            0.75,
            "A text with one rater says nothing about agreement: leave it out of the observed and of the "
            "expected disagreement.",
        ),
        _case(
            "raters who contradict each other",
            # Observed: each text 4^2 = 16, so 16. Expected: 2 -2 -2 2: four of six pairs differ by 4: 64 / 6.
            # Alpha = 1 - 16 * 6 / 64 = -1/2.
            [[2, -2], [-2, 2]],
            -0.5,
            "Alpha may be negative: people then agree less than scores dealt out at random.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "texts with one rater kept",
            _single_kept,
            "You let the text with a single rater into the expected disagreement. Nobody could agree or "
            "disagree there: leave it out of both.",
        ),
        WrongAnswer(
            "all pairs of raters pooled",
            _pairs_pooled,
            "You pool all pairs of raters. Then a text with many raters weighs by its number of pairs. Every "
            "score counts once: weight the texts by their number of raters.",
        ),
        WrongAnswer(
            "a score paired with itself",
            _with_itself,
            "In the expected disagreement you also compare each score with itself, which is never a "
            "disagreement. Use pairs of two different scores.",
        ),
        WrongAnswer(
            "absolute differences",
            _absolute,
            "You use absolute differences. At the interval level a disagreement is the squared difference.",
        ),
        WrongAnswer(
            "any difference counts alike",
            _nominal,
            "You count whether two scores differ, whatever the distance. That is the nominal level; here, "
            "use "
            "the squared difference.",
        ),
        WrongAnswer(
            "one minus forgotten",
            lambda table: 1 - _interval_alpha(table),
            "You return observed over expected disagreement. Alpha is one minus that.",
        ),
        WrongAnswer(
            "observed disagreement alone",
            lambda table: 1 - _within(table),
            "You do not divide by the disagreement that chance would give. Without it, texts that are all "
            "alike "
            "would seem to be rated well.",
        ),
    ),
    solution=_interval_alpha,
    praise="This is what the library computes, at the level called interval.",
)
