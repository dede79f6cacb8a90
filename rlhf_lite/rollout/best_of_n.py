"""Best of n: sample n continuations of each prompt and keep the one that the reward likes best.

No training, and hard to beat at a small distance from the reference: a control for every trained policy, and
the first half of rejection sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_lite.functional import best_of_n_estimate
from rlhf_lite.rollout.rewards import Completions, Decode, Reward, evaluate
from rlhf_lite.rollout.sampler import EndTokens, sample
from rlhf_lite.types import Rollout


@dataclass(frozen=True)
class BestOfN:
    """The winners, and the pool they were chosen from.

    Attributes:
        rollout: B rows, the winner of each prompt.
        place: ``[B]``, which of its prompt's n continuations won.
        scores: ``[B, n]``, of every continuation.
    """

    rollout: Rollout
    place: Tensor
    scores: Tensor

    def expected(self, k: int, values: Tensor | None = None) -> float:
        """Unbiased estimate of the winner's mean score if only ``k <= n`` had been sampled.

        Args:
            k: at least 1; 1 gives the mean of the policy itself.
            values: ``[B, n]`` what another judge says of the same continuations; default the scores.
        """
        values = self.scores if values is None else values
        rows = zip(self.scores, values, strict=True)
        return float(torch.stack([best_of_n_estimate(pool, each, n=k) for pool, each in rows]).mean())


def choose_best(scores: Tensor) -> Tensor:
    """Place ``[B]`` of the highest of ``[B, n]`` scores; of equals the first.

    ``argmax`` may return any of the tied places, which would differ between machines.
    """
    if scores.dim() != 2 or scores.shape[1] == 0:
        raise ValueError(f"scores must be [B, n] with n >= 1, got {tuple(scores.shape)}")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores must be finite: a NaN can be neither best nor worst")
    first = torch.arange(scores.shape[1], 0, -1, device=scores.device)
    return ((scores == scores.amax(1, keepdim=True)) * first).argmax(1)


@torch.no_grad()
def best_of_n(model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, *, n: int, reward: Reward,
              max_new_tokens: int, eos_token_id: EndTokens, pad_token_id: int, seeds: Sequence[int],
              temperature: float = 1.0, decode: Decode | None = None,
              trunk: Callable[[Tensor, Tensor], Tensor] | None = None) -> BestOfN:
    """Sample n continuations per prompt and choose the best.

    Args:
        model: a causal model; fold adapters into its weights first.
        prompt_ids: ``[B, P]``, padded on the left.
        prompt_mask: bool ``[B, P]``; True counts.
        n: continuations per prompt.
        reward: what is best; see ``rollout.rewards``. A mixture's ``scores`` decide.
        max_new_tokens: length limit.
        eos_token_id: the end tokens, one or several; None where there is none.
        pad_token_id: fills rows.
        seeds: one per continuation, B * n; those of one prompt are adjacent.
        temperature: of the sampling.
        decode: for rewards that read texts.
        trunk: (ids, mask) to the policy's trunk states, for a reward model that shares them.

    Raises:
        ValueError: if n < 1, or there are not B * n seeds.
        RewardError: if the reward gives something other than finite numbers.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rollout = sample(model, prompt_ids, prompt_mask, max_new_tokens=max_new_tokens,
                     eos_token_id=eos_token_id, pad_token_id=pad_token_id, seeds=seeds,
                     temperature=temperature, repeats=n)
    batch = Completions.of(rollout, eos_token_id=eos_token_id, decode=decode, trunk=trunk)
    scores = evaluate(reward, batch).scores.view(-1, n)
    place = choose_best(scores)
    winners = rollout.rows(torch.arange(len(place), device=place.device) * n + place)
    return BestOfN(winners, place, scores)
