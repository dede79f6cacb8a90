"""What a reward may look at: token ids, masks, trunk states, and texts, decoded only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from rlhf_lite.errors import RewardError
from rlhf_lite.rollout.sampler import join
from rlhf_lite.types import Rollout

Decode = Callable[[list[list[int]]], list[str]]


@dataclass(frozen=True)
class Completions:
    """What a reward may look at: B rows of S = P + T columns, prompts (padded on the left) then responses.

    Attributes:
        ids: ``[B, S]`` token ids.
        mask: bool ``[B, S]``; True on every token of prompt and response, the end token included.
        response_mask: bool ``[B, S]``; True on the response's tokens, the end token included.
        prompt_width: P.
        ended: bool ``[B]``; False where the length limit cut the response.
        eos_token_id: the end token; None where there is none.
        hidden: ``[B, S, H]`` states of the policy's frozen trunk, or None.
        decode: rows of token ids to texts, or None without a tokenizer.
    """

    ids: Tensor
    mask: Tensor
    response_mask: Tensor
    prompt_width: int
    ended: Tensor
    eos_token_id: int | None = None
    hidden: Tensor | None = None
    decode: Decode | None = None

    @classmethod
    def of(
        cls,
        rollout: Rollout,
        *,
        eos_token_id: int | None,
        decode: Decode | None = None,
        trunk: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Completions:
        """The completions of a rollout; ``trunk`` maps (ids, mask) to hidden states."""
        ids, mask, response = join(rollout)
        ended = mask[:, 0].new_zeros(len(mask)) if rollout.ended is None else rollout.ended
        hidden = None if trunk is None else trunk(ids, mask)
        width = rollout.prompt_ids.shape[1]
        return cls(ids, mask, response, width, ended, eos_token_id, hidden, decode)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def response_ids(self) -> Tensor:
        """``[B, T]``, the responses' columns; what follows a response is padding."""
        return self.ids[:, self.prompt_width :]

    @cached_property
    def text_mask(self) -> Tensor:
        """Mask ``[B, S]``: ``mask`` without the end tokens, which are no text."""
        if self.eos_token_id is None:
            return self.mask
        return self.mask & ~(self.response_mask & (self.ids == self.eos_token_id))

    @cached_property
    def prompts(self) -> list[str]:
        """The prompts as texts."""
        return self._decoded(self.mask & ~self.response_mask)

    @cached_property
    def completions(self) -> list[str]:
        """The responses as texts, without the end token."""
        return self._decoded(self.text_mask & self.response_mask)

    @property
    def texts(self) -> list[str]:
        """Prompt and response together."""
        return [prompt + text for prompt, text in zip(self.prompts, self.completions, strict=True)]

    def _decoded(self, keep: Tensor) -> list[str]:
        if self.decode is None:
            raise RewardError(
                "this reward reads texts, but there is no tokenizer: pass decode, or use token ids"
            )
        return self.decode([row[kept].tolist() for row, kept in zip(self.ids, keep, strict=True)])
