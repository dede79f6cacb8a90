"""The records that travel between the rooms of the package.

**The mask convention.** Everywhere in this package a mask is a bool tensor, and ``mask=True`` means that the
entry *counts*: the token is real, the loss includes it, the mean runs over it. Padding is False. (PyTorch's
attention modules and some libraries mean the opposite by ``padding_mask``; nothing here does.)

**Shape letters.** B batch, P prompt tokens, T response tokens, V vocabulary.

Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rating:
    """One text with the scores that single people gave it.

    Attributes:
        id: unique within its source.
        text: what the raters read.
        ratings: one whole number per rater, -4 (extremely negative) ... +4 (extremely positive).
        source: name of the collection, such as ``movie``.
    """

    id: str
    text: str
    ratings: tuple[int, ...]
    source: str

    def __post_init__(self) -> None:
        if not self.ratings:
            raise ValueError(f"rating {self.id!r} of {self.source!r} has no raters: drop it")

    @property
    def n(self) -> int:
        """Number of raters."""
        return len(self.ratings)

    @property
    def mean(self) -> float:
        """Mean over the raters."""
        return sum(self.ratings) / self.n

    @property
    def std(self) -> float:
        """Standard deviation over the raters as a population (divided by n, as the source does)."""
        mean = self.mean
        return (sum((r - mean) ** 2 for r in self.ratings) / self.n) ** 0.5


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        content: its text.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Dialogue:
    """A preference between two answers within one conversation, as messages.

    Attributes:
        prompt: the turns that both answers follow.
        chosen: the preferred answer.
        rejected: the other answer.
    """

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message


@dataclass(frozen=True)
class Preference:
    """Of two continuations of one prompt, the one that people (or a judge) liked better.

    ``prompt + chosen`` and ``prompt + rejected`` are the two full texts: a continuation keeps the space it
    starts with, so nothing has to be inserted in between.

    Attributes:
        prompt: may be empty.
        chosen: the better continuation.
        rejected: the other one.
        margin: by how much chosen is better, in points of the rating scale (>= 0); None if unknown.
        meta: whatever else the source said. ``make_pairs`` puts ``agreement``, ids and means there.
        dialogue: the same preference as messages, when the source was a conversation; None otherwise.
    """

    prompt: str
    chosen: str
    rejected: str
    margin: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    dialogue: Dialogue | None = None


@dataclass(frozen=True)
class Rollout:
    """Responses sampled from a policy, with what it takes to learn from them. Prompts are padded on the left.

    Attributes:
        prompt_ids: [B, P] token ids.
        prompt_mask: [B, P] bool, True on the prompt's tokens, False on padding.
        response_ids: [B, T] token ids.
        response_mask: [B, T] bool, True up to and including the end token.
        logps: [B, T] log-probability of each response token under the policy that *sampled* it, in nats.
        ref_logps: [B, T] the same tokens under the frozen reference, in nats; None if not computed.
        ended: [B] bool, True where the end token was sampled, False where the length limit cut the response.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    logps: Tensor
    ref_logps: Tensor | None = None
    ended: Tensor | None = None

    def __post_init__(self) -> None:
        rows, length = self.response_ids.shape
        expected = {"prompt_mask": (self.prompt_mask, tuple(self.prompt_ids.shape)),
                    "response_mask": (self.response_mask, (rows, length)),
                    "logps": (self.logps, (rows, length)), "ref_logps": (self.ref_logps, (rows, length)),
                    "ended": (self.ended, (rows,))}
        if self.prompt_ids.shape[0] != rows:
            raise ValueError(f"prompt_ids has {self.prompt_ids.shape[0]} rows, response_ids {rows}")
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
        for name in ("prompt_mask", "response_mask"):
            mask = getattr(self, name)
            if "bool" not in str(mask.dtype):
                raise ValueError(f"{name} has type {mask.dtype}, expected bool (True counts)")

    def __len__(self) -> int:
        return int(self.response_ids.shape[0])

    def rows(self, index: Tensor) -> Rollout:
        """The given rows."""
        return Rollout(**{n: None if tensor is None else tensor[index] for n, tensor in vars(self).items()})


@runtime_checkable
class RewardFn(Protocol):
    """Scores completions; higher is better. A trained reward model, a rule and a lexicon all fit."""

    def __call__(self, prompts: list[str], completions: list[str]) -> Sequence[float] | Tensor:
        """Scores of shape [B], one per pair of prompt and completion."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Compares two completions of the same prompt."""

    def __call__(self, prompts: list[str], first: list[str], second: list[str]) -> Sequence[float] | Tensor:
        """Probabilities of shape [B] that ``first`` is the better one; 0.5 is a tie."""
        ...
