"""Exercise: how much of the returns does the critic predict?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    v, r = values[mask], returns[mask]
    return float(1 - (r - v).var() / r.var())


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    import torch

    return torch.corrcoef(torch.stack([a, b]))[0, 1]


def _variance_case(
    title: str,
    values: list[list[float]],
    returns: list[list[float]],
    mask: list[list[int]],
    expected: float,
    hint: str,
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor]:
        import torch

        return torch.tensor(values), torch.tensor(returns), torch.tensor(mask).bool()

    return Case(title, inputs, expected, hint)


EXPLAINED_VARIANCE = Exercise(
    name="explained_variance",
    title="Is the critic of any use?",
    chapter="09_ppo_on_a_language_model",
    difficulty="medium",
    minutes=10,
    cases=(
        _variance_case(
            "a critic that halves the errors",  # R - V = -1 0 1, R = -2 0 2: variances 1 and 4
            [[-1.0, 0.0, 1.0]],
            [[-2.0, 0.0, 2.0]],
            [[1, 1, 1]],
            0.75,
            "Take the variance of what is left, R - V, relative to the variance of R.",
        ),
        _variance_case(
            "a critic that says the same everywhere",  # R - V has the variance of R
            [[5.0, 5.0, 5.0]],
            [[-2.0, 0.0, 2.0]],
            [[1, 1, 1]],
            0.0,
            "A constant explains nothing, however wrong it is: subtracting it leaves the variance as it was.",
        ),
        _variance_case(
            "a critic that is off by a constant",  # R - V = 3 everywhere
            [[-5.0, -3.0, -1.0]],
            [[-2.0, 0.0, 2.0]],
            [[1, 1, 1]],
            1.0,
            "A constant error has no variance. (It shows in the value loss instead.)",
        ),
        _variance_case(
            "a critic that has it backwards",  # R - V = -4 0 4: variance 16 against 4
            [[2.0, 0.0, -2.0]],
            [[-2.0, 0.0, 2.0]],
            [[1, 1, 1]],
            -3.0,
            "A critic can be worse than none: then the number is negative. Do not cut it off.",
        ),
        _variance_case(
            "padding that holds other numbers",  # counted: V = 0 1 2, R = 0 2 4; left 0 1 2: 1 against 4
            [[0.0, 1.0, 9.0], [2.0, -9.0, 9.0]],
            [[0.0, 2.0, 0.0], [4.0, 0.0, 0.0]],
            [[1, 1, 0], [1, 0, 0]],
            0.75,
            "Only positions with mask True enter, from all rows together.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the mean square for the variance",
            lambda v, r, m: 1 - ((r - v)[m] ** 2).mean() / r[m].var(correction=0),
            "You use the mean squared error. A constant offset then looks terrible, although the advantages, "
            "once whitened, do not notice it.",
        ),
        WrongAnswer(
            "the squared correlation",
            lambda v, r, m: _correlation(v[m], r[m]).nan_to_num(0.0) ** 2,
            "You return the squared correlation. It praises a critic with the right shape and the wrong "
            "size, and even one that has it backwards.",
        ),
        WrongAnswer(
            "the variance of the values",
            lambda v, r, m: v[m].var() / r[m].var(),
            "You divide the variance of V by that of R. Values that vary a lot need not vary in the right "
            "places.",
        ),
        WrongAnswer(
            "the mask forgotten",
            lambda v, r, m: 1 - (r - v).var() / r.var(),
            "You count padding, where values and returns mean nothing.",
        ),
        WrongAnswer(
            "standard deviations",
            lambda v, r, m: 1 - (r - v)[m].std() / r[m].std(),
            "You compare standard deviations. Take variances, the squares.",
        ),
        WrongAnswer(
            "what is left, not what is explained",
            lambda v, r, m: (r - v)[m].var() / r[m].var(),
            "You return the unexplained share. One minus that is the explained one.",
        ),
        WrongAnswer(
            "cut off at zero",
            lambda v, r, m: max(0.0, float(1 - (r - v)[m].var() / r[m].var())),
            "You cut negative values off, and hide exactly the case that needs attention: a critic that is "
            "worse than none.",
        ),
        WrongAnswer(
            "relative to the values",
            lambda v, r, m: 1 - (r - v)[m].var() / v[m].var(),
            "You divide by the variance of V. The returns are what is to be explained.",
        ),
    ),
    solution=_explained_variance,
    praise="Look at this number first when PPO learns slowly: below zero the critic adds noise.",
)
