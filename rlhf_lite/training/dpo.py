"""Direct preference optimisation and its family: one trainer, the loss chosen by name.

The losses are those of ``functional.PREFERENCE_LOSSES`` (``sigmoid`` is DPO itself) on pairs, and ``kto`` on
answers that were judged one by one. The data is fixed: nothing is sampled, and no metric here is a KL
divergence of the policy, which would need its own samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.training.batches import drawn_rows
from rlhf_lite.training.distributed import BatchMeans
from rlhf_lite.training.preference.data import JudgedAnswer
from rlhf_lite.training.preference.scoring import CompletionScorer, Reference
from rlhf_lite.training.preference.tasks import DPOSettings, Losses, PreferenceTask
from rlhf_lite.training.progress import Progress
from rlhf_lite.training.settings import OptimiserSettings, Resume, RunSettings
from rlhf_lite.training.step import Optimisation, evaluating, require_frozen_trunk

__all__ = ["DPOSettings", "reference_logps", "train_dpo"]

Data = Sequence[EncodedPair] | Sequence[JudgedAnswer]


class _Learning:
    """A task on its data: log-probabilities in, losses and metrics out.

    Args:
        task: what is learned, and from which completions.
        scorer: the policy.
        reference: see :func:`train_dpo`.
        known: the reference's log-probabilities, if they have been computed before.
        resume: a checkpoint that may hold them.
        rows: the data rows that the run will use.
        name: of them in a checkpoint.
        accelerator: see :func:`train_dpo`.
        options: further arguments of :class:`CompletionScorer`.
    """

    def __init__(
        self,
        task: PreferenceTask,
        scorer: PolicyScorer,
        *,
        reference: Reference | None,
        known: Tensor | None,
        resume: Resume | None,
        rows: Sequence[int],
        name: str,
        accelerator: Accelerator,
        **options: int,
    ) -> None:
        if reference is None and known is None and task.needs_reference:
            raise ValueError("this loss compares the policy with a reference: give reference")
        self.task, self._accelerator = task, accelerator
        self.completions = CompletionScorer(
            scorer, task.examples, accelerator=accelerator, name=name, **options
        )
        saved = None if resume is None else self.completions.saved_reference(resume.tensors)
        used = [*task.completions(rows), *task.baseline(rows)]
        self.completions.prepare(reference, rows=used, known=known if saved is None else saved)

    def losses(
        self, rows: Sequence[int], module: nn.Module, baseline: float
    ) -> tuple[Losses, dict[str, Tensor]]:
        """Loss and metrics of some rows, and the tokens that they were computed from."""
        index = self.task.completions(rows)
        logps, seen = self.completions.logps(index, module)
        refs, lengths = self.completions.reference_logps, self.completions.lengths[index]
        return self.task.losses(rows, logps, None if refs is None else refs[index], lengths, baseline), seen

    @torch.no_grad()
    def baseline(self, parts: Sequence[Sequence[int]], module: nn.Module) -> float:
        """Mean log-ratio of the baseline completions of all parts, in all processes; 0 if there are none."""
        sums = torch.zeros(2, device=self._accelerator.device)
        for part in parts:
            index = self.task.baseline(part)
            if index:
                ratio = self.completions.logps(index, module)[0] - self.completions.reference_logps[index]
                sums += torch.stack([ratio.sum(), torch.ones_like(ratio).sum()])
        total, count = self._accelerator.reduce(sums, "sum").tolist()
        return total / count if count else 0.0

    def validate(self, scorer: PolicyScorer, *, batch_size: int) -> dict[str, float]:
        """The task's metrics on all rows, each process on its share."""
        rows = range(self._accelerator.process_index, len(self.task.sizes), self._accelerator.num_processes)
        parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        means = BatchMeans(self.task.names, self._accelerator)
        with evaluating(scorer):
            baseline = self.baseline(parts, scorer)
            for part in parts:
                means.add(self.losses(part, scorer, baseline)[0].values)
        return {f"val_{name}": value for name, value in means.result().items()}


def reference_logps(
    scorer: PolicyScorer,
    data: Data,
    *,
    reference: Reference,
    pad_token_id: int,
    accelerator: Accelerator,
    loss: str = "sigmoid",
    seed: int = 0,
) -> Tensor:
    """The reference's log-probabilities of some data, for several runs of :func:`train_dpo` on it.

    They are the same for every loss on pairs; for ``kto`` they also depend on the seed. Arguments as there.
    """
    task = DPOSettings(beta=1.0, loss=loss).task(data, seed=seed)
    completions = CompletionScorer(scorer, task.examples, pad_token_id=pad_token_id, accelerator=accelerator)
    completions.prepare(reference, rows=range(len(task.examples)))
    return completions.reference_logps


def train_dpo(
    scorer: PolicyScorer,
    data: Data,
    settings: DPOSettings,
    *,
    reference: Reference | None,
    pad_token_id: int,
    optimiser: OptimiserSettings,
    run: RunSettings,
    known_reference: Tensor | None = None,
    validation: Data = (),
) -> None:
    """Train the scorer's trainable parameters on preferences.

    The loss is the mean over the rows of the *whole* batch, so that neither padding, nor accumulation, nor
    the number of processes changes the gradient. The policy is trained in the mode (dropout or not) that the
    scorer is in; reference and validation are computed without dropout.

    Args:
        scorer: the policy.
        data: pairs (``preference.data.encode_preferences``); for ``kto`` also judged answers
            (``encode_judged``). Kto takes a pair as two judged answers, and a batch counts answers.
        settings: the loss.
        reference: a context in which the scorer computes the reference policy (adapter off, or another one);
            asked once, before the first step, about the rows that the run will draw. None for losses without
            a reference; given to those, it is used for a metric only.
        pad_token_id: fills rows.
        optimiser: see there.
        run: see there.
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
    learning = partial(
        _Learning,
        scorer=scorer,
        reference=reference,
        resume=run.resume,
        accelerator=run.accelerator,
        pad_token_id=pad_token_id,
    )
    task, held_out = settings.task(data, seed=run.seed), None
    drawn = drawn_rows(len(task.sizes), run.batch_size, run.steps, seed=run.seed, lengths=task.sizes)
    train = learning(
        task, rows=drawn, known=known_reference, name="reference", cache_megabytes=settings.cache_megabytes
    )
    saved = train.completions.tensors()
    if validation:
        others = settings.task(validation, seed=run.seed)
        held_out = learning(others, rows=range(len(others.sizes)), known=None, name="val_reference")
        saved |= held_out.completions.tensors()
    progress = Progress(optimisation, run)
    for step, rows, parts in progress.batches(task.sizes):
        rate, means = optimisation.learning_rate, BatchMeans(task.names, run.accelerator)
        baseline = train.baseline(parts, optimisation.module)
        for part in parts:
            result, seen = train.losses(part, optimisation.module, baseline)
            optimisation.backward(result.losses.sum() / len(rows), {"rows": torch.tensor(part)} | seen)
            means.add(result.values)
        norm = optimisation.step()
        metrics = means.result() | {"grad_norm": norm, "learning_rate": rate}
        if held_out is not None and progress.due(step, run.validate_every):
            metrics |= held_out.validate(scorer, batch_size=run.batch_size)
        progress.record(step, metrics, tensors=saved)
