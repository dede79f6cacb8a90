"""Exercise: two success rates on unequal mixtures of prompts."""

from __future__ import annotations

from statistics import mean

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

Counts = list[int]


def _differences(a: Counts, n: Counts, b: Counts, m: Counts) -> list[float]:
    return [w / x - v / y for w, x, v, y in zip(a, n, b, m, strict=True)]


def _same_mix_difference(a_good: Counts, a_all: Counts, b_good: Counts, b_all: Counts) -> float:
    return mean(_differences(a_good, a_all, b_good, b_all))


def _largest(a: Counts, n: Counts, b: Counts, m: Counts) -> float:
    place = max(range(len(n)), key=lambda i: n[i] + m[i])
    return _differences(a, n, b, m)[place]


def _by_first(a: Counts, n: Counts, b: Counts, m: Counts) -> float:
    return sum(x * d for x, d in zip(n, _differences(a, n, b, m), strict=True)) / sum(n)


def _share_of_kinds(a: Counts, n: Counts, b: Counts, m: Counts) -> float:
    return mean(float(d > 0) for d in _differences(a, n, b, m))


def _case(title: str, counts: tuple[Counts, ...], expected: float, hint: str) -> Case:
    return Case(title, lambda: tuple(list(column) for column in counts), expected, hint)


SAME_MIX_DIFFERENCE = Exercise(
    name="same_mix_difference",
    title="The same mixture of prompts for both",
    chapter="17_evaluation",
    difficulty="hard",
    minutes=15,
    cases=(
        _case(
            "equal mixtures",  # .8 - .6 = .2 and .3 - .2 = .1
            ([40, 15], [50, 50], [30, 10], [50, 50]), 0.15,
            "The difference is 0.2 on the first kind of prompt and 0.1 on the second.",
        ),
        _case(
            "a policy that answered mostly the easy prompts",
            # .8 - .9 = -.1, .2 - .4 = -.2; pooled: .74 - .45
            ([72, 2], [90, 10], [9, 36], [10, 90]), -0.15,
            "It is worse on both kinds, and looks better in one pot, because it was asked easier questions.",
        ),
        _case(
            "three kinds",  # .5 - .25 = .25, .6 - .8 = -.2, 1 - .9 = .1
            ([10, 30, 20], [20, 50, 20], [5, 8, 36], [20, 10, 40]), 0.05,
            "Give each of the three kinds the same weight.",
        ),
        _case(
            "better on one kind only",  # .9 - .5 = .4, .1 - .2 = -.1, .3 - .3 = 0
            ([9, 9, 3], [10, 90, 10], [20, 4, 15], [40, 20, 50]), 0.1,
            "Differences 0.4, -0.1 and 0.",
        ),
    ),
    wrong_answers=(
        WrongAnswer("all in one pot", lambda a, n, b, m: sum(a) / sum(n) - sum(b) / sum(m),
                    "You add up over the kinds first. If one policy was asked more easy prompts, that "
                    "shows as quality. Compare within each kind, then average."),
        WrongAnswer("the first policy's mixture", _by_first,
                    "You weight the kinds by how often the first policy met them. The answer then "
                    "depends on whom you name first. Equal weights were asked for."),
        WrongAnswer("the largest kind", _largest,
                    "You look at the most frequent kind alone. The others count as much."),
        WrongAnswer("the second minus the first", lambda a, n, b, m: -_same_mix_difference(a, n, b, m),
                    "You subtract the first policy from the second one."),
        WrongAnswer("the share of kinds won", _share_of_kinds,
                    "You count on how many kinds the first policy is better. How much better counts too."),
        WrongAnswer("the sum over kinds", lambda a, n, b, m: sum(_differences(a, n, b, m)),
                    "You add the differences and do not divide by the number of kinds."),
    ),
    solution=_same_mix_difference,
    praise="Simpson's paradox cannot happen when both policies answer the same prompts. That is why this"
    " book always pairs them.",
)  # fmt: skip
