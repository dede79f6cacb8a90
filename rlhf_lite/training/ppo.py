"""Proximal policy optimisation on a language model, with a penalty on every token's drift from the reference.

Follows Ziegler et al. 2019 and Stiennon et al. 2020: one batch of continuations, a score for each from the
reward model, a KL penalty for each token, a critic, generalised advantage estimates, then a few epochs of
clipped updates. Deviations from those papers: the critic is a linear head on the policy's own hidden states;
only LoRA weights are trained; the frozen trunk below them is computed once per batch and shared by policy,
reference and reward model. The loop is in ``policy_gradient``; here is what makes it PPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf_lite.functional import (
    AdaptiveKLController,
    FixedKLController,
    gae,
    kl_estimate,
    masked_var,
    masked_whiten,
    ppo_policy_loss,
    ppo_value_loss,
)
from rlhf_lite.models.policy import TokenScores
from rlhf_lite.training.policy_gradient import PolicyGradientSettings, UnitLosses, train
from rlhf_lite.training.rollouts import Batch, PolicyGradientSetup
from rlhf_lite.training.settings import OptimiserSettings, RunSettings


@dataclass(frozen=True, kw_only=True)
class PPOSettings(PolicyGradientSettings):
    """What PPO is told.

    Attributes:
        value_clip: values move at most this far in a step's updates; None for no limit.
        value_coef: weight of the value loss.
        gamma: γ, discount per token.
        lam: λ of generalised advantage estimation.
        kl_target: KL to aim at, in nats per sequence, by adapting β; None keeps it.
        kl_horizon: completions over which β adapts.
        whiten_advantages: give the advantages of a batch mean 0 and standard deviation 1.
    """

    value_clip: float | None = 0.2
    value_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    kl_target: float | None = None
    kl_horizon: float = 500.0
    whiten_advantages: bool = True


def token_rewards(old_logps: Tensor, ref_logps: Tensor, scores: Tensor, response_mask: Tensor, *,
                  kl_coef: float) -> Tensor:
    """Reward of each token: -β (log π - log π_ref), plus the score on the last token of the row.

    Source: Ziegler et al. 2019, equation 2, spread over tokens.

    Args:
        old_logps: ``[B, S]`` under the policy that sampled.
        ref_logps: ``[B, S]`` under the reference.
        scores: ``[B]``.
        response_mask: bool ``[B, S]``, the response tokens; at least one per row.
        kl_coef: β.
    """
    penalty = kl_coef * kl_estimate(old_logps, ref_logps)
    rewards = torch.where(response_mask, -penalty, torch.zeros_like(penalty))
    last = response_mask.shape[1] - 1 - response_mask.long().flip(-1).argmax(-1)  # (B,)
    rewards[torch.arange(len(last), device=last.device), last] += scores
    return rewards


def _variance(x: Tensor, mask: Tensor) -> Tensor:
    """The variance for the log; a batch of a single token has none."""
    return masked_var(x, mask) if int(mask.sum()) > 1 else x.new_tensor(float("nan"))


class PPO:
    """PPO as an ``Algorithm`` of the loop in ``policy_gradient``.

    Args:
        settings: see :class:`PPOSettings`.
    """

    group_size = 1
    terms = ("loss/policy", "loss/value")

    def __init__(self, settings: PPOSettings) -> None:
        self.settings = settings
        self._price: AdaptiveKLController | FixedKLController = FixedKLController(settings.kl_coef)
        if settings.kl_target is not None:
            self._price = AdaptiveKLController(settings.kl_coef, settings.kl_target, settings.kl_horizon)

    def check(self, setup: PolicyGradientSetup) -> None:
        """Raise a ValueError without a critic or a reference."""
        if setup.scorer.value_head is None or setup.reference is None:
            raise ValueError("PPO needs a scorer with a value head and a reference; GRPO and RLOO do without")

    def advantages(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        """Advantages and returns of each token, by generalised advantage estimation.

        Aₜ = Σₖ (γλ)ᵏ δₜ₊ₖ with δₜ = rₜ + γ Vₜ₊₁ - Vₜ, and the return Aₜ + Vₜ (Schulman et al. 2016).
        """
        counts, columns, settings = batch.response_mask, batch.response, self.settings
        price = self._price.value
        rewards = token_rewards(batch.old_logps, batch.ref_logps, batch.scores, counts, kl_coef=price)
        advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
        inputs = (tensor[:, columns] for tensor in (rewards, batch.old_values, counts))
        advantages[:, columns], returns[:, columns] = gae(*inputs, gamma=settings.gamma, lam=settings.lam)
        error, spread, total = (_variance(each, counts) for each in (
            returns - batch.old_values, advantages, returns))
        metrics = {"kl_coef": price, "advantage/std": float(spread.sqrt()),
                   "value/explained_variance": float(1 - error / total.clamp_min(1e-8))}
        if settings.whiten_advantages:
            advantages = masked_whiten(advantages, counts)
        return replace(batch, advantages=advantages, returns=returns), metrics

    def weights(self, response_mask: Tensor) -> Tensor:
        """The loss is the mean over the minibatch's tokens."""
        return response_mask / response_mask.sum()

    def losses(self, batch: Batch, new: TokenScores) -> UnitLosses:
        """Policy loss + value_coef * value loss of each token.

        With ρ = π/π_old, the policy's is -min(ρ A, clip(ρ, 1 ± ε) A) (Schulman et al. 2017, equation 7).
        """
        settings = self.settings
        policy = ppo_policy_loss(new.logps, batch.old_logps, batch.advantages, clip=settings.clip)
        value = ppo_value_loss(new.values, batch.old_values, batch.returns, clip=settings.value_clip)
        ratio = (new.logps.detach() - batch.old_logps).exp()
        return UnitLosses(loss=policy + settings.value_coef * value, ratio=ratio,
                          clipped=(ratio - 1).abs() > settings.clip,
                          terms={"loss/policy": policy, "loss/value": value})

    def after_step(self, metrics: dict[str, float], completions: int) -> dict[str, float]:
        """Move β towards its target."""
        self._price.update(metrics["kl/nats_per_seq"], completions)
        return {"kl_coef": self._price.value}

    def load(self, numbers: dict[str, float]) -> None:
        """Continue with this β."""
        self._price.value = numbers["kl_coef"]


def train_ppo(setup: PolicyGradientSetup, prompts: Sequence[list[int]], settings: PPOSettings, *,
              optimiser: OptimiserSettings, run: RunSettings) -> None:
    """Train policy and critic of ``setup`` by PPO; see ``policy_gradient.train``."""
    train(PPO(settings), setup, prompts, optimiser=optimiser, run=run)
