"""Direct preference optimisation and its family: one trainer, the loss chosen by name.

The losses are those of ``functional.PREFERENCE_LOSSES`` (``sigmoid`` is DPO itself) on pairs, and ``kto`` on
answers that were judged one by one. The data is fixed: nothing is sampled, and no metric here is a KL
divergence of the policy, which would need its own samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.training.batches import drawn_rows
from rlhf_lite.training.checks import require_frozen_trunk
from rlhf_lite.training.preference.data import JudgedAnswer
from rlhf_lite.training.preference.scoring import Completions, Reference
from rlhf_lite.training.preference.tasks import Losses, PreferenceTask, Scored, make_task
from rlhf_lite.training.progress import Progress
from rlhf_lite.training.step import Hooks, Optimisation, Resume, batch_rows, evaluating, micro_batches

Data = Sequence[EncodedPair] | Sequence[JudgedAnswer]


class _Means:
    """Means of metrics over a batch that comes in parts, and over the processes."""

    def __init__(self, names: Sequence[str], accelerator: Accelerator) -> None:
        self._names, self._accelerator = list(names), accelerator
        self._sums = torch.zeros(2, len(self._names), device=accelerator.device)  # values, and their number

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in the values of one part."""
        for name, found in values.items():
            column = self._names.index(name)
            self._sums[0, column] += found.sum()
            self._sums[1, column] += found.numel()

    def result(self) -> dict[str, float]:
        """The means; a metric without any value is left out."""
        sums, counts = self._accelerator.reduce(self._sums, "sum").tolist()
        return {name: s / n for name, s, n in zip(self._names, sums, counts, strict=True) if n}


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
        options: further arguments of :class:`Completions`.
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
        self.completions = Completions(scorer, task.examples, accelerator=accelerator, name=name, **options)
        saved = None if resume is None else self.completions.saved_reference(resume.tensors)
        used = [*task.completions(rows), *task.baseline(rows)]
        self.completions.prepare(reference, rows=used, known=known if saved is None else saved)

    def losses(
        self, rows: Sequence[int], module: nn.Module, baseline: float
    ) -> tuple[Losses, dict[str, Tensor]]:
        """Loss and metrics of some rows, and the tokens that they were computed from."""
        index = self.task.completions(rows)
        logps, seen = self.completions.logps(index, module)
        refs = self.completions.reference_logps
        scored = Scored(logps, None if refs is None else refs[index], self.completions.lengths[index])
        return self.task.losses(rows, scored, baseline), seen

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
        means = _Means(self.task.names, self._accelerator)
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
    task = make_task(data, loss=loss, beta=1.0, options={}, sft_coef=0.0, seed=seed)
    bank = Completions(scorer, task.examples, pad_token_id=pad_token_id, accelerator=accelerator)
    bank.prepare(reference, rows=range(len(task.examples)))
    return bank.reference_logps


def train_dpo(
    scorer: PolicyScorer,
    data: Data,
    *,
    reference: Reference | None,
    beta: float,
    pad_token_id: int,
    steps: int,
    batch_size: int,
    accumulation: int,
    learning_rate: float,
    warmup_steps: int,
    max_grad_norm: float,
    seed: int,
    accelerator: Accelerator,
    hooks: Hooks,
    resume: Resume | None = None,
    loss: str = "sigmoid",
    loss_options: Mapping[str, Any] | None = None,
    sft_coef: float = 0.0,
    weight_decay: float = 0.0,
    schedule: str = "linear",
    known_reference: Tensor | None = None,
    validation: Data = (),
    validate_every: int = 50,
    cache_megabytes: int = 256,
    gradient_checkpointing: bool = False,
) -> None:
    """Train the scorer's trainable parameters on preferences.

    The loss is the mean over the rows of the *whole* batch, so that neither padding, nor accumulation, nor
    the number of processes changes the gradient. The policy is trained in the mode (dropout or not) that the
    scorer is in; reference and validation are computed without dropout.

    Args:
        scorer: the policy.
        data: pairs (``preference_data.encode_preferences``); for ``kto`` also judged answers
            (``encode_judged``). Kto takes a pair as two judged answers, and ``batch_size`` counts answers.
        reference: a context in which the scorer computes the reference policy (adapter off, or another one);
            asked once, before the first step, about the rows that the run will draw. None for losses without
            a reference; given to those, it is used for a metric only.
        known_reference: what :func:`reference_logps` gave for this data, to ask once for several runs.
        beta: β of the loss (τ for IPO).
        pad_token_id: fills rows.
        steps: optimiser steps; ``batches.epoch_steps`` converts epochs.
        loss: a name in ``functional.PREFERENCE_LOSSES``, or ``kto``.
        loss_options: further arguments of the loss, by name.
        sft_coef: weight of the negative log-likelihood per token of the chosen answers.
        validation: held-out rows, or none; measured every ``validate_every`` steps and at the end.
        cache_megabytes: memory for the frozen layers' states, which are then computed once per run instead of
            once per epoch; 0 for none.
        gradient_checkpointing: recompute the top layers in the backward pass: less memory, more time.

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
    scorer.body.checkpoint_top(gradient_checkpointing)
    optimisation = Optimisation(
        scorer,
        accelerator=accelerator,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        total_steps=steps,
        max_grad_norm=max_grad_norm,
        weight_decay=weight_decay,
        schedule=schedule,
        bad_batches=hooks.bad_batches,
    )

    task = partial(make_task, loss=loss, beta=beta, options=loss_options or {}, sft_coef=sft_coef, seed=seed)
    learning = partial(
        _Learning,
        scorer=scorer,
        reference=reference,
        resume=resume,
        accelerator=accelerator,
        pad_token_id=pad_token_id,
    )
    learned, held_out = task(data), None
    sizes = learned.sizes
    drawn = drawn_rows(len(sizes), batch_size, steps, seed=seed, lengths=sizes)
    train = learning(
        learned, rows=drawn, known=known_reference, name="reference", cache_megabytes=cache_megabytes
    )
    if validation:
        others = task(validation)
        held_out = learning(others, rows=range(len(others.sizes)), known=None, name="val_reference")
    saved = train.completions.tensors() | ({} if held_out is None else held_out.completions.tensors())
    progress = Progress(optimisation, steps=steps, hooks=hooks, resume=resume)
    for step in progress:
        # Dropout draws from torch's global generator; a resumed run must draw the same.
        torch.manual_seed(seed * 1_000_003 + step)
        rate = optimisation.learning_rate
        rows = batch_rows(len(sizes), batch_size, step, seed=seed, lengths=sizes)
        parts = micro_batches(rows, accumulation=accumulation, accelerator=accelerator)
        means = _Means(train.task.names, accelerator)
        baseline = train.baseline(parts, optimisation.module)
        for part in parts:
            found, seen = train.losses(part, optimisation.module, baseline)
            # Processes average their gradients; the factor turns that average back into a sum.
            total = found.losses.sum() / len(rows) * accelerator.num_processes
            optimisation.backward(total, {"rows": torch.tensor(part)} | seen)
            means.add(found.values)
        norm = optimisation.step()
        metrics = means.result() | {"grad_norm": norm, "learning_rate": rate}
        if held_out is not None and progress.due(step, validate_every):
            metrics |= held_out.validate(scorer, batch_size=batch_size)
        progress.record(step, metrics, tensors=saved)
