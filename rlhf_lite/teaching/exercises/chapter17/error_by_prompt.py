"""Exercise: the standard error of a win rate when prompts have several comparisons."""

from __future__ import annotations

from statistics import mean, pvariance, variance

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

Rows = list[float]


def _means(outcomes: Rows, prompts: list[int]) -> Rows:
    return [
        mean(y for y, prompt in zip(outcomes, prompts, strict=True) if prompt == wanted)
        for wanted in sorted(set(prompts))
    ]


def _error_by_prompt(outcomes: Rows, prompts: list[int]) -> float:
    means = _means(outcomes, prompts)
    return (variance(means) / len(means)) ** 0.5


def _coin(outcomes: Rows, prompts: list[int]) -> float:
    p = mean(outcomes)
    return (p * (1 - p) / len(outcomes)) ** 0.5


def _case(title: str, outcomes: Rows, prompts: list[int], expected: float, hint: str) -> Case:
    return Case(title, lambda: (list(outcomes), list(prompts)), expected, hint)


ERROR_BY_PROMPT = Exercise(
    name="error_by_prompt",
    title="A standard error over prompts",
    chapter="17_evaluation",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "one comparison for each prompt",  # mean 0.5, variance (4 · 0.25) / 3 = 1/3; sqrt(1/3 / 4)
            [1.0, 0.0, 1.0, 0.0], [0, 1, 2, 3], 0.288675135,
            "Four prompts with one outcome each: variance 1/3 (with n - 1), divided by 4, and the root.",
        ),
        _case(
            "samples that agree within their prompt",  # means 1, 0, 1: variance 1/3; sqrt(1/3 / 3) = 1/3
            [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [0, 0, 0, 1, 1, 1, 2, 2, 2], 1 / 3,
            "Nine outcomes, but only three prompts: average within each prompt first.",
        ),
        _case(
            "prompts that are not sorted, and a tie",  # means .5, .75, .25, variance .0625; sqrt(.0625 / 3)
            [1.0, 0.5, 0.0, 0.0, 1.0, 0.5], [7, 3, 9, 7, 3, 9], 0.144337567,
            "The rows of a prompt need not stand together: collect them by their name.",
        ),
        _case(
            "prompts with different numbers of samples",  # means 0.75, 0, 1, 1; mean .6875
            # variance: (.00390625 + .47265625 + 2 · .09765625) / 3 = .223958333; / 4 -> sqrt(.055989583)
            [1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0], [0, 0, 0, 0, 1, 2, 3], 0.236621182,
            "Each prompt counts once, however many samples it has.",
        ),
    ),
    wrong_answers=(
        WrongAnswer("every comparison on its own",
                    lambda y, g: (variance(y) / len(y)) ** 0.5,
                    "You treat all comparisons as independent. Samples of one prompt share its "
                    "difficulty: average them first, and let the prompts be the unit."),
        WrongAnswer("the formula of a coin", _coin,
                    "That is the error of n throws of a coin. It ignores that samples of one prompt "
                    "belong together, and that ties are less variable than wins and losses."),
        WrongAnswer("divided by the number of comparisons",
                    lambda y, g: (variance(_means(y, g)) / len(y)) ** 0.5,
                    "You average by prompt, but then divide by the number of comparisons. Divide by the "
                    "number of prompts."),
        WrongAnswer("the variance with n",
                    lambda y, g: (pvariance(_means(y, g)) / len(_means(y, g))) ** 0.5,
                    "You divide the squares by P, not by P - 1. With few prompts that is too optimistic."),
        WrongAnswer("the spread itself",
                    lambda y, g: variance(_means(y, g)) ** 0.5,
                    "That is how much single prompts differ. The error of their mean is smaller, by the "
                    "root of the number of prompts."),
        WrongAnswer("the root forgotten",
                    lambda y, g: variance(_means(y, g)) / len(_means(y, g)),
                    "That is the variance of the mean. The standard error is its root."),
    ),
    solution=_error_by_prompt,
    praise="More samples of the same prompts soon stop helping. More prompts always do.",
)  # fmt: skip
