"""Exercise: the forward pass of a linear layer with LoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _lora_forward(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    scale = alpha / a.shape[0]
    return x @ weight.T + scale * (x @ a.T) @ b.T


def _case(title: str, matrices: list[list[list[float]]], alpha: float, expected: Any, hint: str) -> Case:
    def inputs() -> tuple[Any, ...]:
        import torch

        return (*(torch.tensor(matrix) for matrix in matrices), alpha)

    return Case(title, inputs, expected, hint)


LORA_FORWARD = Exercise(
    name="lora_forward",
    title="The forward pass of LoRA",
    chapter="04_lora",
    difficulty="medium",
    minutes=10,
    cases=(
        # r = 1, so s = alpha = 3. W x = [5 + 12, 15 + 24] = [17, 39]; A x = 5 + 6 = 11;
        # s B A x = 3 · 11 · [2, 0] = [66, 0]
        _case(
            "rank 1 and one input",
            [[[5.0, 6.0]], [[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0]], [[2.0], [0.0]]],
            3.0,
            [[83.0, 39.0]],
            "Add scale * B A x to W x, with scale = alpha / r.",
        ),
        # r = 2, so s = 1 / 2. Row [1, 0, 2]: W x = [1, 4]; A x = [3, -2];
        # B A x = [3, -4]; half of it: [1.5, -2].
        # Row [0, 1, 0]: W x = [1, 0]; A x = [0, 1]; B A x = [0, 2]; half of it: [0, 1].
        _case(
            "rank 2, three inputs, two outputs, two rows",
            [
                [[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]],
                [[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]],
                [[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]],
                [[1.0, 0.0], [0.0, 2.0]],
            ],
            1.0,
            [[2.5, 2.0], [1.0, 1.0]],
            "A is [r, in] and B is [out, r]. The rows of x are inputs, so the product is x @ A.T, then @ "
            "B.T.",
        ),
        # The same with B = 0: W x alone.
        _case(
            "a new adapter, B = 0",
            [[[1.0, 0.0, 2.0]], [[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]], [[1.0, 0.0, 1.0]], [[0.0], [0.0]]],
            16.0,
            [[1.0, 4.0]],
            "With B = 0 the layer must give what it gave before: W x.",
        ),
        # x = [1, 1], W = [[1, 1], [0, 3]]: W x = [2, 3]. A = [[0, 2], [1, 0]]: A x = [2, 1].
        # B = [[1, 1], [0, 1]]: B A x = [3, 1]; s = 4 / 2 = 2: [6, 2]. Sum: [8, 5].
        _case(
            "square matrices, where every order of factors fits",
            [[[1.0, 1.0]], [[1.0, 1.0], [0.0, 3.0]], [[0.0, 2.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]]],
            4.0,
            [[8.0, 5.0]],
            "Shapes do not save you here: first A, then B; and x @ W.T, as torch.nn.Linear does.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the scale forgotten",
            lambda x, w, a, b, alpha: x @ w.T + (x @ a.T) @ b.T,
            "You add B A x without its factor. The update is scaled by alpha / r, in training and at use.",
        ),
        WrongAnswer(
            "alpha not divided by the rank",
            lambda x, w, a, b, alpha: x @ w.T + alpha * (x @ a.T) @ b.T,
            "You multiply by alpha. The factor is alpha / r: with it, an adapter of higher rank does not "
            "start "
            "to learn faster only because it adds more terms.",
        ),
        WrongAnswer(
            "divided by the square root",
            lambda x, w, a, b, alpha: x @ w.T + alpha / a.shape[0] ** 0.5 * (x @ a.T) @ b.T,
            "You divide alpha by the square root of r. That is rank-stabilised LoRA, a variant; here the "
            "factor is alpha / r.",
        ),
        WrongAnswer(
            "the base layer forgotten",
            lambda x, w, a, b, alpha: alpha / a.shape[0] * (x @ a.T) @ b.T,
            "You return the update alone. It is added to what the frozen layer gives: W x.",
        ),
        WrongAnswer(
            "the scale on the base layer too",
            lambda x, w, a, b, alpha: alpha / a.shape[0] * (x @ w.T + (x @ a.T) @ b.T),
            "You scale W x as well. Only the update is scaled, or a new adapter would change the model.",
        ),
        WrongAnswer(
            "the rank read from the wrong axis",
            lambda x, w, a, b, alpha: x @ w.T + alpha / a.shape[1] * (x @ a.T) @ b.T,
            "You divide by the number of inputs. A has the shape [r, in]: the rank is a.shape[0].",
        ),
        WrongAnswer(
            "the weight not transposed",
            lambda x, w, a, b, alpha: x @ w + alpha / a.shape[0] * (x @ a.T) @ b.T,
            "You compute x @ W. A weight in torch has the shape [out, in], so the layer computes x @ W.T. A "
            "square matrix hides the mistake.",
        ),
        WrongAnswer(
            "A and B swapped",
            lambda x, w, a, b, alpha: x @ w.T + alpha / a.shape[0] * (x @ b) @ a,
            "You send x through B first. The input goes down to r numbers through A [r, in], and up again "
            "through B [out, r].",
        ),
    ),
    solution=_lora_forward,
    praise="The product A x has r numbers: the whole update passes through this narrow place.",
)
