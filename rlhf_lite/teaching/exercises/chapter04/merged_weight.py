"""Exercise: merge an adapter into a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _merged_weight(weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    return weight + alpha / a.shape[0] * (b @ a)


def _case(
    title: str, weight: list[list[float]], a: Any, b: Any, alpha: float, expected: Any, hint: str
) -> Case:
    def inputs() -> tuple[Any, ...]:
        import torch

        return torch.tensor(weight), torch.tensor(a), torch.tensor(b), alpha

    return Case(title, inputs, expected, hint)


MERGED_WEIGHT = Exercise(
    name="merged_weight",
    title="Merge an adapter",
    chapter="04_lora",
    difficulty="easy",
    minutes=5,
    cases=(
        _case(
            "rank 1",  # s = 2; B A = [[3, 0], [6, 0]]
            [[1.0, 1.0], [1.0, 1.0]],
            [[3.0, 0.0]],
            [[1.0], [2.0]],
            2.0,
            [[7.0, 1.0], [13.0, 1.0]],
            "Add alpha / r times the matrix product B A.",
        ),
        _case(
            "rank 2",  # s = 1 / 2; B A = [[2, 4], [0, 8]]
            [[0.0, 1.0], [2.0, 3.0]],
            [[1.0, 2.0], [0.0, 4.0]],
            [[2.0, 0.0], [0.0, 2.0]],
            1.0,
            [[1.0, 3.0], [2.0, 7.0]],
            "The factor is alpha divided by the rank, and the rank is a.shape[0].",
        ),
        _case(
            "a weight that is not square",  # s = 1; B A = [[2, 0, 2], [4, 0, 4]]
            [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
            [[1.0, 0.0, 1.0]],
            [[2.0], [4.0]],
            1.0,
            [[2.0, 0.0, 3.0], [5.0, 0.0, 4.0]],
            "The product must have the shape of W, [out, in]: that is B A.",
        ),
        _case(
            "square A and B, where both orders fit",  # s = 2 / 2; B A = [[1, 1], [0, 0]] @ [[1, 0], [3, 1]]
            [[0.0, 0.0], [0.0, 0.0]],
            [[1.0, 0.0], [3.0, 1.0]],
            [[1.0, 1.0], [0.0, 0.0]],
            2.0,
            [[4.0, 1.0], [0.0, 0.0]],
            "The order matters: B @ A, not A @ B, and neither is transposed.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the scale forgotten",
            lambda w, a, b, alpha: w + b @ a,
            "You add B A without alpha / r. The merged model is then another model than the one you trained, "
            "and nothing crashes.",
        ),
        WrongAnswer(
            "alpha not divided by the rank",
            lambda w, a, b, alpha: w + alpha * (b @ a),
            "You multiply by alpha. The factor is alpha / r, as in training.",
        ),
        WrongAnswer(
            "divided by the square root",
            lambda w, a, b, alpha: w + alpha / a.shape[0] ** 0.5 * (b @ a),
            "You divide alpha by the square root of r. That is rank-stabilised LoRA; here the factor is "
            "alpha / r.",
        ),
        WrongAnswer(
            "the update alone",
            lambda w, a, b, alpha: alpha / a.shape[0] * (b @ a),
            "You return the update. Merging adds it to W.",
        ),
        WrongAnswer(
            "subtracted",
            lambda w, a, b, alpha: w - alpha / a.shape[0] * (b @ a),
            "You subtract the update. That is how a merge is undone.",
        ),
        WrongAnswer(
            "transposed",
            lambda w, a, b, alpha: w + alpha / a.shape[0] * (b @ a).T,
            "You add the transposed product. W has the shape [out, in], and so has B A.",
        ),
        WrongAnswer(
            "A times B",
            lambda w, a, b, alpha: w + alpha / a.shape[0] * (a @ b),
            "You multiply A by B. That is an r × r matrix (or does not fit at all); the update is B A.",
        ),
    ),
    solution=_merged_weight,
    praise="A merged model costs what the bare model costs, and it needs no LoRA code to run.",
)
