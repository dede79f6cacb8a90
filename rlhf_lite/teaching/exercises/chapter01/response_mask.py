"""Exercise: which positions of a padded batch belong to the response?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _place(real: Tensor) -> Tensor:
    """The number of each token within its own text, from 0, wherever the padding is."""
    return real.long().cumsum(1) - 1


def _response_mask(ids: Tensor, real: Tensor, prompt_lengths: Tensor) -> Tensor:
    return real & (_place(real) >= prompt_lengths[:, None])


def _predicting(ids: Tensor, real: Tensor, prompt_lengths: Tensor) -> Tensor:
    import torch

    mask = _response_mask(ids, real, prompt_lengths)
    return torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)


def _columns(ids: Tensor) -> Tensor:
    import torch

    return torch.arange(ids.shape[1]).expand(ids.shape)


def _case(
    title: str,
    ids: list[list[int]],
    real: list[list[int]],
    lengths: list[int],
    expected: list[list[int]],
    hint: str,
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor]:
        import torch

        return torch.tensor(ids), torch.tensor(real).bool(), torch.tensor(lengths)

    return Case(title, inputs, expected, hint)


# Token 0 is both the end of a text and the padding, as 2 is in SmolLM2. Expected values: count the real
# tokens of a row from the left; the first `length` of them are the prompt, the other real ones the response.
RESPONSE_MASK = Exercise(
    name="response_mask",
    title="Which positions count?",
    chapter="01_language_models_as_policies",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "padding on the right, and an end token that looks like padding",
            [[5, 6, 7, 0, 0, 0]],
            [[1, 1, 1, 1, 0, 0]],
            [2],
            [[0, 0, 1, 1, 0, 0]],
            "The response is token 7 and its end token, which is real. Ask `real`, not the ids.",
        ),
        _case(
            "padding on the left",
            [[0, 0, 5, 6, 7, 0]],
            [[0, 0, 1, 1, 1, 1]],
            [2],
            [[0, 0, 0, 0, 1, 1]],
            "With padding on the left the prompt does not start in column 0. Number the real tokens of each "
            "row with a cumulative sum of `real`.",
        ),
        _case(
            "two prompts of different length",
            [[5, 6, 7, 8, 9, 0], [5, 6, 0, 0, 0, 0]],
            [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]],
            [3, 2],
            [[0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0]],
            "Each row has its own prompt length: compare with prompt_lengths[:, None].",
        ),
        _case(
            "prompts padded on the left and responses padded on the right",
            [[0, 5, 6, 7, 0, 0], [5, 6, 7, 8, 9, 0]],
            [[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]],
            [2, 3],
            [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]],
            "This is what a sampled batch looks like. Real and after the prompt: both conditions must hold.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the prompt counts",
            lambda i, r, n: r,
            "You return all real tokens. The prompt was given to the policy, so it must not count.",
        ),
        WrongAnswer(
            "columns counted, not tokens",
            lambda i, r, n: r & (_columns(i) >= n[:, None]),
            "You compare the column number with the prompt's length. That holds only if the text starts in "
            "column 0; with padding on the left, prompt tokens slip in.",
        ),
        WrongAnswer(
            "padding counts",
            lambda i, r, n: _place(r) >= n[:, None],
            "Everything after the prompt counts for you, padding included. A position must be real as well.",
        ),
        WrongAnswer(
            "the end token masked",
            lambda i, r, n: _response_mask(i, r, n) & (i != 0),
            "You drop every token with the id of the padding, and with it the end token of each response. A "
            "policy trained with this mask never learns to stop.",
        ),
        WrongAnswer(
            "one too late",
            lambda i, r, n: r & (_place(r) > n[:, None]),
            "You lose the first token of each response. Places count from 0, so the response starts at "
            "place prompt_length: use >=.",
        ),
        WrongAnswer(
            "one too early",
            lambda i, r, n: r & (_place(r) >= n[:, None] - 1),
            "You count the last prompt token as well. It predicts the first response token, but a mask in "
            "this book marks the tokens themselves.",
        ),
        WrongAnswer(
            "the positions that predict",
            _predicting,
            "You mark the positions whose logits predict the response, one to the left. In this book a mask "
            "marks the tokens; the shift comes later, by counts[:, 1:].",
        ),
        WrongAnswer(
            "inverted",
            lambda i, r, n: ~_response_mask(i, r, n),
            "Your mask is True where a position does NOT count. Some libraries use that meaning; here True "
            "means: this position counts.",
        ),
        WrongAnswer(
            "one length for all rows",
            lambda i, r, n: r & (_place(r) >= n[0]),
            "You use the first row's prompt length for every row.",
        ),
    ),
    solution=_response_mask,
    praise="With this mask a batch may be padded on either side, or on both.",
)
