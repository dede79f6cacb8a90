"""The sampling engine: one way to continue texts, for rollouts, evaluation, serving and the command line.

:func:`decode` is the loop; :func:`sample` collects it into a :class:`~rlhf_lite.types.Rollout`, and
:func:`stream` turns it into text while it runs, for the demo and the server. :class:`TextStream` is the way
from tokens to text, piece by piece, up to the strings that end a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_lite.rollout.decoder import Prepared, prepare
from rlhf_lite.rollout.draw import LogitRules, draw, row_seeds, step_seed, uniforms
from rlhf_lite.types import Rollout

__all__ = ["DecodeStep", "EndTokens", "TextPiece", "TextStream", "as_list", "cut_at_stop", "decode",
           "find_stop", "join", "row_seeds", "sample", "step_seed",
           "stream"]
EndTokens = int | Sequence[int] | None
# What decoders write for bytes that are not (or not yet) a character, and how many of them one character
# that lacks its last byte can leave behind.
_BROKEN, _LONGEST = "\N{REPLACEMENT CHARACTER}", 3


@dataclass(frozen=True)
class DecodeStep:
    """One step of decoding: each of the R rows that had not ended has drawn a token.

    Attributes:
        position: 0 for the first new token.
        rows: ``[R]`` which rows of the batch.
        tokens: ``[R]`` what they drew.
        logps: ``[R]`` its log-probability under the distribution it was drawn from, in nats.
        ended: bool ``[R]``, True where this token ends the row.
    """

    position: int
    rows: Tensor
    tokens: Tensor
    logps: Tensor
    ended: Tensor


def as_list(ends: EndTokens) -> list[int]:
    """End tokens as a list: one id, several, or None for a text that only the length limit ends."""
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def join(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, mask and response mask, each ``[B, P + T]``, of prompts followed by their continuations."""
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)
    mask = torch.cat([rollout.prompt_mask, rollout.response_mask], dim=1)
    no_prompt = torch.zeros_like(rollout.prompt_mask)
    return ids, mask, torch.cat([no_prompt, rollout.response_mask], dim=1)


def _check(ids: Tensor, mask: Tensor, seeds: Sequence[int], repeats: int, max_new_tokens: int) -> None:
    if repeats < 1 or max_new_tokens < 1:
        raise ValueError(f"repeats and max_new_tokens must be at least 1, got {repeats} and {max_new_tokens}")
    if len(seeds) != len(ids) * repeats:
        times = f" x {repeats} repeats" if repeats > 1 else ""
        raise ValueError(f"one seed per row: got {len(seeds)} seeds for {len(ids)} prompts{times}")
    if ids.shape != mask.shape or mask.dtype != torch.bool:
        raise ValueError(f"prompt_mask must be bool with the shape of prompt_ids {tuple(ids.shape)}, got "
                         f"{mask.dtype} {tuple(mask.shape)}")
    # Counting tokens only ever begins after padding: the mask never falls from True to False.
    if not bool(mask[:, -1].all()) or bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        raise ValueError("prompts must be padded on the left: True, once begun, must last to the last column")


def _survivors(running: Tensor) -> Tensor:
    """The order ``[n]`` that drops rows with few moves: those at the end fill the holes before them."""
    count = int(running.sum())
    order = torch.arange(count, device=running.device)
    order[~running[:count]] = count + running[count:].nonzero().squeeze(-1)
    return order


@torch.no_grad()
def decode(model: PreTrainedModel | Prepared, prompt_ids: Tensor, prompt_mask: Tensor, *, max_new_tokens: int,
           eos_token_id: EndTokens, seeds: Sequence[int], rules: LogitRules, repeats: int = 1,
           stops: Callable[[Tensor, Tensor], Tensor] | None = None,
           idle: float = 0.05) -> Iterator[DecodeStep]:
    """Continue left-padded prompts step by step. Closing the generator stops decoding.

    Args:
        model, prompt_ids, prompt_mask, max_new_tokens, eos_token_id, seeds, repeats: see :func:`sample`.
        rules: make the distribution that tokens are drawn from.
        stops: called with rows ``[R]`` and their new tokens ``[R]``; says which of them end, besides those
            with an end token.
        idle: rows that have ended leave the batch when they are more than this share of it. Leaving costs a
            little: with 1, rows stay until all have ended.

    Yields:
        One :class:`DecodeStep` for each position, until every row has ended.
    """
    _check(prompt_ids, prompt_mask, seeds, repeats, max_new_tokens)
    device = model.device
    prompt_ids, prompt_mask = prompt_ids.to(device), prompt_mask.to(device)
    ends = torch.tensor(as_list(eos_token_id), dtype=torch.long, device=device)
    chance = uniforms(seeds, max_new_tokens).to(device)
    rows = torch.arange(len(seeds), device=device)  # the row of the batch in each of the decoder's slots
    running = torch.ones_like(rows, dtype=torch.bool)
    # Padding counts as one more occurrence of the prompt's last token, and so not at all.
    seen = torch.where(prompt_mask, prompt_ids, prompt_ids[:, -1:]).repeat_interleave(repeats, dim=0)

    decoder = prepare(model, steps=max_new_tokens).decoder()
    logits = decoder.prefill(prompt_ids, prompt_mask, repeats=repeats, room=max_new_tokens)
    for t in range(max_new_tokens):
        logits = rules.apply(logits, seen)
        if rules.greedy:
            tokens, logps = logits.argmax(-1), torch.zeros(len(logits), device=device)
        else:
            tokens, logps = draw(logits, chance[rows, t])
        over = torch.isin(tokens, ends)
        if stops is not None:
            over[running] |= stops(rows[running], tokens[running])
        yield DecodeStep(t, rows[running], tokens[running], logps[running], over[running])

        running = running & ~over
        left = int(running.sum())
        if left == 0 or t + 1 == max_new_tokens:
            return
        if len(rows) - left > idle * len(rows):
            order = _survivors(running)
            decoder.keep(order)
            rows, tokens, seen = rows[order], tokens[order], seen[order]
            running = torch.ones_like(rows, dtype=torch.bool)
        if rules.looks_back:
            seen = torch.cat([seen, tokens.unsqueeze(-1)], dim=1)
        logits = decoder.step(tokens)


@torch.no_grad()
def sample(model: PreTrainedModel | Prepared, prompt_ids: Tensor, prompt_mask: Tensor, *, max_new_tokens: int,
           eos_token_id: EndTokens, pad_token_id: int, seeds: Sequence[int],
           temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0,
           repetition_penalty: float = 1.0, stop: Sequence[str] = (),
           tokenizer: PreTrainedTokenizerBase | None = None, repeats: int = 1,
           on_token: Callable[[int], None] | None = None) -> Rollout:
    """Continue left-padded prompts with a key-value cache; rows that have ended leave the batch.

    Args:
        model: a causal model, or one made ready once by :func:`rlhf_lite.rollout.decoder.prepare`. Fold
            adapters into its weights first (``models.adapters.merged``): unmerged ones work, slowly.
        prompt_ids: ``[B, P]``, padded on the left.
        prompt_mask: bool ``[B, P]``; True counts.
        max_new_tokens: T, the longest continuation.
        eos_token_id: one or several ids that end a row; None or an empty list if only the length ends it.
        pad_token_id: fills what follows the end.
        seeds: one per row of the result; the same seed, prompt and model give the same continuation in any
            batch, up to floating-point ties.
        temperature: divides the logits; 0 is greedy decoding, which gives its token probability 1.
        top_k, top_p, min_p, repetition_penalty: see :class:`rlhf_lite.rollout.draw.LogitRules`.
        stop: strings that end a row as soon as its text holds one of them. The tokens up to and including the
            one that completes the string are kept and count; cut the decoded text with :func:`cut_at_stop`.
        tokenizer: needed for ``stop`` only.
        repeats: continuations per prompt. A prompt is read once; its rows are adjacent in the result.
        on_token: called with the number of decoded positions, for progress bars.

    Returns:
        B * ``repeats`` rows, on the model's device: tokens, mask (True up to and including the token that
        ends the row), the log-probabilities under the distribution they were drawn from, and which rows ended
        by themselves, by an end token or a stop string.

        In float32 the log-probabilities agree with those that ``models.policy.PolicyScorer`` computes to
        about 1e-5 nats. In bfloat16 both round, each in its own way: on SmolLM2-135M they are 0.05 nats per
        token apart (mean of the absolute difference), and so are two forward passes of transformers, with
        and without a cache. PPO therefore takes both sides of its ratios from the scorer.

    Raises:
        ValueError: if the prompts are not left-padded, ``seeds`` has another length than the result, a
            number is out of range, or ``stop`` is given without a tokenizer.
    """
    rules = LogitRules(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                       repetition_penalty=repetition_penalty)
    if stop and tokenizer is None:
        raise ValueError("stop strings are looked for in the decoded text: give the tokenizer as well")
    texts = [TextStream(tokenizer, stop) for _ in seeds] if stop else None
    count, device = len(seeds), model.device
    prompt_ids, prompt_mask = prompt_ids.to(device), prompt_mask.to(device)
    tokens = torch.full((count, max_new_tokens), pad_token_id, device=device)
    mask = torch.zeros(count, max_new_tokens, dtype=torch.bool, device=device)
    logps = torch.zeros(count, max_new_tokens, device=device)
    ended = torch.zeros(count, dtype=torch.bool, device=device)
    for step in decode(model, prompt_ids, prompt_mask, max_new_tokens=max_new_tokens,
                       eos_token_id=eos_token_id, seeds=seeds, rules=rules, repeats=repeats,
                       stops=None if texts is None else _stops(texts, {})):
        tokens[step.rows, step.position] = step.tokens
        logps[step.rows, step.position] = step.logps
        mask[step.rows, step.position] = True
        ended[step.rows] = step.ended
        if on_token is not None:
            on_token(step.position + 1)
    return Rollout(prompt_ids=prompt_ids.repeat_interleave(repeats, dim=0),
                   prompt_mask=prompt_mask.repeat_interleave(repeats, dim=0), response_ids=tokens,
                   response_mask=mask, logps=logps, ended=ended)


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins in ``text``; None if there is none."""
    places = [place for place in map(text.find, stop) if place >= 0]
    return min(places, default=None)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """``text`` before the first stop string."""
    return text[: find_stop(text, stop)]


class TextStream:
    """The text of one continuation while its tokens arrive.

    A token may end within a character, or within a stop string. What :meth:`push` returns is final: together
    with :meth:`finish` the pieces are ``tokenizer.decode`` of all tokens (special tokens left out), cut
    before the first stop string.

    Args:
        tokenizer: decodes the tokens.
        stop: strings that end the text. They are looked for in the text, so that a token may hold the end of
            one and more, and several tokens may make up one. Special tokens have no text: give their ids as
            end tokens instead.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        if isinstance(stop, str) or not all(stop):
            raise ValueError(f"stop must be a list of strings that are not empty, got {stop!r}")
        self.stopped = False
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._reach = max(map(len, self._stop), default=1) - 1  # a stop string may begin this far back
        # Tokens from here on are decoded again: those of the last complete piece, for the space before a word
        # depends on its left neighbour, and the new ones. `_done` characters of their text are known already.
        self._window: list[int] = []
        self._fresh, self._done = 0, 0
        self._tail = ""  # known text that may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Take the next token; returns the text that is certain now, often nothing or more than a token's."""
        self._window.append(token)
        text = self._decode(self._window)
        whole = text.rstrip(_BROKEN)
        if broken := len(text) - len(whole):
            whole = text[: len(text) - min(broken, _LONGEST)]
        piece = whole[self._done :]
        self._done = max(self._done, len(whole))
        if not broken and piece:
            del self._window[: self._fresh]
            self._fresh, self._done = len(self._window), len(self._decode(self._window))
        return self._release(piece)

    def finish(self) -> str:
        """No more tokens: the text that was held back. Nothing after a stop string."""
        if self.stopped:
            return ""
        rest = self._release(self._decode(self._window)[self._done :])
        rest, self._tail = rest + ("" if self.stopped else self._tail), ""
        return rest

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _release(self, piece: str) -> str:
        """Hold back what may become a stop string; end the text at a whole one."""
        text = self._tail + piece
        place = find_stop(text, self._stop)
        if place is not None:
            self.stopped, self._tail = True, ""
            return text[:place]
        begins = (n for n in range(min(self._reach, len(text)), 0, -1) if self._may_begin(text[-n:]))
        held = next(begins, 0)
        self._tail = text[len(text) - held :]
        return text[: len(text) - held]

    def _may_begin(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stop)


def _stops(texts: Sequence[TextStream], pieces: dict[int, str]) -> Callable[[Tensor, Tensor], Tensor]:
    """A ``stops`` for :func:`decode` that reads each row's text and leaves its next piece in ``pieces``."""

    def stops(rows: Tensor, tokens: Tensor) -> Tensor:
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            pieces[row] = texts[row].push(token)
        return torch.tensor([texts[row].stopped for row in rows.tolist()], device=rows.device)

    return stops


class TextPiece(NamedTuple):
    """The next piece of one row's text.

    Attributes:
        row: which row of the batch.
        text: only whole characters, and nothing of a stop string; empty at most in a row's last piece.
        finish: None while the row goes on; in its last piece ``stop`` (end token or stop string) or
            ``length`` (the limit).
        tokens: how many tokens the row has drawn so far, end token included.
    """

    row: int
    text: str
    finish: Literal["stop", "length"] | None
    tokens: int


def stream(model: PreTrainedModel | Prepared, tokenizer: PreTrainedTokenizerBase, prompt_ids: Tensor,
           prompt_mask: Tensor, *, max_new_tokens: int, seeds: Sequence[int],
           eos_token_id: EndTokens = None, stop: Sequence[str] = (), repeats: int = 1,
           temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0,
           repetition_penalty: float = 1.0) -> Iterator[TextPiece]:
    """Continue prompts and yield their text as it comes. Close the iterator to stop decoding.

    The pieces of a row, joined, are the text of what :func:`sample` returns for the same arguments: without
    special tokens, cut before the first stop string.

    Args:
        tokenizer: decodes; its end token ends a text.
        eos_token_id: other end tokens, such as ``models.policy.end_tokens``; None for the tokenizer's. The
            other arguments: see :func:`sample`.

    Yields:
        Pieces of all rows in turn; exactly one per row has ``finish`` set, and it is the row's last.
    """
    rules = LogitRules(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                       repetition_penalty=repetition_penalty)
    texts = [TextStream(tokenizer, stop) for _ in seeds]
    pieces: dict[int, str] = {}
    steps = decode(model, prompt_ids, prompt_mask, max_new_tokens=max_new_tokens,
                   eos_token_id=tokenizer.eos_token_id if eos_token_id is None else eos_token_id, seeds=seeds,
                   rules=rules, repeats=repeats, stops=_stops(texts, pieces))
    with closing(steps):
        for step in steps:
            drawn = step.position + 1
            for row, ended in zip(step.rows.tolist(), step.ended.tolist(), strict=True):
                text = pieces.pop(row)
                if ended or drawn == max_new_tokens:
                    text += texts[row].finish()
                    # The last token may hold what completes a stop string that had begun before it.
                    finish = "stop" if ended or texts[row].stopped else "length"
                    yield TextPiece(row, text, finish, drawn)
                elif text:
                    yield TextPiece(row, text, None, drawn)
