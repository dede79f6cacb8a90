"""What this room asks of a language model: write after a prompt, and say how likely given words are.

Any causal model can be a writer, the policy itself or a bigger one by name, so that a judge is exchanged by
exchanging one argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rlhf_lite.data.collate import pad_left, pad_right
from rlhf_lite.data.formatting import encode_prompts
from rlhf_lite.functional import sequence_logps
from rlhf_lite.models.policy import Policy, PolicyScorer
from rlhf_lite.rollout.decoder import prepare
from rlhf_lite.rollout.sampler import row_seeds, sample
from rlhf_lite.rollout.text import cut_at_stop


class Writer(Protocol):
    """A language model as this room sees it."""

    name: str
    """Which model, for the records."""

    def write(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        seed: int,
        temperature: float = 1.0,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """A continuation of each prompt, cut before the first stop string, without white space around it."""
        ...

    def log_probabilities(self, prompts: Sequence[str], continuations: Sequence[str]) -> Tensor:
        """Log-probability of each continuation after its prompt, in nats, ``[B]``."""
        ...


class PolicyWriter:
    """A policy as a writer.

    Args:
        policy: model and tokenizer.
        batch_size: texts in one forward pass.
        max_tokens: a longer prompt loses its beginning.
    """

    def __init__(self, policy: Policy, *, batch_size: int = 16, max_tokens: int = 1024) -> None:
        self.name = policy.name
        self._model, self._tokenizer = policy.model, policy.tokenizer
        self._scorer = PolicyScorer(policy.model, top_layers=None)
        self._batch, self._max = batch_size, max_tokens

    def write(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        seed: int,
        temperature: float = 1.0,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """See :class:`Writer`; the text after prompt i depends on ``seed`` and i, not on its neighbours."""
        encoded = [ids[-self._max :] for ids in encode_prompts(self._tokenizer, prompts)]
        seeds = row_seeds(seed, rows=len(encoded))
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        texts = [""] * len(encoded)
        for start in range(0, len(order), self._batch):
            rows = order[start : start + self._batch]
            rollout = sample(
                self._model,
                *pad_left([encoded[row] for row in rows], self._tokenizer.pad_token_id),
                max_new_tokens=max_new_tokens,
                eos_token_id=self._tokenizer.eos_token_id,
                pad_token_id=self._tokenizer.pad_token_id,
                temperature=temperature,
                seeds=[seeds[row] for row in rows],
                stop=stop,
                tokenizer=self._tokenizer,
            )
            ids = rollout.response_ids.where(rollout.response_mask, self._tokenizer.pad_token_id)
            written = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
            for row, text in zip(rows, written, strict=True):
                texts[row] = cut_at_stop(text, stop).strip()
        return texts

    @torch.no_grad()
    def log_probabilities(self, prompts: Sequence[str], continuations: Sequence[str]) -> Tensor:
        """See :class:`Writer`; prompt and continuation are tokenised apart.

        Raises:
            ValueError: if a continuation has no token.
        """
        heads = [ids[-self._max :] for ids in encode_prompts(self._tokenizer, prompts)]
        tails = self._tokenizer(list(continuations), add_special_tokens=False)["input_ids"]
        for text, ids in zip(continuations, tails, strict=True):
            if not ids:
                raise ValueError(f"the continuation {text!r} has no token, so nothing can be said about it")
        found = torch.zeros(len(heads))
        # One word of one token, asked about twice after one prompt ("Yes" and "No"), needs one forward pass.
        single = [i for i, ids in enumerate(tails) if len(ids) == 1]
        self._next_tokens([heads[i] for i in single], [tails[i][0] for i in single], found, single)
        order = [i for i in range(len(heads)) if len(tails[i]) > 1]
        order.sort(key=lambda i: len(heads[i]) + len(tails[i]))
        for start in range(0, len(order), self._batch):
            rows = order[start : start + self._batch]
            ids, mask = pad_right([heads[i] + tails[i] for i in rows], self._tokenizer.pad_token_id)
            wanted = torch.zeros_like(mask)
            for place, i in enumerate(rows):
                wanted[place, len(heads[i]) : len(heads[i]) + len(tails[i])] = True
            scores = self._scorer.score(ids, mask, wanted)
            found[rows] = sequence_logps(scores.logps, wanted).float().cpu()
        return found

    def _next_tokens(
        self, heads: Sequence[list[int]], tokens: Sequence[int], found: Tensor, places: Sequence[int]
    ) -> None:
        """Write the log-probability of each token after its head into ``found`` at its place."""
        asked: dict[tuple[int, ...], list[int]] = {}
        for row, head in enumerate(heads):
            asked.setdefault(tuple(head), []).append(row)
        if not asked:
            return
        # The decoder reads what all prompts of a batch begin with (a question's examples) only once.
        order, ready = sorted(asked, key=len), prepare(self._model, steps=1)
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            ids, mask = pad_left([list(head) for head in part], self._tokenizer.pad_token_id)
            logits = ready.decoder().prefill(ids, mask, repeats=1, room=1)  # [B, V]
            logps = logits.float().log_softmax(-1).cpu()
            for place, head in enumerate(part):
                for row in asked[head]:
                    found[places[row]] = logps[place, tokens[row]]
