"""Preferences and judged answers as token ids, and which of them do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from rlhf_lite.data.formatting import EncodedPair, encode_prompts
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
                       max_tokens: int, end: bool = True) -> EncodedPairs[EncodedPair]:
    """Token ids of preferences; prompt and answers are tokenised apart, so that no token spans the boundary.

    An answer is never cut: half an answer is not what people judged, and the longer of the two would lose
    more. A prompt that is too long loses its beginning, the same for both answers. A pair whose longer answer
    leaves no room for one token of the prompt is refused, as is one with an empty or twice the same answer.

    Args:
        tokenizer: adds no special tokens.
        preferences: their texts are used as they are; see ``formatting.render_preference`` for conversations.
        max_tokens: most tokens of prompt and answer together.
        end: append the end token to answers that do not end with it (a chat template may have written it).
    """
    prompts = encode_prompts(tokenizer, [p.prompt for p in preferences])
    chosen = _answers(tokenizer, [p.chosen for p in preferences], max_tokens=max_tokens, end=end)
    rejected = _answers(tokenizer, [p.rejected for p in preferences], max_tokens=max_tokens, end=end)
    pairs, refused = [], []
    for i, (prompt, good, bad) in enumerate(zip(prompts, chosen, rejected, strict=True)):
        room = max_tokens - max(len(good), len(bad))
        if room < 1 or not good or not bad or good == bad:
            refused.append(i)
        else:
            pairs.append(EncodedPair(prompt[-room:], good, bad, preferences[i].margin))
    return EncodedPairs(pairs, refused)


def encode_judged(tokenizer: PreTrainedTokenizerBase, texts: Sequence[JudgedText], *, max_tokens: int,
                  end: bool = True) -> EncodedAnswers:
    """Token ids of judged answers; arguments and rules as for :func:`encode_preferences`."""
    prompts = encode_prompts(tokenizer, [t.prompt for t in texts])
    completions = _answers(tokenizer, [t.completion for t in texts], max_tokens=max_tokens, end=end)
    answers, refused = [], []
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        room = max_tokens - len(completion)
        if room < 1 or not completion:
            refused.append(i)
        else:
            answers.append(JudgedAnswer(prompt[-room:], completion, texts[i].desirable))
    return EncodedAnswers(answers, refused)


def encode_texts(tokenizer: PreTrainedTokenizerBase, preferences: Sequence[Preference], *, max_tokens: int,
                 cut_answers: bool = False) -> EncodedPairs[TextPair]:
    """Token ids of both whole texts of each preference, for a reward model, which reads texts.

    Prompt and answer are tokenised together and no end is appended, as when the reward model scores a text.
    What is too long is cut as by :func:`encode_preferences`: the prompt loses its beginning, the same for
    both texts, and a pair whose longer answer leaves no room for one token of the prompt is refused.

    Args:
        tokenizer: adds no special tokens.
        preferences: their texts are used as they are.
        max_tokens: most tokens of a text.
        cut_answers: refuse nothing: what is too long loses its end, as when the reward model scores a text.
    """

    def ids(texts: list[str]) -> list[list[int]]:
        # An empty text still needs one position to be scored at.
        return [row or [tokenizer.eos_token_id] for row in _token_ids(tokenizer, texts)]

    texts = [(p.prompt + p.chosen, p.prompt + p.rejected) for p in preferences]
    prompts = ids([p.prompt for p in preferences])
    chosen, rejected = ids([good for good, _ in texts]), ids([bad for _, bad in texts])
    pairs, refused = [], []
    for i, (prompt, good, bad) in enumerate(zip(prompts, chosen, rejected, strict=True)):
        if cut_answers:
            good, bad = good[:max_tokens], bad[:max_tokens]
        excess = max(0, len(good) - max_tokens, len(bad) - max_tokens)
        if excess and excess >= len(prompt):
            refused.append(i)
        else:
            pairs.append(TextPair(good[excess:], bad[excess:], (len(texts[i][0]), len(texts[i][1]))))
    return EncodedPairs(pairs, refused)


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def _answers(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, max_tokens: int,
             end: bool) -> list[list[int]]:
    """Token ids of answers, with one end token each if ``end``."""
    if max_tokens < 2:
        raise ValueError(f"max_tokens must be at least 2 (a prompt and an answer), got {max_tokens}")
    tail = [tokenizer.eos_token_id] if end else []
    return [[*row, *(tail if row[-1:] != tail else [])] for row in _token_ids(tokenizer, texts)]


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
    examples: dict[int, Example] = {}
    for place, row in enumerate(order):
        prompt = answers[row].prompt_ids
        others = (order[(place + k) % n] for k in range(1, n))
        partner = next((i for i in others if answers[i].prompt_ids != prompt), order[(place + 1) % n])
        completion = answers[partner].completion_ids
        examples[row] = Example(prompt[-(longest - len(completion)) :], completion)
    return [examples[row] for row in range(n)]
