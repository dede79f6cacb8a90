"""What this room asks of a language model: write after a prompt, and say how likely given words are.

Any causal model can be a writer, the policy itself or a bigger one by name, so that a judge is exchanged by
exchanging one argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf_lite.data.collate import pad_left, pad_right
from rlhf_lite.data.formatting import common_length, encode_prompts, keep_end, start_tokens, token_ids
from rlhf_lite.functional import sequence_logps, token_logps
from rlhf_lite.models.output import causal_model, final_logits
from rlhf_lite.models.policy import Policy, PolicyScorer, end_tokens
from rlhf_lite.rollout.decoder import prepare
from rlhf_lite.rollout.sampler import cut_at_stop, row_seeds, sample

# One more step of decoding a small batch costs about as much as reading so many tokens, on two cores.
_TOKENS_PER_STEP = 15


class Writer(Protocol):
    """A language model as this room sees it."""

    name: str
    """Which model, for the records."""

    def write(self, prompts: Sequence[str], *, max_new_tokens: int, seed: int, temperature: float = 1.0,
              stop: Sequence[str] = ()) -> list[str]:
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
        self._ends = end_tokens(policy.model, policy.tokenizer)
        self._scorer = PolicyScorer(policy.model, top_layers=None)
        self._batch, self._max = batch_size, max_tokens

    def write(self, prompts: Sequence[str], *, max_new_tokens: int, seed: int, temperature: float = 1.0,
              stop: Sequence[str] = ()) -> list[str]:
        """See :class:`Writer`; the text after prompt i depends on ``seed`` and i, not on its neighbours."""
        encoded = self._heads(prompts)
        seeds = row_seeds(seed, rows=len(encoded))
        texts, ready = [""] * len(encoded), prepare(self._model, steps=max_new_tokens)
        for rows in batches_to_write(encoded, self._batch, steps=max_new_tokens):
            rollout = sample(ready, *pad_left([encoded[row] for row in rows], self._tokenizer.pad_token_id),
                             max_new_tokens=max_new_tokens, eos_token_id=self._ends,
                             pad_token_id=self._tokenizer.pad_token_id, temperature=temperature,
                             seeds=[seeds[row] for row in rows], stop=stop, tokenizer=self._tokenizer)
            ids = rollout.response_ids.where(rollout.response_mask, self._tokenizer.pad_token_id)
            written = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
            for row, text in zip(rows, written, strict=True):
                texts[row] = cut_at_stop(text, stop).strip()
        return texts

    def _heads(self, prompts: Sequence[str]) -> list[list[int]]:
        head = start_tokens(self._tokenizer)
        return [keep_end(ids, self._max, head) for ids in encode_prompts(self._tokenizer, prompts)]

    @torch.no_grad()
    def log_probabilities(self, prompts: Sequence[str], continuations: Sequence[str]) -> Tensor:
        """See :class:`Writer`; prompt and continuation are tokenised apart.

        Raises:
            ValueError: if a continuation has no token.
        """
        heads, tails = self._heads(prompts), token_ids(self._tokenizer, continuations, start=False)
        for text, ids in zip(continuations, tails, strict=True):
            if not ids:
                raise ValueError(f"the continuation {text!r} has no token, so nothing can be said about it")
        logps = torch.zeros(len(heads))
        # One word of one token, asked about twice after one prompt ("Yes" and "No"), needs one forward pass.
        single = [i for i, ids in enumerate(tails) if len(ids) == 1]
        logps[single] = self._next_tokens([heads[i] for i in single], [tails[i][0] for i in single])
        order = []
        for rows in _same(heads, [i for i in range(len(heads)) if len(tails[i]) > 1]):
            if len(rows) == 1:
                order += rows
                continue
            rows.sort(key=lambda i: len(tails[i]))
            for start in range(0, len(rows), self._batch):
                part = rows[start : start + self._batch]
                logps[part] = self._after_one(heads[part[0]], [tails[i] for i in part])
        order.sort(key=lambda i: len(heads[i]) + len(tails[i]))
        for start in range(0, len(order), self._batch):
            rows = order[start : start + self._batch]
            ids, mask = self._pad(pad_right, [heads[i] + tails[i] for i in rows])
            score_mask = torch.zeros_like(mask)
            for place, i in enumerate(rows):
                score_mask[place, len(heads[i]) : len(heads[i]) + len(tails[i])] = True
            scores = self._scorer.score(ids, mask, score_mask)
            logps[rows] = sequence_logps(scores.logps, score_mask).float().cpu()
        return logps

    def _pad(self, pad: Callable[..., tuple[Tensor, Tensor]],
             rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask, where the model is."""
        return pad(rows, self._tokenizer.pad_token_id, device=self._scorer.device)

    def _after_one(self, head: list[int], tails: Sequence[list[int]]) -> Tensor:
        """Log-probability ``[B]`` of each tail after the same head, which is read once."""
        causal = causal_model(self._model)
        body, cache = causal.base_model, DynamicCache(config=causal.config)
        ids, mask = self._pad(pad_right, tails)  # [B, T]
        read = body(input_ids=torch.tensor([head], device=ids.device), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(ids))
        whole = torch.cat([mask.new_ones(len(ids), len(head)), mask], dim=1).long()
        states = body(input_ids=ids, attention_mask=whole, past_key_values=cache, use_cache=True,
                      position_ids=(len(head) + torch.arange(ids.shape[1], device=ids.device)).expand_as(ids),
                      ).last_hidden_state  # [B, T, H]
        # The state before each token: the head's last one, then those of the tail itself.
        first = read.last_hidden_state[:, -1:].expand(len(ids), -1, -1)
        before = torch.cat([first, states[:, :-1]], dim=1)[mask]  # [N, H]
        logps = token_logps(final_logits(causal, before), ids[mask])
        return torch.zeros(ids.shape).masked_scatter(mask.cpu(), logps.float().cpu()).sum(1)

    def _next_tokens(self, heads: Sequence[list[int]], tokens: Sequence[int]) -> Tensor:
        """Log-probability ``[B]`` of each token after its head."""
        chosen = torch.zeros(len(heads))
        asked = sorted(_same(heads, range(len(heads))), key=lambda rows: len(heads[rows[0]]))
        if not asked:
            return chosen
        # The decoder reads what all prompts of a batch begin with (a question's examples) only once.
        ready = prepare(self._model, steps=1)
        for start in range(0, len(asked), self._batch):
            part = asked[start : start + self._batch]
            ids, mask = self._pad(pad_left, [heads[rows[0]] for rows in part])
            logits = ready.decoder().prefill(ids, mask, repeats=1, room=1)  # [B, V]
            logps = logits.float().log_softmax(-1).cpu()
            for place, rows in enumerate(part):
                for row in rows:
                    chosen[row] = logps[place, tokens[row]]
        return chosen


def _same(heads: Sequence[list[int]], rows: Sequence[int]) -> list[list[int]]:
    """The rows in groups with one and the same head."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        groups.setdefault(tuple(heads[row]), []).append(row)
    return list(groups.values())


def batches_to_write(prompts: Sequence[Sequence[int]], size: int, *, steps: int) -> list[list[int]]:
    """Rows of ``prompts`` in batches that are fast to continue by up to ``steps`` tokens.

    The decoder reads only once what all prompts of a batch begin with, such as the examples of one principle.
    So prompts that have more than half of their tokens in common make batches of their own, if that saves
    more reading than the additional decoding costs. All others stand together, in order of length.

    Args:
        prompts: their token ids.
        size: the largest batch.
        steps: the longest continuation, tokens.
    """
    families: list[tuple[list[int], int]] = []  # rows, and how many tokens all of them begin with
    for row in sorted(range(len(prompts)), key=lambda i: list(prompts[i])):
        rows, common = families[-1] if families else ([row], 0)
        shared = min(common, common_length(prompts[rows[0]], prompts[row]))
        if 2 * shared > len(prompts[row]):
            families[-1] = ([*rows, row], shared)
        else:
            families.append(([row], len(prompts[row])))
    groups, rest = [], list[int]()
    for rows, common in families:
        if common * (len(rows) - 1) > _TOKENS_PER_STEP * steps:
            groups.append(rows)
        else:
            rest += rows
    ordered = [sorted(rows, key=lambda i: (len(prompts[i]), i)) for rows in (*groups, rest)]
    return [rows[i : i + size] for rows in ordered for i in range(0, len(rows), size)]
