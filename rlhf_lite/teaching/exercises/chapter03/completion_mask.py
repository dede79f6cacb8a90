"""Exercise: which tokens of a padded batch are in the loss?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

END = 2  # the end token's id, which also fills the rows


def _after(ids: Tensor, prompt_lengths: Tensor) -> Tensor:
    """[B, S], True from the first token of the completion on."""
    import torch

    return torch.arange(ids.shape[1]) >= prompt_lengths.unsqueeze(1)


def _ends_before(ids: Tensor, prompt_lengths: Tensor, end_id: int) -> Tensor:
    """[B, S], how many end tokens of the completion stand before each position."""
    ends = ((ids == end_id) & _after(ids, prompt_lengths)).long()
    return ends.cumsum(1) - ends


def _completion_mask(ids: Tensor, prompt_lengths: Tensor, end_id: int) -> Tensor:
    return _after(ids, prompt_lengths) & (_ends_before(ids, prompt_lengths, end_id) == 0)


def _end_dropped(ids: Tensor, prompt_lengths: Tensor, end_id: int) -> Tensor:
    return _after(ids, prompt_lengths) & (ids != end_id)


def _any_end(ids: Tensor, prompt_lengths: Tensor, end_id: int) -> Tensor:
    ends = (ids == end_id).long()
    return _after(ids, prompt_lengths) & (ends.cumsum(1) - ends == 0)


def _last_dropped(mask: Tensor) -> Tensor:
    found = mask.clone()
    found[:, -1] = False
    return found


def _mask_case(
    title: str, rows: list[list[int]], prompts: list[int], expected: list[list[int]], hint: str
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, int]:
        import torch

        return torch.tensor(rows), torch.tensor(prompts), END

    return Case(title, inputs, expected, hint)


COMPLETION_MASK = Exercise(
    name="completion_mask",
    title="Which tokens are in the loss?",
    chapter="03_supervised_fine_tuning",
    difficulty="medium",
    minutes=10,
    cases=(
        _mask_case(
            "one text that fills its row",  # two tokens of prompt, two of text, the end
            [[11, 12, 13, 14, END]],
            [2],
            [[0, 0, 1, 1, 1]],
            "False on the prompt, True on the completion and on its end token.",
        ),
        _mask_case(
            "a shorter text, filled up with the end token",  # 11 | 12 END, then filling
            [[11, 12, END, END, END]],
            [1],
            [[0, 1, 1, 0, 0]],
            "The first end token after the prompt was really there, and counts. What follows is filling.",
        ),
        _mask_case(
            "a text that was cut",  # no end token, because the text does not end here
            [[11, 12, 13, 14]],
            [1],
            [[0, 1, 1, 1]],
            "A text without an end token was cut at the length limit: all of its completion counts.",
        ),
        _mask_case(
            "an end token inside the prompt",  # a chat template ends every turn with it
            [[11, END, 12, 13, END, END]],
            [3],
            [[0, 0, 0, 1, 1, 0]],
            "A chat template ends each turn with the end token. Only one after the prompt ends the text.",
        ),
        _mask_case(
            "two prompts of different length, and an empty completion",  # 11 12 13 | END; 11 | 12 13 14 END
            [[11, 12, 13, END, END], [11, 12, 13, 14, END]],
            [3, 1],
            [[0, 0, 0, 1, 0], [0, 1, 1, 1, 1]],
            "Each row has a prompt length of its own. A completion may be nothing but the end token.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the end token dropped",
            _end_dropped,
            "You leave out every token that equals the padding id. Here the end token and the padding share "
            "one id, so the real end token is lost too, and the model never learns to stop. Count the first "
            "end token after the prompt.",
        ),
        WrongAnswer(
            "padding counted",
            lambda ids, p, end: _after(ids, p),
            "You count everything after the prompt, the padding included. The model would learn to write the "
            "end token after the end token, and short texts would count as much as long ones.",
        ),
        WrongAnswer(
            "the prompt counted",
            lambda ids, p, end: _ends_before(ids, p, end) == 0,
            "You count the prompt. It is given, not predicted: only positions from prompt_lengths on count.",
        ),
        WrongAnswer(
            "an end token of the prompt ends the text",
            _any_end,
            "You stop at the first end token of the row, even inside the prompt. In a conversation each turn "
            "ends with it. Look for the first one after the prompt.",
        ),
        WrongAnswer(
            "one position too early",
            lambda ids, p, end: _completion_mask(ids, p - 1, end),
            "Your mask begins one position early, on the last token of the prompt. The one-token shift is a "
            "matter of the logits, not to this mask: the mask marks the tokens that are predicted.",
        ),
        WrongAnswer(
            "one position too late",
            lambda ids, p, end: _completion_mask(ids, p, end) & _after(ids, p + 1),
            "You leave out the first token of the completion. It is predicted by the last token of the "
            "prompt, so it counts.",
        ),
        WrongAnswer(
            "the last position dropped",
            lambda ids, p, end: _last_dropped(_completion_mask(ids, p, end)),
            "You leave out the last column. It has no successor, but it has a predecessor that predicts it: "
            "it counts if it belongs to the text.",
        ),
        WrongAnswer(
            "the mask inverted",
            lambda ids, p, end: ~_completion_mask(ids, p, end),
            "You mark what does not count. In this book mask True means: this position counts.",
        ),
    ),
    solution=_completion_mask,
    praise="The end token counts exactly once. Without it the model would never learn to stop.",
)
