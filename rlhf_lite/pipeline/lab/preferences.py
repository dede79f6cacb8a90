"""Preference losses on infinite data: which policy does each one lead to?

The data are all pairs that two draws from the reference can give, labelled by Bradley-Terry: a beats b with
probability σ(r(a) - r(b)). With few enough sequences the expected loss over *every* pair is a finite sum, so
nothing is sampled and nothing is noisy; what remains between a loss and the optimum is the loss itself. The
policy is a table that can be any distribution, so that it excuses nothing either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from rlhf_lite.functional import PREFERENCE_LOSSES, PairLogps, kto_loss
from rlhf_lite.lab import TabularPolicy, World, exact_kl, optimal_policy, win_rates
from rlhf_lite.pipeline.lab.results import Curve, LabResult, OnPoint, result

# All ordered pairs of this many sequences per prompt are summed; above it, pairs are drawn afresh each step.
ALL_PAIRS_UP_TO = 512


@dataclass(frozen=True)
class PreferenceCase:
    """How one loss is run in a world, and where it should end.

    Attributes:
        aims_at: one sentence.
        beta: its β from the world's.
        target: the distribution it leads to, from the world and that β; None where there is no closed form.
        options: of the loss, other than its defaults.
    """

    aims_at: str
    beta: Callable[[World], float] = lambda world: world.beta
    target: Callable[[World, float], Tensor] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def _tilted_by_win_rate(world: World, beta: float) -> Tensor:
    """π_ref exp(w/β) with w the chance to beat the reference."""
    rates = win_rates(world.rewards, world.reference)
    return optimal_policy(world.reference, rates, beta=beta)


def _without_reference(world: World, beta: float) -> Tensor:
    """∝ exp(T r/β): what a loss on mean log-probabilities leads to; the reference does not occur."""
    return (world.rewards * world.length / beta).softmax(-1)


def _case(name: str, **changes: Any) -> PreferenceCase:
    return PreferenceCase(PREFERENCE_LOSSES[name].optimum, **changes)


PREFERENCE_CASES: Mapping[str, PreferenceCase] = MappingProxyType({
    "dpo": _case("sigmoid", target=lambda world, beta: world.optimum),
    "ipo": _case("ipo", target=_tilted_by_win_rate),
    "hinge": _case("hinge"),
    "kto": PreferenceCase(
        "none that is finite: an answer wanted more often than not rises without bound, any other falls; "
        "near the reference the slope is the share of wins, far from it the loss saturates."
    ),
    "nca": _case("nca"),
    "sppo": _case("sppo"),
    "bco": _case("bco"),
    "apo_zero": _case("apo_zero"),
    # γ = 0 gives SimPO an optimum that can be written down, and β T undoes its division by T: what is
    # left to see is that it forgets the reference.
    "simpo": _case("simpo", beta=lambda world: world.beta * world.length, target=_without_reference,
                   options={"gamma": 0.0}),
    "cpo": _case("cpo"),
    "orpo": _case("orpo"),
})
"""The losses of the lab by name; ``dpo`` is ``sigmoid`` in :data:`PREFERENCE_LOSSES`."""


class _Pairs:
    """Infinite Bradley-Terry data: ordered pairs (a chosen over b) with weights that sum to one.

    Args:
        world: gives strengths, the reference that both answers are drawn from, and the lengths.
        drawn: pairs per prompt that are drawn afresh at each call (each then counts in both orders, weighted
            by its two chances to win); None for all pairs.
        seed: of the draws.
    """

    def __init__(self, world: World, *, drawn: int | None, seed: int) -> None:
        self.world, self.drawn = world, drawn
        self.generator = torch.Generator().manual_seed(seed)
        n = world.rewards.shape[1]
        self._all: tuple[Tensor, Tensor, Tensor] | None = None
        if drawn is None:
            a, b = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
            a, b = a.expand(len(world.prompts), -1), b.expand(len(world.prompts), -1)
            both = world.reference.gather(1, a) * world.reference.gather(1, b)
            self._all = a, b, 2 * both * self._wins(a, b)

    def _wins(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.sigmoid(self.world.rewards.gather(1, a) - self.world.rewards.gather(1, b))

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers of chosen and rejected sequences and weights, each ``[P, K]``; weights sum to 1 per row."""
        if self._all is not None:
            return self._all
        draws = torch.multinomial(self.world.reference, 2 * self.drawn, True, generator=self.generator)
        first, second = draws.chunk(2, dim=1)
        a, b = torch.cat([first, second], 1), torch.cat([second, first], 1)
        return a, b, self._wins(a, b) / self.drawn


def _pair_objective(name: str, world: World, pairs: _Pairs, beta: float, options: Mapping[str, Any]):
    """The expected loss of a table entry, as a function of the policy's log-probabilities ``[P, N]``."""
    loss = PREFERENCE_LOSSES["sigmoid" if name == "dpo" else name]
    ref = world.reference.log()

    def expected(logp: Tensor) -> Tensor:
        a, b, weights = pairs()
        lengths = torch.full((a.numel(),), float(world.length), dtype=logp.dtype)
        rows = PairLogps(policy_chosen=logp.gather(1, a).flatten(),
                         policy_rejected=logp.gather(1, b).flatten(), ref_chosen=ref.gather(1, a).flatten(),
                         ref_rejected=ref.gather(1, b).flatten(), chosen_lengths=lengths,
                         rejected_lengths=lengths)
        return (weights.flatten() * loss(rows, beta=beta, **options)).sum() / len(world.prompts)

    return expected


def _kto_objective(world: World, beta: float):
    """KTO's expected loss: an answer is liked as often as it beats another draw from the reference.

    The reference point is the exact KL(π || π_ref), as in the paper's derivation, instead of an estimate.
    """
    ref, rates = world.reference.log(), win_rates(world.rewards, world.reference)
    desirable = torch.ones(ref.numel(), dtype=torch.bool)

    def expected(logp: Tensor) -> Tensor:
        kl = exact_kl(logp.detach().exp(), world.reference).mean()
        rows = logp.flatten(), ref.flatten()
        liked = kto_loss(*rows, desirable, beta=beta, kl=kl).view_as(logp)
        disliked = kto_loss(*rows, ~desirable, beta=beta, kl=kl).view_as(logp)
        return (world.reference * (rates * liked + (1 - rates) * disliked)).sum(-1).mean()

    return expected


def run_preferences(algorithm: str, world: World, *, seed: int, steps: int, learning_rate: float,
                    evaluate_every: int, on_point: OnPoint | None = None,
                    pairs_per_prompt: int | None = None) -> LabResult:
    """Minimise a preference loss on infinite data with a tabular policy that starts at the reference.

    Args:
        algorithm: one of :data:`PREFERENCE_CASES`.
        world: the problem; its ``beta`` is the price of a nat.
        seed: of drawn pairs; with all pairs nothing is random.
        steps: of Adam, whose rate falls to zero along a cosine.
        learning_rate: peak.
        evaluate_every: steps between exact measurements.
        on_point: called with every point of the curve as it is measured, for progress displays.
        pairs_per_prompt: draw so many pairs per prompt and step; None takes all pairs, if there are at most
            512 sequences, or else draws 4,096.
    """
    case = PREFERENCE_CASES[algorithm]
    beta = case.beta(world)
    if pairs_per_prompt is None and len(world.sequences) > ALL_PAIRS_UP_TO:
        pairs_per_prompt = 4096
    if algorithm == "kto":
        expected = _kto_objective(world, beta)
    else:
        pairs = _Pairs(world, drawn=pairs_per_prompt, seed=seed)
        expected = _pair_objective(algorithm, world, pairs, beta, case.options)
    policy = TabularPolicy(world)
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    curve = Curve(world, on_point)
    curve.add(0, lambda: world.reference)
    for step in range(1, steps + 1):
        loss = expected(policy.log_probs())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % evaluate_every == 0 or step == steps:
            curve.add(step, lambda: policy.log_probs().detach().exp())
    pairs_seen = "all" if pairs_per_prompt is None or algorithm == "kto" else pairs_per_prompt
    settings = {"steps": steps, "learning_rate": learning_rate, "loss_beta": beta, "pairs": pairs_seen}
    target = None if case.target is None else case.target(world, beta)
    return result(world, policy.log_probs().detach().exp(), curve, algorithm=algorithm, policy="table",
                  seed=seed, aims_at=case.aims_at, target=target, settings=settings | case.options,
                  extra={"loss": float(loss.detach())})
