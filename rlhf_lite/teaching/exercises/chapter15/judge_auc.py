"""Exercise: how well does a score tell two groups of texts apart?"""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _judge_auc(better: Sequence[float], worse: Sequence[float]) -> float:
    won = sum((b > w) + 0.5 * (b == w) for b in better for w in worse)
    return won / (len(better) * len(worse))


def _case(title: str, better: list[float], worse: list[float], expected: float, hint: str) -> Case:
    return Case(title, lambda: (better, worse), expected, hint)


JUDGE_AUC = Exercise(
    name="judge_auc",
    title="The AUC of a judge, by hand",
    chapter="15_constitutional_ai",
    difficulty="easy",
    minutes=5,
    cases=(
        _case(
            "a judge that makes no mistake, and whose zero is elsewhere",
            [-1.0, -2.0],
            [-4.0, -3.0],
            1.0,
            "All four comparisons are right. Where zero lies does not matter.",
        ),
        _case(
            "one wrong comparison",  # 3>2 yes, 3>0 yes, 1>2 no, 1>0 yes
            [3.0, 1.0],
            [2.0, 0.0],
            0.75,
            "Compare each better text with each worse one: three of four are right.",
        ),
        _case(
            "a judge that says the same about everything",  # two comparisons, both ties
            [0.5],
            [0.5, 0.5],
            0.5,
            "A tie is half a point: a judge that sees no difference is worth a coin.",
        ),
        _case(
            "groups of different size",  # 2>1, 2<5, 2>0 -> 2 of 3; 5: >1, =5, >0 -> 2.5 of 3; 4.5 / 6
            [2.0, 5.0],
            [1.0, 5.0, 0.0],
            0.75,
            "There are two times three comparisons; one of them is a tie.",
        ),
        _case(
            "a judge that has it backwards",  # 1 of 6 right: 3 > 2.5
            [3.0, 1.0],
            [4.0, 2.5, 5.0],
            1 / 6,
            "Only 3 against 2.5 is right. An AUC may lie below one half; then the judge knows something "
            "and says the opposite.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "above or below zero",
            lambda b, w: (sum(x > 0 for x in b) + sum(x <= 0 for x in w)) / (len(b) + len(w)),
            "You compare with zero: that is accuracy at one threshold. A judge that says yes too often is "
            "punished for its bias, although its order may be perfect.",
        ),
        WrongAnswer(
            "ties lost",
            lambda b, w: sum(x > y for x in b for y in w) / (len(b) * len(w)),
            "You give nothing for a tie. A judge that says the same about everything would then look worse "
            "than a coin.",
        ),
        WrongAnswer(
            "ties won",
            lambda b, w: sum(x >= y for x in b for y in w) / (len(b) * len(w)),
            "You give a full point for a tie. A judge that says the same about everything would look "
            "perfect.",
        ),
        WrongAnswer(
            "first with first, second with second",
            lambda b, w: (
                sum((x > y) + 0.5 * (x == y) for x, y in zip(b, w, strict=False)) / min(len(b), len(w))
            ),
            "You compare row by row. The AUC compares each of one group with each of the other.",
        ),
        WrongAnswer(
            "the distance of the means",
            lambda b, w: sum(b) / len(b) - sum(w) / len(w),
            "You return a difference of means. It has the unit of the scores; the AUC knows only their "
            "order.",
        ),
        WrongAnswer(
            "never below one half",
            lambda b, w: max(_judge_auc(b, w), 1 - _judge_auc(b, w)),
            "You turn the judge round if it is wrong. That uses the answers you want to test it on.",
        ),
    ),
    solution=_judge_auc,
    praise="One number for how well a judge orders, whatever its zero and its unit.",
)
