"""Exercise: mean zero and standard deviation one, over the tokens that count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-8


def _whiten(x: Tensor, mask: Tensor) -> Tensor:
    import torch

    kept = x[mask]
    white = (x - kept.mean()) / torch.sqrt(kept.var() + _EPS)
    return torch.where(mask, white, 0.0)


def _case(title: str, x, mask, expected, hint: str) -> Case:
    def inputs() -> tuple[Tensor, Tensor]:
        import torch

        return torch.tensor(x, dtype=torch.float64), torch.tensor(mask).bool()

    return Case(title, inputs, expected, hint)


def _over_padding(x: Tensor, mask: Tensor) -> Tensor:
    kept = x * mask
    return (kept - kept.mean()) / (kept.var() + _EPS).sqrt() * mask


def _per_row(x: Tensor, mask: Tensor) -> Tensor:
    import torch

    return torch.stack([_whiten(row, counts) for row, counts in zip(x, mask, strict=True)])


def _scaled(formula) -> object:
    """A wrong answer from a formula in (x, the counted entries), set to 0 where the mask is False."""

    def function(x: Tensor, mask: Tensor) -> Tensor:
        import torch

        return torch.where(mask, formula(x, x[mask]), 0.0)

    return function


WHITEN_ADVANTAGES = Exercise(
    name="whiten_advantages",
    title="Whitening with a mask",
    chapter="08_policy_gradients_to_ppo",
    difficulty="easy",
    minutes=8,
    cases=(
        _case(
            "one row without padding",  # mean 4, squares 4 + 0 + 4, variance 8/2 = 4
            [[2.0, 4.0, 6.0]],
            [[1, 1, 1]],
            [[-1.0, 0.0, 1.0]],
            "Subtract the mean, divide by the standard deviation of the sample (variance: n - 1).",
        ),
        _case(
            "two rows of different length",  # counted 1, 3, 5, 7, 9: mean 5, squares 40, variance 40/4 = 10
            [[1.0, 3.0, 5.0], [7.0, 9.0, 100.0]],
            [[1, 1, 1], [1, 1, 0]],
            [
                [-4 / 10**0.5, -2 / 10**0.5, 0.0],
                [2 / 10**0.5, 4 / 10**0.5, 0.0],
            ],
            "Mean and variance are those of all counted tokens of the batch together. The padding takes no "
            "part, and comes back as 0.",
        ),
        _case(
            "advantages that are all positive",  # mean 10, squares 9 + 1 + 1 + 1, variance 12/3 = 4
            [[13.0, 9.0, -5.0], [9.0, 9.0, 70.0]],
            [[1, 1, 0], [1, 1, 0]],
            [[1.5, -0.5, 0.0], [-0.5, -0.5, 0.0]],
            "After whitening the mean is zero: the worst of many good tokens gets a negative advantage.",
        ),
        _case(
            "advantages that are all equal",
            [[3.0, 3.0, 8.0], [3.0, 3.0, 3.0]],
            [[1, 1, 0], [1, 1, 1]],
            [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
            "Their variance is zero. Add 1e-8 to the variance before the root, so that the answer is 0 and "
            "not a division by zero.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "padding in the mean",
            _over_padding,
            "Your mean and variance include the padding as zeros. Then the result depends on how long the "
            "longest text of the batch happens to be. Use x[mask].",
        ),
        WrongAnswer(
            "the mask ignored",
            lambda x, m: (x - x.mean()) / (x.var() + _EPS).sqrt(),
            "You use all entries. What stands in the padding means nothing: use the counted entries alone, "
            "and return 0 elsewhere.",
        ),
        WrongAnswer(
            "padding not set to zero",
            lambda x, m: (x - x[m].mean()) / (x[m].var() + _EPS).sqrt(),
            "Mean and variance are right, but the padding comes back as a number. Return 0 where the mask is "
            "False.",
        ),
        WrongAnswer(
            "divided by the variance",
            _scaled(lambda x, k: (x - k.mean()) / (k.var() + _EPS)),
            "You divide by the variance. Divide by its root, the standard deviation.",
        ),
        WrongAnswer(
            "not centred",
            _scaled(lambda x, k: x / (k.var() + _EPS).sqrt()),
            "You only scale. Whitening subtracts the mean first.",
        ),
        WrongAnswer(
            "not scaled",
            _scaled(lambda x, k: x - k.mean()),
            "You only subtract the mean. Divide by the standard deviation as well.",
        ),
        WrongAnswer(
            "the mean added back",
            _scaled(lambda x, k: (x - k.mean()) / (k.var() + _EPS).sqrt() + k.mean()),
            "You add the mean back after scaling. Some code does so for rewards; the advantages of this "
            "exercise shall have mean zero.",
        ),
        WrongAnswer(
            "row by row",
            _per_row,
            "You whiten each row by itself. Then a text whose tokens are all good looks like one whose "
            "tokens are all bad. Use the counted tokens of the whole batch.",
        ),
        WrongAnswer(
            "divided by n",
            _scaled(lambda x, k: (x - k.mean()) / (k.var(correction=0) + _EPS).sqrt()),
            "You divide the squares by n. OpenAI's code does that too; this exercise, and TRL, use n - 1.",
        ),
    ),
    solution=_whiten,
    praise="This is functional.masked_whiten.",
    tolerance=1e-5,
)
