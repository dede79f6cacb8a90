"""The sampling engine: one way to continue texts, for rollouts, evaluation and the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlhf_lite.models.trunk import positions
from rlhf_lite.types import Rollout


def row_seeds(seed: int, *path: int, rows: int) -> list[int]:
    """One seed per row from a run's seed and a path such as (phase, step).

    The same path gives the same seeds.
    """
    state = seed & 0xFFFFFFFF
    for part in path:
        # A 64-bit mix (splitmix64): neighbouring paths give unrelated seeds.
        state = (state + 0x9E3779B97F4A7C15 * (part + 1)) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 27
    return [(state + 0x94D049BB133111EB * (row + 1)) & 0x7FFFFFFFFFFFFFFF for row in range(rows)]


def _uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """Uniform numbers ``[B, T]`` in [0, 1), row b from its own seed.

    A row's sample therefore ignores its neighbours.
    """
    rows = [torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows) if rows else torch.empty(0, steps)


def _draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution.

    Args:
        logits: ``[B, V]`` float32.
        uniforms: ``[B]`` in [0, 1).
        temperature: 0 takes the most likely token.

    Returns:
        tokens ``[B]`` and their log-probabilities ``[B]``.
    """
    if temperature == 0.0:
        tokens = logits.argmax(-1)
        return tokens, torch.zeros_like(uniforms)
    logp = torch.log_softmax(logits / temperature, dim=-1)
    cumulative = logp.exp().cumsum(-1)
    # Rounding leaves the last entry a little off 1; scaling by it keeps every draw inside the vocabulary.
    targets = (uniforms * cumulative[:, -1]).unsqueeze(-1)
    tokens = torch.searchsorted(cumulative, targets, right=True).squeeze(-1)
    tokens = tokens.clamp_max(logits.shape[-1] - 1)
    return tokens, logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def join(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, mask and response mask, each ``[B, P + T]``, of prompts followed by their continuations."""
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)
    mask = torch.cat([rollout.prompt_mask, rollout.response_mask], dim=1)
    no_prompt = torch.zeros_like(rollout.prompt_mask)
    return ids, mask, torch.cat([no_prompt, rollout.response_mask], dim=1)


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    *,
    max_new_tokens: int,
    eos_token_id: int,
    pad_token_id: int,
    seeds: Sequence[int],
    temperature: float = 1.0,
    on_token: Callable[[int], None] | None = None,
) -> Rollout:
    """Continue left-padded prompts with a key-value cache; rows that have ended leave the batch.

    Args:
        model: a causal model; fold adapters into its weights first (``models.adapters.merged``).
        prompt_ids: ``[B, P]``, padded on the left.
        prompt_mask: bool ``[B, P]``; True counts.
        max_new_tokens: T, the longest continuation.
        eos_token_id: ends a row.
        pad_token_id: fills what follows the end.
        seeds: one per row; the same seed, prompt and model give the same continuation in any batch, up to
            floating-point ties.
        temperature: divides the logits; 0 is greedy decoding.
        on_token: called with the number of decoded positions, for progress bars.

    Returns:
        Tokens, mask (True up to and including the end token), the log-probabilities they were drawn with, and
        which rows ended by themselves.

    Raises:
        ValueError: if the prompts are not left-padded or ``seeds`` has another length than the batch.
    """
    batch, width = prompt_ids.shape
    if len(seeds) != batch:
        raise ValueError(f"one seed per row: got {len(seeds)} seeds for {batch} prompts")
    if not bool(prompt_mask[:, -1].all()):
        raise ValueError("prompts must be padded on the left: the last column of prompt_mask must be True")
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")

    tokens = torch.full((batch, max_new_tokens), pad_token_id)
    mask = torch.zeros(batch, max_new_tokens, dtype=torch.bool)
    logps = torch.zeros(batch, max_new_tokens)
    uniforms = _uniforms(seeds, max_new_tokens)
    alive = torch.arange(batch)  # rows of the full batch that are still in the cache
    running = torch.ones(batch, dtype=torch.bool)  # of those, the ones that have not ended
    cache, head = DynamicCache(config=model.config), model.get_output_embeddings()
    ids, attention = prompt_ids, prompt_mask.long()
    place = positions(prompt_mask)

    for t in range(max_new_tokens):
        states = model.base_model(
            input_ids=ids, attention_mask=attention, position_ids=place, past_key_values=cache, use_cache=True
        ).last_hidden_state
        # Contiguous and 2-D: on a slice of the prompt's states the bfloat16 head is many times slower.
        logits = head(states[:, -1].contiguous()).float()
        drawn, logp = _draw(logits, uniforms[alive, t], temperature)
        rows = alive[running]
        tokens[rows, t], logps[rows, t] = drawn[running], logp[running]
        mask[rows, t] = True
        running = running & (drawn != eos_token_id)
        if on_token is not None:
            on_token(t + 1)
        if not bool(running.any()):
            break
        place = place[:, -1:] + 1
        attention = torch.cat([attention, attention.new_ones(len(alive), 1)], dim=1)
        # Dropping rows copies the cache, so wait until a quarter of the batch is idle.
        if float(running.float().mean()) <= 0.75:
            cache.batch_select_indices(running.nonzero().squeeze(-1))
            alive, attention = alive[running], attention[running]
            place, drawn = place[running], drawn[running]
            running = torch.ones(len(alive), dtype=torch.bool)
        ids = drawn.unsqueeze(-1)
    return Rollout(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=tokens,
        response_mask=mask,
        logps=logps,
        ended=(mask & (tokens == eos_token_id)).any(1),
    )
