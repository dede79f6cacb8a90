"""Every kind of reward through one door.

A *reward* is any function from :class:`Completions` to one number per row. It may look at token ids, at the
shared trunk's states, or at texts, which are decoded only when somebody asks::

    def likes_seven(batch):                                  # token ids; no tokenizer needed
        return ((batch.ids == 7) & batch.response_mask).sum(1)

    reward = text_reward(lambda prompts, completions: [len(c) for c in completions])    # a Python function
    reward = model_reward(reward_model, shared_trunk=True)                              # a reward model
    reward = Mixture({                                                                  # named parts
        "model": Part(model_reward(reward_model, shared_trunk=True), scale=Scale(mean=0.3, std=1.7)),
        "short": Part(length_penalty(free_tokens=20), weight=0.05),
        "ends": Part(missing_end_penalty()),
    }, clip=5.0)

Trainers call :func:`evaluate`, which checks what comes back: a wrong number of scores, a wrong type or a NaN
is an error that names the part and the row. A row must be scored by itself: in a distributed run every
process scores its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_lite.errors import RewardError
from rlhf_lite.models.reward_model import RewardModel
from rlhf_lite.rollout.sampler import EndTokens, as_list, join
from rlhf_lite.types import RewardFn, Rollout

Decode = Callable[[list[list[int]]], list[str]]
_SHOWN = 60  # characters of a text in an error


def text_decoder(tokenizer: PreTrainedTokenizerBase) -> Decode:
    """Rows of token ids to texts without special tokens, which are no words that anybody wrote.

    A reward that wants to see them takes ``tokenizer.batch_decode`` instead.
    """
    return partial(tokenizer.batch_decode, skip_special_tokens=True)


@dataclass(frozen=True)
class Completions:
    """What a reward may look at: B rows of S = P + T columns, prompts (padded on the left) then responses.

    Attributes:
        ids: ``[B, S]`` token ids.
        mask: bool ``[B, S]``; True on every token of prompt and response, the end token included.
        response_mask: bool ``[B, S]``; True on the response's tokens, the end token included.
        prompt_width: P.
        ended: bool ``[B]``; False where the length limit cut the response.
        eos_token_id: the end tokens, one or several; None where there is none.
        hidden: ``[B, S, H]`` states of the policy's frozen trunk, or None.
        decode: rows of token ids to texts, or None without a tokenizer; see :func:`text_decoder`.
    """

    ids: Tensor
    mask: Tensor
    response_mask: Tensor
    prompt_width: int
    ended: Tensor
    eos_token_id: EndTokens = None
    hidden: Tensor | None = None
    decode: Decode | None = None

    @classmethod
    def of(cls, rollout: Rollout, *, eos_token_id: EndTokens, decode: Decode | None = None,
           trunk: Callable[[Tensor, Tensor], Tensor] | None = None) -> Completions:
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
        ends = torch.tensor(as_list(self.eos_token_id), dtype=self.ids.dtype, device=self.ids.device)
        return self.mask & ~(self.response_mask & torch.isin(self.ids, ends))

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
            raise RewardError("this reward reads texts, but there is no "
                              "tokenizer: pass decode, or use token ids")
        return self.decode([row[kept].tolist() for row, kept in zip(self.ids, keep, strict=True)])


@dataclass(frozen=True)
class Rewards:
    """What :func:`evaluate` gives; every tensor float32 ``[B]``.

    Attributes:
        scores: what the trainer maximises.
        raw: the same before scaling and clipping, for the log.
        parts: of a mixture, the unscaled and unweighted score of each part by its name.
    """

    scores: Tensor
    raw: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Reward(Protocol):
    """Scores completions; higher is better. A plain function will do."""

    def __call__(self, batch: Completions) -> Tensor | Sequence[float] | Rewards:
        """One number per row, ``[B]``; mixtures return :class:`Rewards`."""
        ...


def evaluate(reward: Reward, batch: Completions, *, name: str = "reward") -> Rewards:
    """Score a batch and check what came back.

    Args:
        reward: any reward.
        batch: B completions.
        name: how errors call it.

    Raises:
        RewardError: if the result is not B finite numbers; it names the reward and the first wrong row.
    """
    try:
        with torch.no_grad():
            scores = reward(batch)
    except Exception as error:
        error.add_note(f"raised while the reward part {name!r} scored {len(batch)} completions")
        raise
    if isinstance(scores, Rewards):
        checked = (_checked(value, batch, name) for value in (scores.scores, scores.raw))
        return Rewards(*checked, scores.parts)
    scores = _checked(scores, batch, name)
    return Rewards(scores, scores)


def _checked(given: Any, batch: Completions, name: str) -> Tensor:
    """``given`` as float32 ``[B]``."""
    expected = f"expected {len(batch)} numbers, one per completion"
    if isinstance(given, Tensor):
        if given.shape != (len(batch),) or given.is_complex():
            kind = str(given.dtype).removeprefix("torch.")
            raise RewardError(f"reward part {name!r} gave a {kind} tensor {tuple(given.shape)}; {expected}")
        scores = given.detach().to(batch.ids.device, torch.float32)
    elif isinstance(given, (str, bytes, Mapping)) or not hasattr(given, "__len__"):
        raise RewardError(f"reward part {name!r} gave a {type(given).__name__}; {expected}")
    elif len(given) != len(batch):
        raise RewardError(f"reward part {name!r} gave {len(given)} scores; {expected}")
    else:
        values = [_number(value, batch, name, row) for row, value in enumerate(given)]
        scores = torch.tensor(values, dtype=torch.float32, device=batch.ids.device)
    bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if bad:
        raise RewardError(f"reward part {name!r} gave {float(scores[bad[0]])} for {_shown(batch, bad[0])}")
    return scores


def _number(value: Any, batch: Completions, name: str, row: int) -> float:
    try:
        # float("3") is 3, but a reward that answers in text is broken; so is one with a list per row.
        if not isinstance(value, str) and getattr(value, "shape", ()) == ():
            return float(value)
    except (TypeError, ValueError):
        pass  # not a number either: the error below says what it is
    raise RewardError(f"reward part {name!r} gave {value!r} ({type(value).__name__}) for "
                      f"{_shown(batch, row)}; expected a number")


def _shown(batch: Completions, row: int) -> str:
    """How an error names a row: its number, and its text or tokens."""
    if batch.decode is None:
        return f"row {row}, tokens {batch.ids[row][batch.mask[row]].tolist()}"
    return (f"row {row}, prompt {batch.prompts[row][-_SHOWN:]!r}, completion "
            f"{batch.completions[row][:_SHOWN]!r}")


# --- Kinds of reward


def text_reward(function: RewardFn) -> Reward:
    """A reward from a Python function of (prompts, completions), both lists of texts."""
    return lambda batch: function(batch.prompts, batch.completions)


def model_reward(model: RewardModel, *, shared_trunk: bool) -> Reward:
    """Raw scores of a reward model.

    Args:
        model: the reward model.
        shared_trunk: its frozen trunk is the policy's: same base model, same ``top_layers``. The scores then
            come from the policy's trunk states; otherwise the texts are read anew.
    """

    def score(batch: Completions) -> Tensor:
        if shared_trunk and batch.hidden is not None:
            # The reward model never saw an end token: it reads the last token of the text.
            place = model.body.device
            return model(batch.hidden.to(place), batch.text_mask.to(place)).float()
        return model.score_texts(batch.texts, batch.prompts)

    return score


def length_penalty(*, free_tokens: int = 0) -> Reward:
    """Minus the number of response tokens beyond ``free_tokens``; the part's weight is the price of one."""
    return lambda batch: -(batch.response_mask.sum(1) - free_tokens).clamp_min(0).float()


def missing_end_penalty() -> Reward:
    """-1 where the length limit cut the response, else 0; the part's weight is the fine."""
    return lambda batch: -(~batch.ended).float()


# --- Scales and mixtures


@dataclass(frozen=True)
class Scale:
    """Scores to ``(score - mean) / std``. ``mean=0`` scales only, and so keeps the sign of a score.

    Source: Ziegler et al. 2019, who give the reward mean 0 and variance 1 on the reference's samples.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (self.std > 0 and math.isfinite(self.mean) and math.isfinite(self.std)):
            raise ValueError("a scale needs a finite mean and std > 0, got mean "
                             f"{self.mean} and std {self.std}")

    def __call__(self, scores: Tensor) -> Tensor:
        """``[B]`` to ``[B]``."""
        return (scores - self.mean) / self.std


def measure_scale(reward: Reward, batches: Iterable[Completions], *, shift: bool = True,
                  name: str = "reward") -> Scale:
    """Mean and standard deviation of a reward, kept up batch by batch; the reference's texts are the measure.

    Measured once, before training: a scale that moved with the policy would change what is maximised.

    Args:
        reward: raw scores.
        batches: completions of the reference policy.
        shift: False keeps mean 0, so that the scale only divides.
        name: how errors call it.

    Raises:
        RewardError: if the scores do not differ, so that there is no scale.
    """
    count, total, squares, first = 0, 0.0, 0.0, None
    for batch in batches:
        scores = evaluate(reward, batch, name=name).scores.double()
        # Sums around the first score: the plain sum of squares loses its digits when the mean is large.
        first = float(scores[0]) if first is None else first
        count += len(scores)
        total += float((scores - first).sum())
        squares += float(((scores - first) ** 2).sum())
    if count < 2 or squares - total**2 / count <= 1e-12 * max(1.0, squares):
        raise RewardError(f"reward part {name!r} gave {count} equal scores: there is no scale to measure")
    mean = total / count
    std = math.sqrt((squares - count * mean**2) / (count - 1))
    return Scale(mean=first + mean if shift else 0.0, std=std)


def _clipped(scores: Tensor, clip: float | None) -> Tensor:
    return scores if clip is None else scores.clamp(-clip, clip)


@dataclass(frozen=True)
class Part:
    """One part of a mixture.

    Attributes:
        reward: its raw score.
        weight: it enters the sum times this.
        scale: applied before clipping and weighting, or None.
        clip: the scaled score is clipped to [-clip, clip], or None.
    """

    reward: Reward
    weight: float = 1.0
    scale: Scale | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ValueError(f"a weight must be finite, got {self.weight}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive or None, got {self.clip}")


@dataclass(frozen=True)
class Mixture:
    """A weighted sum of named parts: clip(sum of weight * clip(scale(part))).

    It is a reward itself. The raw score is the weighted sum of the raw parts.

    Attributes:
        parts: by name; the log shows each as ``reward/part_<name>``.
        clip: the sum is clipped to [-clip, clip], or None.
    """

    parts: Mapping[str, Part]
    clip: float | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a mixture needs at least one part")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive or None, got {self.clip}")

    def __call__(self, batch: Completions) -> Rewards:
        """Evaluate every part."""
        raw = {name: evaluate(part.reward, batch, name=name).scores for name, part in self.parts.items()}
        scores = torch.zeros(len(batch), device=batch.ids.device)
        total = torch.zeros(len(batch), device=batch.ids.device)
        for name, part in self.parts.items():
            scaled = raw[name] if part.scale is None else part.scale(raw[name])
            scores = scores + part.weight * _clipped(scaled, part.clip)
            total = total + part.weight * raw[name]
        return Rewards(_clipped(scores, self.clip), total, raw)
