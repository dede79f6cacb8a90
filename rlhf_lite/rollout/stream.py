"""Text while it is being written, for the demo and the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_lite.rollout.decoder import Prepared
from rlhf_lite.rollout.logit_rules import LogitRules
from rlhf_lite.rollout.sampler import decode
from rlhf_lite.rollout.text import TextStream


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


def stream(
    model: PreTrainedModel | Prepared,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    *,
    max_new_tokens: int,
    seeds: Sequence[int],
    eos_token_id: int | Sequence[int] | None = None,
    stop: Sequence[str] = (),
    repeats: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> Iterator[TextPiece]:
    """Continue prompts and yield their text as it comes. Close the iterator to stop decoding.

    The pieces of a row, joined, are the text of what :func:`rlhf_lite.rollout.sampler.sample` returns for the
    same arguments: without special tokens, cut before the first stop string.

    Args:
        tokenizer: decodes; its end token is the default of ``eos_token_id``.
        model, prompt_ids, prompt_mask, max_new_tokens, seeds, eos_token_id, stop, repeats: see
            :func:`rlhf_lite.rollout.sampler.sample`.
        temperature, top_k, top_p, min_p, repetition_penalty: see :func:`rlhf_lite.rollout.sampler.sample`.

    Yields:
        Pieces of all rows in turn; exactly one per row has ``finish`` set, and it is the row's last.
    """
    rules = LogitRules(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
    )
    texts = [TextStream(tokenizer, stop) for _ in seeds]
    pieces: dict[int, str] = {}

    def stops(rows: Tensor, tokens: Tensor) -> Tensor:
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            pieces[row] = texts[row].push(token)
        return torch.tensor([texts[row].stopped for row in pieces], device=rows.device)

    steps = decode(
        model,
        prompt_ids,
        prompt_mask,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id if eos_token_id is None else eos_token_id,
        seeds=seeds,
        rules=rules,
        repeats=repeats,
        stops=stops,
    )
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
