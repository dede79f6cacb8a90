"""Random numbers for sampling: one seed per row, one uniform number per token, one cheap draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Tokens per block of the two-level search below: the vocabularies of today's models are multiples of it.
_BLOCK = 128


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


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """Uniform numbers ``[B, T]`` in [0, 1), row b from its own seed.

    A row's sample therefore ignores its neighbours.
    """
    rows = [torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows) if rows else torch.empty(0, steps)


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution, in two steps.

    The vocabulary is cut into blocks. The cumulative sum over the blocks' weights finds the block, the one
    inside it finds the token: a cumulative sum over the whole vocabulary is never formed. That would be
    slower than a pass of the model's layers, and in float32 less exact.

    Args:
        logits: ``[B, V]`` float32; -inf where a token cannot be drawn.
        uniform: ``[B]`` in [0, 1).

    Returns:
        tokens ``[B]`` and their log-probabilities ``[B]``, in nats.
    """
    probs = logits.softmax(-1)  # [B, V]
    gap = -probs.shape[-1] % _BLOCK
    if gap:
        probs = torch.nn.functional.pad(probs, (0, gap))
    blocks = probs.unflatten(-1, (-1, _BLOCK))  # [B, V / block, block]
    ends = blocks.sum(-1).cumsum(-1)  # [B, V / block]
    # The last end is 1 up to rounding; scaling by it keeps every draw inside the vocabulary.
    block, rest = _invert(ends, uniform.unsqueeze(-1) * ends[:, -1:])  # [B, 1] each
    inside = blocks.gather(1, block.unsqueeze(-1).expand(-1, -1, _BLOCK)).squeeze(1)  # [B, block]
    place, _ = _invert(inside.cumsum(-1), rest)
    return (block * _BLOCK + place).squeeze(-1), inside.gather(-1, place).log().squeeze(-1)


def _invert(ends: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The first entry of ``ends`` ``[B, N]`` above ``target`` ``[B, 1]``, and how far target reaches into it.

    An entry without weight is never the first above anything. Rounding must not push the target to the last
    end, where nothing is left to find.
    """
    last = ends[:, -1:]
    target = torch.minimum(target, last.nextafter(torch.zeros_like(last)))
    index = torch.searchsorted(ends, target, right=True)
    before = ends.gather(-1, (index - 1).clamp_min(0)).masked_fill(index == 0, 0.0)
    return index, target - before
