"""Preferences and judged answers as token ids, and which of them do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from rlhf_lite.data import row_counts
from rlhf_lite.data.formatting import (
    EncodedPair,
    encode_prompts,
    encode_whole,
    fit_lengths,
    keep_end,
    start_tokens,
    token_ids,
    with_end,
)
from rlhf_lite.data.row_counts import RowCounts
from rlhf_lite.training.sft import Example
from rlhf_lite.types import Preference


@dataclass(frozen=True)
class TextPair:
    """The two texts of a preference as token ids, each prompt and answer together.

    Attributes:
        chosen_ids: the preferred text.
        rejected_ids: the other one.
        characters: their lengths as texts; batches are ordered by them.
    """

    chosen_ids: list[int]
    rejected_ids: list[int]
    characters: tuple[int, int]


@dataclass(frozen=True)
class JudgedText:
    """One answer that somebody liked or disliked, without another one to compare it with.

    Attributes:
        prompt: may be empty.
        completion: the answer; a space that it starts with is kept.
        desirable: True if it was liked.
    """

    prompt: str
    completion: str
    desirable: bool


@dataclass(frozen=True)
class JudgedAnswer:
    """A :class:`JudgedText` as token ids."""

    prompt_ids: list[int]
    completion_ids: list[int]
    desirable: bool


Pair = TypeVar("Pair", EncodedPair, TextPair)


class EncodedPairs(NamedTuple, Generic[Pair]):
    """Preferences as token ids, and the indices of those that were refused because they do not fit."""

    pairs: list[Pair]
    refused: list[int]


class EncodedAnswers(NamedTuple):
    """Judged answers as token ids, and the indices of those that were refused because they do not fit."""

    answers: list[JudgedAnswer]
    refused: list[int]


def encode_preferences(tokenizer: PreTrainedTokenizerBase, preferences: Sequence[Preference], *,
                       max_tokens: int, end: bool = True,
                       counts: RowCounts | None = None) -> EncodedPairs[EncodedPair]:
    """Token ids of preferences; prompt and answers are tokenised apart, so that no token spans the boundary.

    An answer is never cut: half an answer is not what people judged, and the longer of the two would lose
    more. A prompt that is too long loses its beginning, the same for both answers. A pair whose longer answer
    leaves no room for one token of the prompt is refused, as is one with an empty or twice the same answer.

    Args:
        tokenizer: adds no special tokens.
        preferences: their texts are used as they are; see ``formatting.render_preference`` for conversations.
        max_tokens: most tokens of prompt and answer together.
        end: append the end token to answers that a chat template has not ended, see ``formatting.with_end``.
        counts: takes down what was cut and refused.
    """
    counts = RowCounts() if counts is None else counts
    prompts = encode_prompts(tokenizer, [p.prompt for p in preferences])
    chosen = _answers(tokenizer, [p.chosen for p in preferences], end=end)
    rejected = _answers(tokenizer, [p.rejected for p in preferences], end=end)
    pairs, refused, head = [], [], start_tokens(tokenizer)
    for i, (prompt, good, bad) in enumerate(zip(prompts, chosen, rejected, strict=True)):
        if good == bad or not good or not bad:
            kept = None
            counts.leave(row_counts.EQUAL if good == bad else row_counts.EMPTY)
        else:
            kept = _prompt_that_fits(prompt, max(len(good), len(bad)), max_tokens, head, counts)
        if kept is None:
            refused.append(i)
        else:
            pairs.append(EncodedPair(kept, good, bad, preferences[i].margin))
    return EncodedPairs(pairs, refused)


def encode_judged(tokenizer: PreTrainedTokenizerBase, texts: Sequence[JudgedText], *, max_tokens: int,
                  end: bool = True, counts: RowCounts | None = None) -> EncodedAnswers:
    """Token ids of judged answers; arguments and rules as for :func:`encode_preferences`."""
    counts = RowCounts() if counts is None else counts
    prompts = encode_prompts(tokenizer, [t.prompt for t in texts])
    completions = _answers(tokenizer, [t.completion for t in texts], end=end)
    answers, refused, head = [], [], start_tokens(tokenizer)
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if completion:
            kept = _prompt_that_fits(prompt, len(completion), max_tokens, head, counts)
        else:
            kept = None
            counts.leave(row_counts.EMPTY)
        if kept is None:
            refused.append(i)
        else:
            answers.append(JudgedAnswer(kept, completion, texts[i].desirable))
    return EncodedAnswers(answers, refused)


def _prompt_that_fits(prompt: list[int], answer: int, max_tokens: int, head: list[int],
                      counts: RowCounts) -> list[int] | None:
    """The end of a prompt that leaves room for an answer of so many tokens; None if there is no room."""
    before, after = fit_lengths(len(prompt), answer, max_tokens, least=1)
    counts.measure(len(prompt) + answer)
    if after < answer:
        counts.leave(row_counts.TOO_LONG)
        return None
    counts.use(prompt_cut=before < len(prompt))
    return keep_end(prompt, before, head)


def encode_texts(tokenizer: PreTrainedTokenizerBase, preferences: Sequence[Preference], *, max_tokens: int,
                 counts: RowCounts | None = None) -> EncodedPairs[TextPair]:
    """Token ids of both whole texts of each preference, for a reward model, which reads texts.

    Prompt and answer are tokenised together and no end is appended, and each text is cut by itself, by
    ``formatting.fit_lengths``: exactly as when the reward model scores one text. Pairs whose texts are equal
    then are refused: nothing can be learned from them.

    Args:
        tokenizer: adds no special tokens.
        preferences: their texts are used as they are.
        max_tokens: most tokens of a text.
        counts: takes down what was cut and refused.
    """
    counts = RowCounts() if counts is None else counts
    prompts, chosen = [p.prompt for p in preferences], [p.prompt + p.chosen for p in preferences]
    rejected = [p.prompt + p.rejected for p in preferences]
    good, bad = (encode_whole(tokenizer, t, prompts, max_tokens=max_tokens) for t in (chosen, rejected))
    pairs, refused = [], []
    for i, both in enumerate(zip(good, bad, strict=True)):
        counts.measure(max(text.length for text in both))
        cut = any(text.answer_cut for text in both)
        if both[0].ids == both[1].ids:
            counts.leave(row_counts.EQUAL_AFTER_CUT if cut else row_counts.EQUAL)
            refused.append(i)
            continue
        counts.use(prompt_cut=any(text.prompt_cut for text in both), answer_cut=cut)
        pairs.append(TextPair(both[0].ids, both[1].ids, (len(chosen[i]), len(rejected[i]))))
    return EncodedPairs(pairs, refused)


def _answers(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, end: bool) -> list[list[int]]:
    """Token ids of answers, with one end token each if ``end``."""
    rows = token_ids(tokenizer, texts, start=False)
    return with_end(tokenizer, rows) if end else rows


def judged_from_pairs(pairs: Sequence[EncodedPair]) -> list[JudgedAnswer]:
    """Each pair as two answers: the chosen one was liked, the rejected one was not."""
    return [JudgedAnswer(pair.prompt_ids, ids, desirable) for pair in pairs
            for ids, desirable in ((pair.chosen_ids, True), (pair.rejected_ids, False))]


def mismatched(answers: Sequence[JudgedAnswer], *, seed: int) -> list[Example]:
    """For each answer's prompt, the completion of some other prompt: what KTO's baseline is estimated on.

    The partners are drawn once, from ``seed``: in a random circle of all answers, each takes the completion
    of the next one whose prompt is another (the next one, if all prompts are the same). A prompt that is too
    long with its new completion loses its beginning, so that no row is longer than the longest of the data.
    """
    n = len(answers)
    longest = max(len(a.prompt_ids) + len(a.completion_ids) for a in answers)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    following: list[int | None] = [None] * n  # the place of the next answer whose prompt is another
    for place in [*reversed(range(n))] * 2:  # twice round: the last ones look across the start
        after = (place + 1) % n
        same = answers[order[after]].prompt_ids == answers[order[place]].prompt_ids
        following[place] = following[after] if same else after
    examples: dict[int, Example] = {}
    for place, row in enumerate(order):
        prompt, other = answers[row].prompt_ids, following[place]
        partner = order[(place + 1) % n if other is None else other]
        completion = answers[partner].completion_ids
        examples[row] = Example(prompt[-(longest - len(completion)) :], completion)
    return [examples[row] for row in range(n)]
