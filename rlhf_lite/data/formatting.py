r"""Conversations as text, with the boundary between prompt and response exact.

Two renderings: a tokenizer's own chat template, and a plain transcript in the form of Anthropic's HH-RLHF
data (Bai et al. 2022, *Training a Helpful and Harmless Assistant*)::

    \n\nHuman: ... \n\nAssistant: ...

A *template* is any function ``(messages, answer_next) -> str``; with ``answer_next`` the text ends where the
assistant's answer begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from rlhf_lite.data.row_counts import RowCounts
from rlhf_lite.errors import PhaseError
from rlhf_lite.types import Dialogue, Message, Preference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Callable[[Sequence[Message], bool], str]

_SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}
_ROLES = {speaker: role for role, speaker in _SPEAKERS.items()}
_MARKER = re.compile(r"\n\n(Human|Assistant|System):")
ANSWER_MARKER = "\n\nAssistant:"


def looks_like_transcript(text: str) -> bool:
    """Whether a text starts as a transcript does, with a human or system turn."""
    return re.match(r"\s*(Human|System):", text) is not None


def parse_transcript(text: str) -> tuple[Message, ...]:
    r"""The turns of ``\n\nHuman: ... \n\nAssistant: ...``, white space around each turn taken off.

    The blank line before the first turn may be missing.

    Raises:
        ValueError: the text does not start with a turn, or a turn is empty.
    """
    pieces = _MARKER.split(text if text.startswith("\n\n") else "\n\n" + text.lstrip("\n"))
    if pieces[0].strip() or len(pieces) == 1:
        raise ValueError("does not start with a turn ('\\n\\nHuman:')")
    turns = list(zip(pieces[1::2], (content.strip() for content in pieces[2::2]), strict=True))
    for number, (speaker, content) in enumerate(turns, start=1):
        if not content:
            raise ValueError(f"has an empty turn: number {number}, of {speaker}")
    return tuple(Message(_ROLES[speaker], content) for speaker, content in turns)


def split_transcript(text: str) -> tuple[str, str]:
    r"""A transcript cut behind its last ``\n\nAssistant:``; the two parts put together are the text again.

    Raises:
        ValueError: no turn of the assistant, or the last turn is not the assistant's.
    """
    place = text.rfind(ANSWER_MARKER)
    if place < 0:
        raise ValueError("has no turn of the assistant ('\\n\\nAssistant:')")
    prompt, answer = text[: place + len(ANSWER_MARKER)], text[place + len(ANSWER_MARKER) :]
    if _MARKER.search(answer):
        raise ValueError("does not end with a turn of the assistant")
    return prompt, answer


def prompt_turns(prompt: str) -> tuple[Message, ...]:
    """A prompt as turns: those of a transcript that goes on with the answer, else what a user says.

    Raises:
        ValueError: the transcript has an empty turn.
    """
    text = prompt.rstrip()
    if looks_like_transcript(prompt) and text.endswith(ANSWER_MARKER):
        return parse_transcript(text.removesuffix(ANSWER_MARKER))
    return (Message("user", prompt),)


def plain_text(messages: Sequence[Message], answer_next: bool = False) -> str:
    """Messages as a plain transcript. A template for models that have none of their own."""
    turns = [f"\n\n{_SPEAKERS.get(m.role, m.role.capitalize())}: {m.content}" for m in messages]
    return "".join(turns) + (ANSWER_MARKER if answer_next else "")


def chat_template(tokenizer: PreTrainedTokenizerBase) -> Template:
    """The tokenizer's chat template as a function; the plain transcript if it has none.

    The function raises a PhaseError where the template does not take a conversation.
    """
    if not tokenizer.chat_template:
        return plain_text

    def render(messages: Sequence[Message], answer_next: bool) -> str:
        plain = [{"role": m.role, "content": m.content} for m in messages]
        options = {"tokenize": False, "add_generation_prompt": answer_next}
        try:
            return str(tokenizer.apply_chat_template(plain, **options))
        except Exception as error:  # templates raise what they like
            turns = ", ".join(m.role for m in messages)
            raise PhaseError(f"the model's chat template does not take a conversation of the turns {turns} "
                             f"({error}): go without the template, or take such turns out") from error

    return render


def common_length(a: Sequence[object], b: Sequence[object]) -> int:
    """Number of characters that two texts begin with in common, or of tokens for two lists of token ids."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def render_dialogue(dialogue: Dialogue, template: Template = plain_text) -> tuple[str, str, str]:
    """Prompt, chosen and rejected as text; ``prompt + chosen`` is exactly what the template makes of both.

    With a chat template the responses include the template's end of turn.

    Raises:
        ValueError: the template renders the prompt differently when an answer follows, so there is no
            boundary.
    """
    prompt = template(dialogue.prompt, True)
    answers = []
    for answer in (dialogue.chosen, dialogue.rejected):
        whole = template((*dialogue.prompt, answer), False)
        if not whole.startswith(prompt):
            place = common_length(whole, prompt)
            raise ValueError("the chat template has no boundary between prompt and answer: from character "
                             f"{place} the text goes on {whole[place : place + 40]!r} with the answer and "
                             f"{prompt[place : place + 40]!r} without it. Use "
                             "formatting.plain_text, or another template")
        answers.append(whole[len(prompt) :])
    return prompt, answers[0], answers[1]


def render_preference(preference: Preference, template: Template) -> Preference:
    """The preference rendered by a template; its messages are left out, since the texts hold them now.

    A preference that was no conversation is returned unchanged.
    """
    if preference.dialogue is None:
        return preference
    prompt, chosen, rejected = render_dialogue(preference.dialogue, template)
    return replace(preference, prompt=prompt, chosen=chosen, rejected=rejected, dialogue=None)


def start_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts in front of every text: a start token for Gemma and Llama, often nothing."""
    whole, bare = (list(tokenizer("a", add_special_tokens=added)["input_ids"]) for added in (True, False))
    return whole[: next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)]


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *,
              start: bool = True) -> list[list[int]]:
    """Token ids of texts: the one way from text to tokens.

    A model whose tokenizer begins every text with a start token is lost without it: it was trained so, and
    ``tokenizer(text)`` writes it. A text that begins with a special token of this tokenizer, as a rendered
    chat does, says itself how it begins and gets nothing in front. Nothing is put behind a text.

    Args:
        tokenizer: of the model that reads.
        texts: n texts; an empty one has the start tokens alone, often no token.
        start: False for texts that follow another one, such as answers.

    Raises:
        PhaseError: if a text holds a token that the model has no row for (``policy.load_tokenizer``).
    """
    if not texts:
        return []
    rows = [list(row) for row in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    limit = getattr(tokenizer, "model_rows", None)
    beyond = None if limit is None else next((i for row in rows for i in row if i >= limit), None)
    if beyond is not None:
        raise PhaseError(f"a text holds {tokenizer.convert_ids_to_tokens(beyond)!r}, the tokenizer's number "
                         f"{beyond}, and the model has {limit} tokens: take the token out of the texts, or "
                         "save the model after model.resize_token_embeddings(len(tokenizer))")
    head = start_tokens(tokenizer) if start else []
    if not head:
        return rows
    marks = _special(tokenizer)
    return [row if row and row[0] in marks else head + row for row in rows]


def _special(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}


def with_end(tokenizer: PreTrainedTokenizerBase, answers: Sequence[list[int]]) -> list[list[int]]:
    """Rows of answers with one end each: the one that a chat template wrote, else the end token.

    A template's end is a special token behind which there is nothing but white space, as in ``<|im_end|>``
    and a line feed. The white space is dropped: nobody samples what follows an end.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    marks = _special(tokenizer) - {tokenizer.bos_token_id} | {*end}

    def ended(row: list[int]) -> list[int]:
        last = max((place for place, token in enumerate(row) if token in marks), default=None)
        if last is None or tokenizer.decode(row[last + 1 :]).strip():
            return row + end
        return row[: last + 1]

    return [ended(row) for row in answers]


def keep_end(ids: list[int], room: int, head: Sequence[int] = ()) -> list[int]:
    """The last ``room`` ids of a row; the start tokens that it begins with (``head``) stay in front."""
    if len(ids) <= room:
        return ids
    kept = list(head) if ids[: len(head)] == list(head) and len(head) < room else []
    return kept + ids[len(ids) - room + len(kept) :]


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *,
                   rendered: bool = False) -> list[list[int]]:
    """Token ids of prompts as :func:`token_ids` gives them; an empty prompt becomes the start token.

    Sampling must start somewhere. The start token is the tokenizer's ``bos_token``, or its ``eos_token``
    where there is none. With ``rendered`` the texts come from the model's own chat template, which writes
    every special token itself.

    Raises:
        ValueError: if a prompt is empty and there is neither token.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    rows = [row or [start] for row in token_ids(tokenizer, prompts, start=not rendered)]
    if start is None and [None] in rows:
        raise ValueError("a prompt is empty, and the tokenizer has neither a start nor an end token to begin "
                         "with: give some opening words")
    return rows


def fit_lengths(prompt: int, answer: int, max_tokens: int, *, least: int | None = None) -> tuple[int, int]:
    """How many tokens of a prompt's *end* and of an answer's *beginning* fit into ``max_tokens``.

    The one rule for everything that is cut: the prompt loses its beginning first, the answer its end only if
    that is not enough.

    Args:
        prompt: tokens of the prompt.
        answer: tokens of the answer, or of the longest answer to the prompt.
        max_tokens: most tokens of both together, at least 2.
        least: tokens of the prompt that stay, as far as it has them. By default a quarter of ``max_tokens``,
            but at least 20 tokens (the opening of a review stays whole), and at most two thirds.
    """
    if max_tokens < 2:
        raise ValueError(f"max_tokens must be at least 2 (a prompt and an answer), got {max_tokens}")
    if least is None:
        least = min(max(max_tokens // 4, 20), max_tokens * 2 // 3)
    kept = min(prompt, max(max_tokens - answer, least))
    return kept, min(answer, max_tokens - kept)


def fit_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *, answer: int, max_tokens: int,
                counts: RowCounts | None = None) -> list[list[int]]:
    """Token ids of prompts to be answered with ``answer`` tokens, cut by :func:`fit_lengths`."""
    counts, head = RowCounts() if counts is None else counts, start_tokens(tokenizer)
    rows = []
    for ids in encode_prompts(tokenizer, prompts):
        kept, _ = fit_lengths(len(ids), answer, max_tokens)
        counts.measure(len(ids) + answer)
        counts.use(prompt_cut=kept < len(ids))
        rows.append(keep_end(ids, kept, head))
    return rows


class WholeText(NamedTuple):
    """A text as token ids; how many tokens it had, and whether prompt and answer were cut."""

    ids: list[int]
    length: int
    prompt_cut: bool
    answer_cut: bool


def encode_whole(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str],
                 prompts: Sequence[str] | None = None, *, max_tokens: int) -> list[WholeText]:
    """Token ids of whole texts, prompt and answer tokenised together, cut by :func:`fit_lengths`.

    An empty text becomes the end token, for a reader needs one position.

    Args:
        tokenizer: adds its start tokens.
        texts: each begins with its prompt.
        prompts: what each begins with; None if the texts have no prompts, so that they lose their ends.
        max_tokens: most tokens of a text.
    """
    heads = [[]] * len(texts) if prompts is None else token_ids(tokenizer, prompts)
    start, rows = start_tokens(tokenizer), []
    for ids, head in zip(token_ids(tokenizer, texts), heads, strict=True):
        prompt = min(len(head), len(ids))
        before, after = fit_lengths(prompt, len(ids) - prompt, max_tokens)
        kept = keep_end(ids[:prompt], before, start) + ids[prompt : prompt + after]
        rows.append(WholeText(kept or [tokenizer.eos_token_id], len(ids), before < prompt,
                              prompt + after < len(ids)))
    return rows


@dataclass(frozen=True)
class EncodedPair:
    """A preference as token ids; the same prompt precedes both responses."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    margin: float | None = None


def encode_pair(tokenizer: PreTrainedTokenizerBase, preference: Preference, *,
                max_tokens: int | None = None) -> EncodedPair:
    """Token ids of a preference, prompt and responses encoded apart, so that no token spans the boundary.

    Args:
        tokenizer: adds its start tokens to the prompt, and no end token.
        preference: its texts are used as they are; see ``render_preference`` for conversations.
        max_tokens: most tokens of prompt and response together; :func:`fit_lengths` says what is cut, the
            same of the prompt for both responses.
    """
    (prompt,) = token_ids(tokenizer, [preference.prompt])
    chosen, rejected = token_ids(tokenizer, [preference.chosen, preference.rejected], start=False)
    if max_tokens is not None:
        before, after = fit_lengths(len(prompt), max(len(chosen), len(rejected)), max_tokens)
        prompt = keep_end(prompt, before, start_tokens(tokenizer))
        chosen, rejected = chosen[:after], rejected[:after]
    return EncodedPair(prompt, chosen, rejected, preference.margin)
