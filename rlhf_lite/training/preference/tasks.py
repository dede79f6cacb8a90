"""How learning from pairs and learning from judged answers differ: completions, losses, metrics.

A task turns data rows into completions, and summed log-probabilities into a loss for each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.functional import PREFERENCE_LOSSES, PairLogps, PreferenceLoss, kto_loss
from rlhf_lite.training.preference.data import JudgedAnswer, judged_from_pairs, mismatched
from rlhf_lite.training.sft import Example

KTO = "kto"
# Log-ratios closer than this, in nats, differ by rounding only: at the first step all of them do.
_TIE = 1e-4


@dataclass(frozen=True)
class Losses:
    """What a task says about some rows.

    Attributes:
        losses: ``[B]``, with gradient.
        values: per metric the values whose mean over the batch is logged, without gradient.
    """

    losses: Tensor
    values: dict[str, Tensor]


class PreferenceTask(Protocol):
    """Learning from pairs, or from judged answers."""

    examples: list[Example]
    """Every completion that is ever scored."""
    sizes: list[int]
    """Tokens of each data row, for batches of similar length."""
    needs_reference: bool
    names: tuple[str, ...]
    """Metrics, in the order in which processes exchange them."""

    def completions(self, rows: Sequence[int]) -> list[int]:
        """The completions (indices into ``examples``) whose log-probabilities the loss of ``rows`` needs."""
        ...

    def baseline(self, rows: Sequence[int]) -> list[int]:
        """Completions that are scored without gradient before the batch, or none."""
        ...

    def losses(
        self, rows: Sequence[int], logps: Tensor, ref_logps: Tensor | None, lengths: Tensor, baseline: float
    ) -> Losses:
        """Loss and metrics of ``rows``.

        Args:
            rows: B rows of the data.
            logps: ``[C]`` log-probability of each of :meth:`completions` under the policy, in nats.
            ref_logps: ``[C]`` the same under the reference, or None.
            lengths: ``[C]`` their numbers of tokens.
            baseline: mean log-ratio of the baseline completions.
        """
        ...


def _wins(difference: Tensor, *, tie: float) -> Tensor:
    """1 where the difference is positive, 0 where it is negative, a half where it is within ``tie``."""
    return torch.where(difference.abs() <= tie, 0.5, (difference > 0).float())


@dataclass
class PairTask:
    """Chosen against rejected, with any loss of ``functional.PREFERENCE_LOSSES``.

    Attributes:
        pairs: the data.
        loss: an entry of the table.
        beta: its β (τ for IPO).
        options: its further arguments.
        sft_coef: weight of the chosen answer's mean negative log-likelihood per token (RPO; Pang et al. 2024,
            arXiv:2404.19733). It keeps the chosen answer from becoming unlikely along with the
            rejected one.
    """

    pairs: Sequence[EncodedPair]
    loss: PreferenceLoss
    beta: float
    options: Mapping[str, Any] = field(default_factory=dict)
    sft_coef: float = 0.0

    def __post_init__(self) -> None:
        self.examples = [Example(p.prompt_ids, p.chosen_ids) for p in self.pairs]
        self.examples += [Example(p.prompt_ids, p.rejected_ids) for p in self.pairs]
        self.sizes = [len(p.prompt_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in self.pairs]
        self.needs_reference = self.loss.needs_reference
        self.names = (
            "loss/per_pair",
            "accuracy/fraction",
            "margin/implicit_reward",
            "reward/implicit_chosen",
            "reward/implicit_rejected",
            "logp/chosen_nats_per_seq",
            "logp/rejected_nats_per_seq",
            "log_ratio/chosen_nats_per_seq",
            "loss/sft_nats_per_token",
            "length/chosen_tokens",
            "length/rejected_tokens",
        )

    def completions(self, rows: Sequence[int]) -> list[int]:
        """Chosen ones, then rejected ones."""
        return [*rows, *(row + len(self.pairs) for row in rows)]

    def baseline(self, rows: Sequence[int]) -> list[int]:
        """None."""
        return []

    def losses(
        self, rows: Sequence[int], logps: Tensor, ref_logps: Tensor | None, lengths: Tensor, baseline: float
    ) -> Losses:
        """``[B]`` losses of the pairs."""
        chosen, rejected = logps.chunk(2)
        chosen_lengths, rejected_lengths = lengths.chunk(2)
        refs = (None, None) if ref_logps is None else ref_logps.chunk(2)
        pairs = PairLogps(chosen, rejected, *refs, chosen_lengths, rejected_lengths)
        losses = self.loss(pairs, beta=self.beta, **self.options)
        likelihood = -chosen / chosen_lengths
        good, bad = self._rewards(pairs)
        values = {
            "loss/per_pair": losses,
            "accuracy/fraction": _wins(good - bad, tie=self.beta * _TIE),
            "margin/implicit_reward": good - bad,
            "reward/implicit_chosen": good,
            "reward/implicit_rejected": bad,
            "logp/chosen_nats_per_seq": chosen,
            "logp/rejected_nats_per_seq": rejected,
            "length/chosen_tokens": chosen_lengths.float(),
            "length/rejected_tokens": rejected_lengths.float(),
        }
        if pairs.ref_chosen is not None:
            values["log_ratio/chosen_nats_per_seq"] = chosen - pairs.ref_chosen
        if self.sft_coef:
            values["loss/sft_nats_per_token"] = likelihood
            losses = losses + self.sft_coef * likelihood
        return Losses(losses, {name: value.detach() for name, value in values.items()})

    def _rewards(self, pairs: PairLogps) -> tuple[Tensor, Tensor]:
        """β log π/π_ref; without a reference β log π per token, which is what those losses compare."""
        if self.needs_reference:
            chosen, rejected, ref_chosen, ref_rejected = pairs.get(
                "policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected"
            )
            return self.beta * (chosen - ref_chosen), self.beta * (rejected - ref_rejected)
        chosen, rejected, long, short = pairs.get(
            "policy_chosen", "policy_rejected", "chosen_lengths", "rejected_lengths"
        )
        return self.beta * chosen / long, self.beta * rejected / short


@dataclass
class KTOTask:
    """Answers that were liked or disliked, each on its own.

    The baseline z of the loss stands for KL(π || π_ref). As in the paper (Ethayarajh et al. 2024,
    arXiv:2402.01306) it is estimated on *mismatched* rows, the batch's prompts with completions of other
    prompts, as max(0, mean of log π - log π_ref), without gradient. Here the mismatched partner of a prompt
    is drawn once and kept, so that its reference log-probability can be cached, and the mean runs over the
    whole batch, whatever it is cut into. Mismatched completions are not samples of the policy: z is a biased
    stand-in.

    Attributes:
        answers: the data.
        beta: β.
        options: ``desirable_weight`` and ``undesirable_weight``, 1 by default.
        seed: draws the partners.
    """

    answers: Sequence[JudgedAnswer]
    beta: float
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    needs_reference: bool = True

    def __post_init__(self) -> None:
        unknown = sorted(set(self.options) - {"desirable_weight", "undesirable_weight"})
        if unknown:
            raise ValueError(
                f"unknown option {unknown} of kto, which takes desirable_weight and undesirable_weight"
            )
        self.examples = [Example(a.prompt_ids, a.completion_ids) for a in self.answers]
        self.examples += mismatched(self.answers, seed=self.seed)
        self.sizes = [len(a.prompt_ids) + len(a.completion_ids) for a in self.answers]
        kinds = ("desirable", "undesirable")
        self.names = (
            "loss/per_answer",
            "kl/baseline_nats_per_seq",
            *(f"reward/implicit_{kind}" for kind in kinds),
            *(f"logp/{kind}_nats_per_seq" for kind in kinds),
            "log_ratio/desirable_nats_per_seq",
            *(f"length/{kind}_tokens" for kind in kinds),
        )

    def completions(self, rows: Sequence[int]) -> list[int]:
        """The answers themselves."""
        return list(rows)

    def baseline(self, rows: Sequence[int]) -> list[int]:
        """The mismatched completions."""
        return [row + len(self.answers) for row in rows]

    def losses(
        self, rows: Sequence[int], logps: Tensor, ref_logps: Tensor | None, lengths: Tensor, baseline: float
    ) -> Losses:
        """``[B]`` losses of the answers."""
        liked = torch.tensor([self.answers[row].desirable for row in rows], device=logps.device)
        losses = kto_loss(logps, ref_logps, liked, beta=self.beta, kl=baseline, **self.options)
        ratio = (logps - ref_logps).detach()
        values = {
            "loss/per_answer": losses.detach(),
            "kl/baseline_nats_per_seq": torch.full_like(ratio, max(0.0, baseline)),
            "log_ratio/desirable_nats_per_seq": ratio[liked],
        }
        for kind, which in (("desirable", liked), ("undesirable", ~liked)):
            values[f"reward/implicit_{kind}"] = self.beta * ratio[which]
            values[f"logp/{kind}_nats_per_seq"] = logps.detach()[which]
            values[f"length/{kind}_tokens"] = lengths[which].float()
        return Losses(losses, values)


@dataclass(frozen=True, kw_only=True)
class DPOSettings:
    """What DPO and its family are told.

    Attributes:
        beta: β of the loss (τ for IPO).
        loss: a name in ``functional.PREFERENCE_LOSSES``, or ``kto``.
        loss_options: further arguments of the loss, by name.
        sft_coef: weight of the negative log-likelihood per token of the chosen answers.
        cache_megabytes: memory for the frozen layers' states, which are then computed once per run instead of
            once per epoch; 0 for none.
    """

    beta: float
    loss: str = "sigmoid"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    sft_coef: float = 0.0
    cache_megabytes: int = 256

    def task(self, data: Sequence[EncodedPair] | Sequence[JudgedAnswer], *, seed: int) -> PreferenceTask:
        """What is learned from some data; ``seed`` draws KTO's mismatched answers.

        Raises:
            ValueError: if there is no such loss, or it cannot use such data.
        """
        name, paired = self.loss, all(isinstance(row, EncodedPair) for row in data)
        if name == KTO:
            if self.sft_coef:
                raise ValueError(f"sft_coef={self.sft_coef} needs pairs, and kto learns from single answers")
            return KTOTask(judged_from_pairs(data) if paired else data, self.beta, self.loss_options, seed)
        if name not in PREFERENCE_LOSSES:
            known = ", ".join((*PREFERENCE_LOSSES, KTO))
            raise ValueError(f"there is no loss {name!r}: choose one of {known}")
        if not paired:
            raise ValueError(
                f"the loss {name!r} compares the answers of a pair; for single answers use {KTO!r}"
            )
        return PairTask(data, PREFERENCE_LOSSES[name], self.beta, self.loss_options, self.sft_coef)
