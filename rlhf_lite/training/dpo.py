"""Direct preference optimisation and its family: one trainer, the loss chosen by name.

The losses are those of ``functional.PREFERENCE_LOSSES`` (``sigmoid`` is DPO itself) on pairs, and ``kto`` on
answers that were judged one by one. :class:`PairTask` and :class:`KTOTask` hold what learning from the two
differs in: completions, losses, metrics. The data is fixed: nothing is sampled, and no metric here is a KL
divergence of the policy, which would need its own samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.functional import PREFERENCE_LOSSES, PairLogps, PreferenceLoss, kto_loss
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.training.batches import BatchMeans, drawn_rows, micro_batches
from rlhf_lite.training.pairs import JudgedAnswer, judged_from_pairs, mismatched
from rlhf_lite.training.scoring import CompletionScorer, Reference
from rlhf_lite.training.settings import OptimiserSettings, Resume, RunSettings
from rlhf_lite.training.sft import Example
from rlhf_lite.training.step import Optimisation, Progress, evaluating, require_frozen_trunk

Data = Sequence[EncodedPair] | Sequence[JudgedAnswer]
Tensors = dict[str, Tensor]
# Losses [B] with gradient, and per metric the values whose mean over the batch is logged, without.
Losses = tuple[Tensor, Tensors]

KTO = "kto"
# Log-ratios closer than this, in nats, differ by rounding only: at the first step all of them do.
_TIE = 1e-4


@dataclass
class PairTask:
    """Chosen against rejected, with any loss of ``functional.PREFERENCE_LOSSES``.

    A task turns data rows into completions, and summed log-probabilities into a loss for each row. Every
    completion that is ever scored is in ``examples``; ``sizes`` are the tokens of each data row, for batches
    of similar length; ``names`` are the metrics, in the order in which processes exchange them.

    Attributes:
        pairs: the data.
        loss: an entry of the table.
        beta: its β (τ for IPO).
        options: its further arguments.
        sft_coef: weight of the chosen answer's mean negative log-likelihood per token (RPO; Pang et al. 2024,
            arXiv:2404.19733). It keeps the chosen answer from becoming unlikely along with the rejected one.
    """

    pairs: Sequence[EncodedPair]
    loss: PreferenceLoss
    beta: float
    options: Mapping[str, Any] = field(default_factory=dict)
    sft_coef: float = 0.0

    names = ("loss/per_pair", "accuracy/fraction", "margin/implicit_reward", "reward/implicit_chosen",
             "reward/implicit_rejected", "logp/chosen_nats_per_seq", "logp/rejected_nats_per_seq",
             "log_ratio/chosen_nats_per_seq", "loss/sft_nats_per_token", "length/chosen_tokens",
             "length/rejected_tokens")

    def __post_init__(self) -> None:
        self.examples = [Example(p.prompt_ids, p.chosen_ids) for p in self.pairs]
        self.examples += [Example(p.prompt_ids, p.rejected_ids) for p in self.pairs]
        self.sizes = [len(p.prompt_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in self.pairs]
        self.needs_reference = self.loss.needs_reference

    def completions(self, rows: Sequence[int]) -> list[int]:
        """The completions (indices into ``examples``) that the loss of ``rows`` needs: chosen ones first."""
        return [*rows, *(row + len(self.pairs) for row in rows)]

    def baseline(self, rows: Sequence[int]) -> list[int]:
        """Completions that are scored without gradient before the batch: none."""
        return []

    def losses(self, rows: Sequence[int], logps: Tensor, ref_logps: Tensor | None, lengths: Tensor,
               baseline: float) -> Losses:
        """Loss and metrics of ``rows``.

        Args:
            rows: B rows of the data.
            logps: ``[C]`` log-probability of each of :meth:`completions` under the policy, in nats.
            ref_logps: ``[C]`` the same under the reference, or None.
            lengths: ``[C]`` their numbers of tokens.
            baseline: mean log-ratio of the baseline completions.
        """
        (chosen, rejected), (chosen_lengths, rejected_lengths) = logps.chunk(2), lengths.chunk(2)
        refs = (None, None) if ref_logps is None else ref_logps.chunk(2)
        pairs = PairLogps(chosen, rejected, *refs, chosen_lengths, rejected_lengths)
        losses = self.loss(pairs, beta=self.beta, **self.options)
        likelihood = -chosen / chosen_lengths
        # β log π/π_ref; without a reference β log π per token, which is what those losses compare.
        if self.needs_reference:
            good, bad = self.beta * (chosen - refs[0]), self.beta * (rejected - refs[1])
        else:
            good, bad = self.beta * chosen / chosen_lengths, self.beta * rejected / rejected_lengths
        margin = good - bad
        values = {
            "loss/per_pair": losses,
            "accuracy/fraction": torch.where(margin.abs() <= self.beta * _TIE, 0.5, (margin > 0).float()),
            "margin/implicit_reward": margin,
            "reward/implicit_chosen": good, "reward/implicit_rejected": bad,
            "logp/chosen_nats_per_seq": chosen, "logp/rejected_nats_per_seq": rejected,
            "length/chosen_tokens": chosen_lengths.float(),
            "length/rejected_tokens": rejected_lengths.float(),
        }
        if ref_logps is not None:
            values["log_ratio/chosen_nats_per_seq"] = chosen - refs[0]
        if self.sft_coef:
            values["loss/sft_nats_per_token"] = likelihood
            losses = losses + self.sft_coef * likelihood
        return losses, {name: value.detach() for name, value in values.items()}


@dataclass
class KTOTask:
    """Answers that were liked or disliked, each on its own; the methods are those of :class:`PairTask`.

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

    needs_reference = True
    names = ("loss/per_answer", "kl/baseline_nats_per_seq", "reward/implicit_desirable",
             "reward/implicit_undesirable", "logp/desirable_nats_per_seq", "logp/undesirable_nats_per_seq",
             "log_ratio/desirable_nats_per_seq", "length/desirable_tokens", "length/undesirable_tokens")

    def __post_init__(self) -> None:
        unknown = sorted(set(self.options) - {"desirable_weight", "undesirable_weight"})
        if unknown:
            raise ValueError(f"unknown option {unknown} of kto, which takes desirable_weight and "
                             "undesirable_weight")
        self.examples = [Example(a.prompt_ids, a.completion_ids) for a in self.answers]
        self.sizes = [example.size for example in self.examples]
        self.examples += mismatched(self.answers, seed=self.seed)

    def completions(self, rows: Sequence[int]) -> list[int]:
        """The answers themselves."""
        return list(rows)

    def baseline(self, rows: Sequence[int]) -> list[int]:
        """The mismatched completions."""
        return [row + len(self.answers) for row in rows]

    def losses(self, rows: Sequence[int], logps: Tensor, ref_logps: Tensor | None, lengths: Tensor,
               baseline: float) -> Losses:
        """``[B]`` losses of the answers, and their metrics."""
        liked = torch.tensor([self.answers[row].desirable for row in rows], device=logps.device)
        losses = kto_loss(logps, ref_logps, liked, beta=self.beta, kl=baseline, **self.options)
        ratio = (logps - ref_logps).detach()
        values = {"loss/per_answer": losses.detach(),
                  "kl/baseline_nats_per_seq": torch.full_like(ratio, max(0.0, baseline)),
                  "log_ratio/desirable_nats_per_seq": ratio[liked]}
        for kind, which in (("desirable", liked), ("undesirable", ~liked)):
            values[f"reward/implicit_{kind}"] = self.beta * ratio[which]
            values[f"logp/{kind}_nats_per_seq"] = logps.detach()[which]
            values[f"length/{kind}_tokens"] = lengths[which].float()
        return losses, values


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

    def try_loss(self) -> None:
        """Compute the loss of two made-up pairs, so that a wrong name or option shows before any work.

        Raises:
            ValueError: if there is no such loss, or it has no such option. Values of a wrong type raise what
                torch says of them.
        """
        task = self.task([EncodedPair([0], [1], [2]), EncodedPair([0], [2], [1])], seed=0)
        logps = -torch.ones(len(task.completions([0, 1])))
        task.losses([0, 1], logps, logps if task.needs_reference else None, -logps.long(), 0.0)

    def task(self, data: Data, *, seed: int) -> PairTask | KTOTask:
        """What is learned from some data; ``seed`` draws KTO's mismatched answers.

        Raises:
            ValueError: if there is no such loss, no data, or it cannot use such data.
        """
        if not data:
            raise ValueError("there is nothing to learn from: no pair and no judged answer")
        name, paired = self.loss, all(isinstance(row, EncodedPair) for row in data)
        if name == KTO:
            if self.sft_coef:
                raise ValueError(f"sft_coef={self.sft_coef} needs pairs, and kto learns from single answers")
            return KTOTask(judged_from_pairs(data) if paired else data, self.beta, self.loss_options, seed)
        if name not in PREFERENCE_LOSSES:
            known = ", ".join((*PREFERENCE_LOSSES, KTO))
            raise ValueError(f"there is no loss {name!r}: choose one of {known}")
        if not paired:
            raise ValueError(f"the loss {name!r} compares the answers of a pair; for single answers use "
                             f"{KTO!r}")
        return PairTask(data, PREFERENCE_LOSSES[name], self.beta, self.loss_options, self.sft_coef)


class _PreparedTask:
    """A task on its data, with everything that never changes computed: rows in, losses and metrics out."""

    def __init__(self, task: PairTask | KTOTask, scorer: PolicyScorer, *, reference: Reference | None,
                 known: Tensor | None, resume: Resume | None, rows: Sequence[int], accelerator: Accelerator,
                 **options: Any) -> None:
        if reference is None and known is None and task.needs_reference:
            raise ValueError("this loss compares the policy with a reference: give reference")
        self.task, self._accelerator = task, accelerator
        self.completions = CompletionScorer(scorer, task.examples, accelerator=accelerator, **options)
        saved = None if resume is None else self.completions.saved_reference(resume.tensors)
        used = [*task.completions(rows), *task.baseline(rows)]
        self.completions.prepare(reference, rows=used, known=known if saved is None else saved)

    def losses(self, rows: Sequence[int], module: nn.Module, baseline: float) -> tuple[Losses, Tensors]:
        """Loss and metrics of some rows, and the tokens that they were computed from."""
        index = self.task.completions(rows)
        logps, seen = self.completions.logps(index, module)
        refs, lengths = self.completions.reference_logps, self.completions.lengths[index]
        return self.task.losses(rows, logps, None if refs is None else refs[index], lengths, baseline), seen

    @torch.no_grad()
    def baseline(self, parts: Sequence[Sequence[int]], module: nn.Module) -> float:
        """Mean log-ratio of the baseline completions of all parts, in all processes; 0 if there are none."""
        mean = BatchMeans(["log_ratio"], self._accelerator)
        for part in parts:
            if index := self.task.baseline(part):
                ratio = self.completions.logps(index, module)[0] - self.completions.reference_logps[index]
                mean.add({"log_ratio": ratio})
        return mean.result().get("log_ratio", 0.0)

    def validate(self, scorer: PolicyScorer, *, batch_size: int) -> dict[str, float]:
        """The task's metrics on all rows, each process on its share."""
        rows = range(len(self.task.sizes))
        parts = micro_batches(rows, size=batch_size, accelerator=self._accelerator)
        means = BatchMeans(self.task.names, self._accelerator)
        with evaluating(scorer):
            baseline = self.baseline(parts, scorer)
            for part in parts:
                (_, values), _ = self.losses(part, scorer, baseline)
                means.add(values)
        return {f"val_{name}": value for name, value in means.result().items()}


def reference_logps(scorer: PolicyScorer, data: Data, *, reference: Reference, pad_token_id: int,
                    accelerator: Accelerator, loss: str = "sigmoid", seed: int = 0) -> Tensor:
    """The reference's log-probabilities of some data, for several runs of :func:`train_dpo` on it.

    They are the same for every loss on pairs; for ``kto`` they also depend on the seed. Arguments as there.
    """
    task = DPOSettings(beta=1.0, loss=loss).task(data, seed=seed)
    completions = CompletionScorer(scorer, task.examples, pad_token_id=pad_token_id, accelerator=accelerator)
    completions.prepare(reference, rows=range(len(task.examples)))
    return completions.reference_logps


def train_dpo(scorer: PolicyScorer, data: Data, settings: DPOSettings, *, reference: Reference | None,
              pad_token_id: int, optimiser: OptimiserSettings, run: RunSettings,
              known_reference: Tensor | None = None, validation: Data = ()) -> None:
    """Train the scorer's trainable parameters on preferences.

    With h = log π/π_ref(chosen) - log π/π_ref(rejected), the loss of a pair is -log σ(β h) (Rafailov et al.
    2023, equation 7), or another one of the family. The mean runs over the rows of the *whole* batch, so that
    neither padding, nor accumulation, nor the number of processes changes the gradient. The policy is trained
    in the mode (dropout or not) that the scorer is in; reference and validation are computed without dropout.

    Args:
        scorer: the policy.
        data: pairs (``pairs.encode_preferences``); for ``kto`` also judged answers (``pairs.encode_judged``).
            Kto takes a pair as two judged answers, and a batch counts answers.
        settings: the loss.
        reference: a context in which the scorer computes the reference policy (adapter off, or another one);
            asked once, before the first step, about the rows that the run will draw. None for losses without
            a reference; given to those, it is used for a metric only.
        pad_token_id: fills rows.
        known_reference: what :func:`reference_logps` gave for this data, to ask once for several runs.
        validation: held-out rows, or none.

    Metrics are means over the batch before its own update; on the held-out rows they have ``val_`` in front.
    For pairs: ``loss/per_pair``; ``accuracy/fraction``, the chosen answer's implicit reward is higher, a tie
    counts half; ``margin/implicit_reward``; ``reward/implicit_chosen`` and ``_rejected``, β log π/π_ref (for
    losses without a reference β log π per token); ``logp/chosen_nats_per_seq`` and ``_rejected_``;
    ``log_ratio/chosen_nats_per_seq``, log π/π_ref on the chosen answers (people wrote them: this is *not*
    KL(π || π_ref), and may be negative); ``length/chosen_tokens`` and ``_rejected_``; with ``sft_coef``
    ``loss/sft_nats_per_token``. For kto: ``loss/per_answer``, ``kl/baseline_nats_per_seq`` (see ``KTOTask``),
    and the others for ``desirable`` and ``undesirable`` answers. Always: ``grad_norm``, ``learning_rate``.

    Raises:
        ValueError: if loss, options and data do not fit, a reference is missing, or a trainable parameter
            lies where no gradient reaches it.
    """
    require_frozen_trunk(scorer.body)
    scorer.body.checkpoint_top(run.gradient_checkpointing)
    optimisation = Optimisation(scorer, optimiser, run)
    prepare = partial(_PreparedTask, scorer=scorer, reference=reference, resume=run.resume,
                      accelerator=run.accelerator, pad_token_id=pad_token_id)
    task, held_out = settings.task(data, seed=run.seed), None
    drawn = drawn_rows(len(task.sizes), run.batch_size, run.steps, seed=run.seed, lengths=task.sizes)
    train = prepare(task, rows=drawn, known=known_reference, cache_megabytes=settings.cache_megabytes)
    saved = train.completions.tensors()
    if validation:
        others = settings.task(validation, seed=run.seed)
        held_out = prepare(others, rows=range(len(others.sizes)), known=None, name="val_reference")
        saved |= held_out.completions.tensors()
    progress = Progress(optimisation, run)
    for step, rows, parts in progress.batches(task.sizes):
        rate, means = optimisation.learning_rate, BatchMeans(task.names, run.accelerator)
        baseline = train.baseline(parts, optimisation.module)
        for part in parts:
            (losses, values), seen = train.losses(part, optimisation.module, baseline)
            optimisation.backward(losses.sum() / len(rows), {"rows": torch.tensor(part)} | seen)
            means.add(values)
        norm = optimisation.step()
        metrics = means.result() | {"grad_norm": norm, "learning_rate": rate}
        if held_out is not None and progress.due(step, run.validate_every):
            metrics |= held_out.validate(scorer, batch_size=run.batch_size)
        progress.record(step, metrics, tensors=saved)
