"""Exercise: where does a reward model read its score?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _last_token_index(mask: Tensor) -> Tensor:
    return mask.shape[1] - 1 - mask.long().flip(1).argmax(1)


def _mask_case(title: str, mask: list[list[int]], expected: list[int], hint: str) -> Case:
    def inputs() -> tuple[Tensor]:
        import torch

        return (torch.tensor(mask).bool(),)

    return Case(title, inputs, expected, hint)


LAST_TOKEN_INDEX = Exercise(
    name="last_token_index",
    title="Where does the reward head read?",
    chapter="05_reward_modelling",
    difficulty="easy",
    minutes=5,
    cases=(
        _mask_case(
            "padding on the right",  # the last True of each row
            [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
            [2, 4, 0],
            "For each row give the place of the last True, counted from 0.",
        ),
        _mask_case(
            "padding on the left",  # every row ends in the last column
            [[0, 0, 1, 1], [0, 1, 1, 1]],
            [3, 3],
            "With padding on the left the last token stands in the last column, however short the text is.",
        ),
        _mask_case(
            "a token in the middle that does not count",  # the hole at place 1 changes nothing
            [[1, 0, 1, 1, 0, 0]],
            [3],
            "Look for the last True, not for the first False: a mask may have holes.",
        ),
        _mask_case(
            "padding on both sides",
            [[0, 1, 1, 0], [0, 0, 1, 0]],
            [2, 2],
            "Count places from the first column, padding included: you are going to index the columns.",
        ),
        _mask_case("one column", [[1]], [0], "The only column has number 0."),
    ),
    wrong_answers=(
        WrongAnswer(
            "the number of tokens minus one",
            lambda m: m.sum(1) - 1,
            "You count the tokens of each row. That is the place of the last one only if the text starts in "
            "column 0: with padding on the left you would read in the middle of the text, or in the padding.",
        ),
        WrongAnswer(
            "the last column",
            lambda m: m.long().sum(1) * 0 + m.shape[1] - 1,
            "You take the last column of every row. With padding on the right that is a padding token: the "
            "planted failure of this chapter.",
        ),
        WrongAnswer(
            "the first token",
            lambda m: m.long().argmax(1),
            "You return the first True of each row: argmax gives the first of several equal maxima. In a "
            "causal model the first token has seen nothing of the text.",
        ),
        WrongAnswer(
            "counted from the end",
            lambda m: m.long().flip(1).argmax(1),
            "You found the last True, but you count its distance from the end. Subtract it from S - 1.",
        ),
        WrongAnswer(
            "one too far",
            lambda m: m.shape[1] - m.long().flip(1).argmax(1),
            "You are one place too far: columns are counted from 0, so the last of S columns is S - 1.",
        ),
        WrongAnswer(
            "before the first padding",
            lambda m: m.long().argmin(1) - 1,
            "You look for the first False and step back by one. A row without padding has no False, and with "
            "padding on the left the first False is in column 0.",
        ),
        WrongAnswer(
            "the number of tokens",
            lambda m: m.sum(1),
            "You return how many tokens a row has. The question is where the last one stands.",
        ),
        WrongAnswer(
            "one place for the whole batch",
            lambda m: m.any(0).nonzero().max(),
            "You return one number for the batch. Every text has its own last token.",
        ),
    ),
    solution=_last_token_index,
    praise="`RewardModel.forward` has the same line.",
)
