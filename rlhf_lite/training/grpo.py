"""Policy gradients without a critic: GRPO, Dr. GRPO, DAPO and RLOO in one trainer.

Several completions of the same prompt are each other's baseline. Three choices tell the published methods
apart, and :data:`METHODS` names their combinations::

    train_grpo(setup, prompts, GRPOSettings(**METHODS["rloo"], group_size=4, ...), optimiser=..., run=...)

- ``estimator``: reward minus the group's mean, divided by its standard deviation (``grpo``, Shao et al. 2024)
  or not (``dr_grpo``, Liu et al. 2025), or minus the mean of the *others* (``rloo``, Ahmadian et al. 2024);
- ``aggregation``: how tokens become a loss, see ``functional.aggregation_weights``; ``sequence`` takes whole
  completions as the unit, with one ratio for each, as RLOO does;
- ``kl_in``: the penalty for leaving the reference comes off each completion's reward before the baseline
  (``reward``), or is added to each token's loss as k3 (``loss``), or as k3 times the ratio
  (``weighted_loss``, DeepSeek-V3.2, arXiv:2512.02556; the default of TRL 1.16).

With ``kl_in="reward"`` all of them aim at the optimum of E[r] - β KL(π || π_ref): the estimators differ by a
factor per prompt, which rescales the step and not its goal. In the loss it is another matter. The reward is
divided by its deviation σ and the penalty is not, so that a nat costs β σ, another price for every prompt.
And the expected gradient of k3 is that of KL(π_ref || π), the other direction; the ratio mends this at each
token, but still leaves out what a token does to the KL of the tokens after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor

from rlhf_lite.functional import (
    aggregation_weights,
    group_advantages,
    grpo_loss,
    kl_estimate,
    masked_sum,
    rloo_advantages,
)
from rlhf_lite.models.policy import TokenScores
from rlhf_lite.training.policy_gradient import PolicyGradientSettings, UnitLosses, train
from rlhf_lite.training.rollouts import Batch, PolicyGradientSetup
from rlhf_lite.training.settings import OptimiserSettings, RunSettings

Estimator = Literal["grpo", "dr_grpo", "rloo"]
Aggregation = Literal["grpo", "dapo", "bnpo", "dr_grpo", "sequence"]
KLPlace = Literal["reward", "loss", "weighted_loss"]

ESTIMATORS: Mapping[str, Callable[..., Tensor]] = MappingProxyType({
    "grpo": partial(group_advantages, scale="std"),
    "dr_grpo": partial(group_advantages, scale="none"),
    "rloo": rloo_advantages,
})

# The published methods, as arguments of GRPOSettings.
METHODS: Mapping[str, Mapping[str, str]] = MappingProxyType({
    "grpo": {"estimator": "grpo", "aggregation": "grpo", "kl_in": "loss"},
    "dapo": {"estimator": "grpo", "aggregation": "dapo", "kl_in": "loss"},
    "dr_grpo": {"estimator": "dr_grpo", "aggregation": "dr_grpo", "kl_in": "loss"},
    "rloo": {"estimator": "rloo", "aggregation": "sequence", "kl_in": "reward"},
})
# Beyond this a log-ratio is a broken sample, and its exponential would overflow.
_LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True, kw_only=True)
class GRPOSettings(PolicyGradientSettings):
    """What GRPO and its relatives are told.

    Attributes:
        group_size: completions per prompt, at least 2.
        estimator, aggregation, kl_in: see the head of this file.
        clip_high: DAPO's upper limit of the ratio, 1 + clip_high; None takes ``clip``.

    Raises:
        ValueError: if a choice does not exist, or two do not fit together.
    """

    group_size: int
    estimator: Estimator = "grpo"
    aggregation: Aggregation = "grpo"
    kl_in: KLPlace = "loss"
    clip_high: float | None = None

    def __post_init__(self) -> None:
        for name, kind in (("estimator", Estimator), ("aggregation", Aggregation), ("kl_in", KLPlace)):
            if (value := getattr(self, name)) not in (known := get_args(kind)):
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if self.group_size < 2:
            raise ValueError(f"group_size must be at least 2: a single answer has no baseline, got "
                             f"{self.group_size}")
        if self.aggregation == "sequence" and self.kl_in != "reward" and self.kl_coef > 0:
            raise ValueError("a KL in the loss is paid per token: use kl_in='reward' with "
                             "aggregation='sequence'")


class GRPO:
    """GRPO and its relatives as an ``Algorithm`` of the loop in ``policy_gradient``.

    Args:
        settings: see :class:`GRPOSettings`.
    """

    terms = ("loss/policy",)

    def __init__(self, settings: GRPOSettings) -> None:
        self.settings, self.group_size = settings, settings.group_size

    def check(self, setup: PolicyGradientSetup) -> None:
        """Raise a ValueError if there is a critic, or a price for leaving a reference that there is not."""
        if self.settings.kl_coef > 0 and setup.reference is None:
            raise ValueError(f"kl_coef is {self.settings.kl_coef}, but there is no reference to keep near: "
                             "give one, or set it to 0")
        if setup.scorer.value_head is not None:
            raise ValueError("the group is the baseline here: build the PolicyScorer without a value_head")

    def advantages(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        """Each completion's advantage over its group, ``[B]``.

        With ``kl_in="reward"`` the completion's log π/π_ref, times ``kl_coef``, comes off its score first.
        ``reward/group_std`` is the scores' deviation within a group, mean over groups, and
        ``group/zero_variance_fraction`` the share of groups without any difference, from which nothing is
        learnt.
        """
        settings, rewards = self.settings, batch.scores
        if settings.kl_in == "reward" and batch.ref_logps is not None:
            kl = masked_sum(kl_estimate(batch.old_logps, batch.ref_logps), batch.response_mask, dim=1)
            rewards = rewards - settings.kl_coef * kl
        advantages = ESTIMATORS[settings.estimator](rewards, group_size=self.group_size)
        flat = (advantages.view(-1, self.group_size) == 0).all(1)
        metrics = {"kl_coef": settings.kl_coef,
                   "advantage/std": float(advantages.std()),
                   "reward/group_std": float(batch.scores.view(-1, self.group_size).std(1).mean()),
                   "group/zero_variance_fraction": float(flat.float().mean())}
        return replace(batch, advantages=advantages), metrics

    def weights(self, response_mask: Tensor) -> Tensor:
        """Weights of tokens, see ``functional.aggregation_weights``, or the same for every completion."""
        kind, n = self.settings.aggregation, len(response_mask)
        if kind == "sequence":
            return torch.full((n, 1), 1 / n, device=response_mask.device)
        return aggregation_weights(response_mask, aggregation=kind, max_tokens=self.settings.max_new_tokens)

    def losses(self, batch: Batch, new: TokenScores) -> UnitLosses:
        """Loss of each token ``[B, S]``, or of each completion ``[B, 1]`` with ``aggregation="sequence"``.

        With ρ = π/π_old it is -min(ρ A, clip(ρ, 1 - ε, 1 + ε_high) A) + β k3 (Shao et al. 2024, equation 3);
        where the reward has paid for the KL, β is 0 here.
        """
        settings, advantages = self.settings, batch.advantages.unsqueeze(1)
        ref = batch.old_logps if batch.ref_logps is None else batch.ref_logps
        logps, old = new.logps, batch.old_logps
        if settings.aggregation == "sequence":
            counts = batch.response_mask
            logps, old, ref = (masked_sum(each, counts, dim=1).unsqueeze(1) for each in (logps, old, ref))
        loss = grpo_loss(logps, old, advantages.expand_as(logps), clip=settings.clip,
                         clip_high=settings.clip_high, ref_logp=ref,
                         kl_coef=settings.kl_coef if settings.kl_in == "loss" else 0.0)
        ratio = (logps - old).clamp(max=_LOG_RATIO_LIMIT).exp()
        if settings.kl_in == "weighted_loss":
            k3 = kl_estimate(torch.maximum(logps, ref - _LOG_RATIO_LIMIT), ref, kind="k3")
            loss = loss + settings.kl_coef * ratio * k3
        ratio = ratio.detach()
        high = settings.clip if settings.clip_high is None else settings.clip_high
        clipped = (ratio < 1 - settings.clip) | (ratio > 1 + high)
        return UnitLosses(loss, ratio, clipped, terms={"loss/policy": loss})

    def after_step(self, metrics: dict[str, float], completions: int) -> dict[str, float]:
        """Nothing adapts."""
        return {}

    def load(self, numbers: dict[str, float]) -> None:
        """There is nothing to load."""


def train_grpo(setup: PolicyGradientSetup, prompts: Sequence[list[int]], settings: GRPOSettings, *,
               optimiser: OptimiserSettings, run: RunSettings) -> None:
    """Train the policy of ``setup`` by GRPO or a relative; see ``policy_gradient.train``."""
    train(GRPO(settings), setup, prompts, optimiser=optimiser, run=run)
