"""The preference losses by name, for settings files: one table instead of a chain of branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from rlhf_lite.functional.preference import paired, reference_free, unpaired


@dataclass(frozen=True)
class PairLogps:
    """What a batch of preference pairs looks like to a loss.

    Attributes:
        policy_chosen, policy_rejected: ``[B]`` summed log-probabilities under the policy, in nats.
        ref_chosen, ref_rejected: ``[B]`` under the reference, or None for losses without one.
        chosen_lengths, rejected_lengths: ``[B]`` counted tokens, or None for losses on sums only.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    ref_chosen: Tensor | None = None
    ref_rejected: Tensor | None = None
    chosen_lengths: Tensor | None = None
    rejected_lengths: Tensor | None = None

    def get(self, *names: str) -> list[Tensor]:
        """The named tensors, in this order.

        Raises:
            ValueError: naming those that are None.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise ValueError(f"this loss needs {', '.join(missing)}, which the batch does not have")
        return [getattr(self, name) for name in names]


@dataclass(frozen=True)
class PreferenceLoss:
    """One entry of the table.

    Attributes:
        fn: ``fn(pairs, *, beta, **options)`` gives ``[B]``.
        needs_reference: whether the reference's log-probabilities are used.
        needs_lengths: whether token counts are used.
        options: name and default of every further tuning argument.
        optimum: one sentence: the policy that infinite data would lead to.
    """

    fn: Callable[..., Tensor]
    needs_reference: bool
    optimum: str
    needs_lengths: bool = False
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __call__(self, pairs: PairLogps, *, beta: float, **options: Any) -> Tensor:
        """Per-pair loss ``[B]``; an unknown option is an error."""
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            raise ValueError(f"unknown option {unknown}; this loss takes {sorted(self.options) or 'none'}")
        return self.fn(pairs, beta=beta, **{**self.options, **options})


FOUR = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
LENGTHS = ("chosen_lengths", "rejected_lengths")


def _on(names: tuple[str, ...], loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``loss`` on the named tensors of a :class:`PairLogps`."""

    def fn(pairs: PairLogps, *, beta: float, **options: Any) -> Tensor:
        return loss(*pairs.get(*names), beta=beta, **options)

    return fn


def _ipo(pairs: PairLogps, *, beta: float) -> Tensor:
    return paired.ipo_loss(*pairs.get(*FOUR), tau=beta)


def _ipo_mean(pairs: PairLogps, *, beta: float) -> Tensor:
    chosen_lengths, rejected_lengths = pairs.get(*LENGTHS)
    return paired.ipo_loss(*pairs.get(*FOUR), tau=beta, normalise="mean", chosen_lengths=chosen_lengths,
                           rejected_lengths=rejected_lengths)


def _options(**defaults: Any) -> Mapping[str, Any]:
    return MappingProxyType(defaults)


_TABLE = {
    "sigmoid": PreferenceLoss(
        _on(FOUR, paired.dpo_loss), True, options=_options(label_smoothing=0.0),
        optimum="π ∝ π_ref exp(r/β) when labels follow Bradley-Terry with reward r: RLHF's own optimum; "
        "with label_smoothing ε the fitted win rates shrink to (1-ε)p + ε(1-p)."),
    "robust": PreferenceLoss(
        _on(FOUR, paired.robust_dpo_loss), True, options=_options(label_smoothing=0.0),
        optimum="the optimum of DPO on clean labels, although a share label_smoothing of the labels is "
        "flipped."),
    "ipo": PreferenceLoss(
        _ipo, True,
        "every pair's log-ratio gap h is (p - ½)/β with p the win rate: bounded even when p is 0 or 1."),
    "ipo_mean": PreferenceLoss(
        _ipo_mean, True, needs_lengths=True,
        optimum="the gap of the per-token log-ratios is (p - ½)/β, so the gap of sequences grows with their "
        "length."),
    "hinge": PreferenceLoss(
        _on(FOUR, paired.hinge_loss), True,
        "the majority's winner leads by exactly 1/β nats, however narrow the majority."),
    "simpo": PreferenceLoss(
        _on((*FOUR[:2], *LENGTHS), reference_free.simpo_loss), False,
        needs_lengths=True, options=_options(gamma=0.5),
        optimum="per-token log-probabilities rank answers by win rate (for gamma 0 their gap is logit(p)/β); "
        "the reference plays no part, so this is not RLHF's optimum."),
    "orpo": PreferenceLoss(
        _on((*FOUR[:2], *LENGTHS), reference_free.orpo_loss), False,
        needs_lengths=True, options=_options(nll_weight=1.0),
        optimum="a compromise between imitating the chosen answers and odds that separate the pairs; no "
        "reference."),
    "cpo": PreferenceLoss(
        _on((*FOUR[:2], LENGTHS[0]), reference_free.cpo_loss), False,
        needs_lengths=True, options=_options(nll_weight=1.0, label_smoothing=0.0),
        optimum="without the imitation term π ∝ exp(r/β), DPO's optimum for a uniform reference; the term "
        "pulls towards the chosen answers."),
    "apo_zero": PreferenceLoss(
        _on(FOUR, paired.apo_zero_loss), True,
        "none that is finite: answers that win more often than they lose rise, others fall; it saturates."),
    "apo_down": PreferenceLoss(
        _on(FOUR, paired.apo_down_loss), True,
        "none that is finite: both answers fall, rejected ones faster; it saturates."),
    "bco": PreferenceLoss(
        _on(FOUR, unpaired.bco_loss), True, options=_options(delta=0.0),
        optimum="each answer's implicit reward is δ plus the log-odds that it was the chosen one."),
    "nca": PreferenceLoss(
        _on(FOUR, paired.nca_loss), True,
        "each answer's implicit reward is log(2p) with p the rate at which it wins: π ∝ π_ref (2p)^(1/β)."),
    "sppo": PreferenceLoss(
        _on(FOUR, paired.sppo_loss), True, options=_options(win_rate=1.0),
        optimum="each answer's log-ratio is (p - ½)/β with p its win rate: one multiplicative-weights step "
        "from the reference."),
}

PREFERENCE_LOSSES: Mapping[str, PreferenceLoss] = MappingProxyType(_TABLE)
"""Name → loss, for settings. ``sigmoid`` is DPO; ``ipo`` is the sum form and ``ipo_mean`` TRL's."""
