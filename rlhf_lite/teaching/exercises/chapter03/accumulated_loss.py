"""Exercise: the loss of a batch that was cut into micro-batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

    Parts = list[Tensor]


def _sums(losses: Parts, masks: Parts) -> list[float]:
    import torch

    return [float(torch.where(m, x, 0.0).sum()) for x, m in zip(losses, masks, strict=True)]


def _counts(masks: Parts) -> list[int]:
    return [int(m.sum()) for m in masks]


def _means(losses: Parts, masks: Parts) -> list[float]:
    return [total / n for total, n in zip(_sums(losses, masks), _counts(masks), strict=True)]


def _accumulated_loss(losses: Parts, masks: Parts) -> float:
    return sum(_sums(losses, masks)) / sum(_counts(masks))


def _mean_of_texts(losses: Parts, masks: Parts) -> float:
    import torch

    rows = [
        float(torch.where(m, x, 0.0).sum() / m.sum())
        for part, mask in zip(losses, masks, strict=True)
        for x, m in zip(part, mask, strict=True)
    ]
    return sum(rows) / len(rows)


def _weighted_by_texts(losses: Parts, masks: Parts) -> float:
    weighted = [mean * len(part) for mean, part in zip(_means(losses, masks), losses, strict=True)]
    return sum(weighted) / sum(map(len, losses))


def _parts_case(
    title: str, losses: list[list[list[float]]], masks: list[list[list[int]]], expected: float, hint: str
) -> Case:
    def inputs() -> tuple[Parts, Parts]:
        import torch

        return [torch.tensor(part) for part in losses], [torch.tensor(part).bool() for part in masks]

    return Case(title, inputs, expected, hint)


ACCUMULATED_LOSS = Exercise(
    name="accumulated_loss",
    title="One batch in several pieces",
    chapter="03_supervised_fine_tuning",
    difficulty="easy",
    minutes=5,
    cases=(
        _parts_case(
            "a short and a long micro-batch",  # (4 + 1 + 1 + 2) / 4
            [[[4.0]], [[1.0, 1.0, 2.0]]],
            [[[1]], [[1, 1, 1]]],
            2.0,
            "Add up the losses of all tokens that count, over all micro-batches, and divide once.",
        ),
        _parts_case(
            "padding",  # (3 + 1 + 2 + 2 + 2) / 5
            [[[3.0, 1.0, 9.0], [2.0, 9.0, 9.0]], [[2.0, 2.0]]],
            [[[1, 1, 0], [1, 0, 0]], [[1, 1]]],
            2.0,
            "Only tokens with mask True belong to the sum, and only they are counted.",
        ),
        _parts_case(
            "texts of different length in each micro-batch",  # (1 + 1 + 1 + 5 + 2 + 6) / 6 = 16 / 6
            [[[1.0, 1.0, 1.0], [5.0, 0.0, 0.0]], [[2.0, 6.0]]],
            [[[1, 1, 1], [1, 0, 0]], [[1, 1]]],
            16 / 6,
            "Every token weighs the same, wherever the batch was cut.",
        ),
        _parts_case(
            "infinity on a position that does not count",  # (1 + 3) / 2
            [[[1.0, float("inf")]], [[3.0, float("inf")]]],
            [[[1, 0]], [[1, 0]]],
            2.0,
            "A position that does not count may hold anything. Zero times infinity is NaN: use torch.where.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "a mean of means",
            lambda losses, masks: sum(_means(losses, masks)) / len(losses),
            "You take the mean of each micro-batch and then the mean of those. A token in a short one "
            "then weighs more than one in a long micro-batch. Divide once, by all tokens together.",
        ),
        WrongAnswer(
            "a sum of means",
            lambda losses, masks: sum(_means(losses, masks)),
            "You add up the means of the micro-batches: twice as many pieces, twice the loss, twice the "
            "gradient. Add up sums, and divide once by all tokens.",
        ),
        WrongAnswer(
            "a mean over texts",
            _mean_of_texts,
            "You take the mean within each text first, so a token of a short text weighs more. Some recipes "
            "want that; the loss of this chapter is a mean over tokens.",
        ),
        WrongAnswer(
            "weighted by the number of texts",
            _weighted_by_texts,
            "You weigh each micro-batch by its number of texts. Weigh it by its number of counted tokens: "
            "or, simpler, add up the sums and divide once.",
        ),
        WrongAnswer(
            "padding counted",
            lambda losses, masks: sum(float(x.sum()) for x in losses) / sum(x.numel() for x in losses),
            "You use every position, the padding included. Only positions with mask True count.",
        ),
        WrongAnswer(
            "divided by the padded size",
            lambda losses, masks: sum(_sums(losses, masks)) / sum(m.numel() for m in masks),
            "The sum is right, but you divide by all positions. Then more padding makes the loss smaller. "
            "Divide by the number of tokens that count.",
        ),
        WrongAnswer(
            "divided by the number of texts",
            lambda losses, masks: sum(_sums(losses, masks)) / sum(map(len, losses)),
            "You divide by the number of texts: that is nats per text. The loss is in nats per token.",
        ),
        WrongAnswer(
            "multiplying by the mask",
            lambda losses, masks: (
                sum(float((x * m).sum()) for x, m in zip(losses, masks, strict=True)) / sum(_counts(masks))
            ),
            "The numbers are right as long as they are finite. But infinity times zero is NaN: choose with "
            "torch.where(mask, loss, 0) instead of multiplying.",
        ),
    ),
    solution=_accumulated_loss,
    praise="Divide once, by all tokens: then it does not matter where the batch was cut.",
)
