"""Exercise: the attention mask of a packed row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _causal(texts: Tensor) -> Tensor:
    import torch

    return torch.ones(len(texts), len(texts)).tril().bool()


def _same(texts: Tensor) -> Tensor:
    return texts[:, None] == texts[None, :]


def _block_causal(texts: Tensor) -> Tensor:
    return _same(texts) & _causal(texts)


def _neighbours_only(texts: Tensor) -> Tensor:
    """Compares each position with the one before it, and forgets what lies further back."""
    import torch

    near = _causal(texts) & ~torch.ones(len(texts), len(texts)).tril(-2).bool()
    return _same(texts) & near


def _case(title: str, texts: list[int], expected: list[list[int]], hint: str) -> Case:
    def inputs() -> tuple[Tensor]:
        import torch

        return (torch.tensor(texts),)

    return Case(title, inputs, expected, hint)


PACKED_ATTENTION = Exercise(
    name="packed_attention",
    title="Who may look at whom?",
    chapter="03_supervised_fine_tuning",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "two texts of two tokens",
            [0, 0, 1, 1],
            [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]],
            "Row q says what position q may look at: itself, and earlier positions of the same text.",
        ),
        _case(
            "one text",
            [5, 5, 5],
            [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
            "With a single text this is the ordinary causal mask: everything up to the position itself.",
        ),
        _case(
            "three texts of different length",
            [3, 7, 7, 7, 1],
            [
                [1, 0, 0, 0, 0],
                [0, 1, 0, 0, 0],
                [0, 1, 1, 0, 0],
                [0, 1, 1, 1, 0],
                [0, 0, 0, 0, 1],
            ],
            "Compare the text numbers of query and key; their order and size mean nothing.",
        ),
        _case(
            "padding at the end, with the number -1",
            [0, 0, -1, -1],
            [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]],
            "Treat the padding as one more text. A row without any True is a softmax over nothing: NaN.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "causal, but across texts",
            _causal,
            "That is the ordinary causal mask: the second text sees the first. Also require that query and "
            "key belong to the same text.",
        ),
        WrongAnswer(
            "within texts, but not causal",
            _same,
            "A token sees the later tokens of its own text, the one it has to predict included. Also require "
            "that the key does not stand after the query.",
        ),
        WrongAnswer(
            "transposed",
            lambda texts: _block_causal(texts).T,
            "Rows and columns are swapped: each position looks at what comes after it. Row q must say what q "
            "sees.",
        ),
        WrongAnswer(
            "not even oneself",
            lambda texts: _same(texts) & _causal(texts).tril(-1),
            "You leave out the diagonal. A position sees itself; otherwise the first token of a text would "
            "have nothing to look at, and its softmax would be NaN.",
        ),
        WrongAnswer(
            "padding blotted out",
            lambda texts: _block_causal(texts) & (texts >= 0)[:, None] & (texts >= 0)[None, :],
            "Your padding rows hold no True at all. A softmax over nothing is NaN, and NaN spreads. Let the "
            "padding look at itself: nobody reads the result.",
        ),
        WrongAnswer(
            "earlier texts allowed",
            lambda texts: (texts[:, None] >= texts[None, :]) & _causal(texts),
            "You let a text see texts with a smaller number. That is the leak that the mask has to stop: "
            "the numbers must be equal.",
        ),
        WrongAnswer(
            "the neighbour only",
            _neighbours_only,
            "Each position sees itself and the one before. It must see all earlier positions of its text.",
        ),
        WrongAnswer(
            "the mask inverted",
            lambda texts: ~_block_causal(texts),
            "You mark what must not be seen. Here True means: may look. (Some libraries have it the other "
            "way round, so read the documentation each time.)",
        ),
    ),
    solution=_block_causal,
    praise="With this mask and the right positions a packed text has the same loss as alone.",
)
