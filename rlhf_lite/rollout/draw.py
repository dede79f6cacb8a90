"""From a model's logits to a token: the rules of the distribution, one seed per row, one cheap draw.

The definitions of the rules and their order are those of the logits processors of transformers: repetition
penalty, temperature, top-k, top-p, min-p. A rule takes tokens away by setting their logits to -inf; what is
left is renormalised by the softmax that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The most tokens that top-p looks at before it sorts the whole vocabulary.
_CANDIDATES = 512
# Tokens per block of the two-level search below: the vocabularies of today's models are multiples of it.
_BLOCK = 128


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occurred already less likely: divide their positive logits, multiply negative ones.

    Source: Keskar et al. 2019 (arXiv:1909.05858), section 4.1, in the form of transformers, which treats
    negative logits apart. The prompt's tokens count as well; padding does not.

    Args:
        logits: ``[B, V]``.
        seen: ``[B, N]`` token ids; a token may occur several times.
        penalty: > 1 discourages repetition.
    """
    old = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(old < 0, old * penalty, old / penalty))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most likely tokens, and whatever ties with the last of them (Fan et al. 2018)."""
    k = min(k, logits.shape[-1])
    return logits.masked_fill(logits < logits.topk(k).values[..., -1:], -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches p (Holtzman et al. 2020).

    A token stays if those above it have less than p together; the most likely one always stays.
    """
    # Nearly always a few hundred tokens hold p already; sorting 49,152 of them takes ten times as long.
    for count in (min(_CANDIDATES, logits.shape[-1]), logits.shape[-1]):
        top, index = logits.topk(count)  # [B, count], most likely first
        probs = (top - logits.logsumexp(-1, keepdim=True)).exp()
        above = probs.cumsum(-1) - probs
        if bool((above[:, -1] + probs[:, -1] >= p).all()):
            break
    drop = above >= p
    drop[:, 0] = False
    nothing = torch.full_like(logits, -torch.inf)
    return nothing.scatter(1, index, top.masked_fill(drop, -torch.inf))


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens that are at least p times as likely as the most likely one (Nguyen et al. 2024)."""
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.amax(-1, keepdim=True), -torch.inf)


@dataclass(frozen=True, kw_only=True)
class LogitRules:
    """Which distribution tokens are drawn from. The defaults change nothing: the model's own softmax.

    Attributes:
        temperature: divides the logits; 0 is greedy decoding.
        top_k: keep the k most likely tokens; None keeps all.
        top_p: keep the smallest set that holds this probability; 1 keeps all.
        min_p: keep tokens at least this many times as likely as the most likely one; 0 keeps all.
        repetition_penalty: see :func:`repetition_penalty`; 1 changes nothing.

    Raises:
        ValueError: if a number is outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must not be negative (0 is greedy), got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}; None keeps every token")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1 (1 keeps every token), got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be between 0 (keeps every token) and 1, got {self.min_p}")
        if not self.repetition_penalty > 0:
            raise ValueError("repetition_penalty must be above 0 (1 changes "
                             f"nothing), got {self.repetition_penalty}")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, without chance."""
        return self.temperature == 0

    @property
    def looks_back(self) -> bool:
        """Whether :meth:`apply` needs the tokens so far."""
        return self.repetition_penalty != 1

    def apply(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """Logits ``[B, V]`` of the distribution, in float32; -inf where a token cannot be drawn.

        Args:
            logits: ``[B, V]`` as the model gives them.
            seen: ``[B, N]`` ids of the row's tokens so far; needed for the repetition penalty only.
        """
        logits = logits.float()
        if self.looks_back:
            if seen is None:
                raise ValueError("the repetition penalty needs the tokens so far: give `seen`")
            logits = repetition_penalty(logits, seen, self.repetition_penalty)
        if self.greedy:
            return logits
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p < 1:
            logits = keep_top_p(logits, self.top_p)
        if self.min_p > 0:
            logits = keep_min_p(logits, self.min_p)
        return logits


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


def step_seed(seed: int, step: int) -> int:
    """A seed for one step of a run, within the 64 bits that torch takes, also for seeds of seeds."""
    return (seed * 1_000_003 + step) & 0xFFFFFFFFFFFFFFFF


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
