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
from torch import Tensor

from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.training.batches import drawn_rows
from rlhf_lite.training.distributed import BatchMeans
from rlhf_lite.training.preference.data import JudgedAnswer
from rlhf_lite.training.preference.scoring import CompletionScorer, PreparedTask, Reference
from rlhf_lite.training.preference.tasks import DPOSettings
from rlhf_lite.training.progress import Progress
from rlhf_lite.training.settings import OptimiserSettings, RunSettings
from rlhf_lite.training.step import Optimisation, require_frozen_trunk

__all__ = ["DPOSettings", "reference_logps", "train_dpo"]

Data = Sequence[EncodedPair] | Sequence[JudgedAnswer]


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

    With h = log π/π_ref(chosen) - log π/π_ref(rejected), the loss of a pair is -log σ(β h) (Rafailov et al.
    2023, equation 7), or another one of the family. The mean runs over the rows of the *whole* batch, so that
    neither padding, nor accumulation, nor the number of processes changes the gradient. The policy is trained
    in the mode (dropout or not) that the scorer is in; reference and validation are computed without dropout.

    Args:
        scorer: the policy.
        data: pairs (``preference.data.encode_preferences``); for ``kto`` also judged answers
            (``encode_judged``). Kto takes a pair as two judged answers, and a batch counts answers.
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
    prepare = partial(
        PreparedTask,
        scorer=scorer,
        reference=reference,
        resume=run.resume,
        accelerator=run.accelerator,
        pad_token_id=pad_token_id,
    )
    task, held_out = settings.task(data, seed=run.seed), None
    drawn = drawn_rows(len(task.sizes), run.batch_size, run.steps, seed=run.seed, lengths=task.sizes)
    train = prepare(
        task, rows=drawn, known=known_reference, name="reference", cache_megabytes=settings.cache_megabytes
    )
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
            result, seen = train.losses(part, optimisation.module, baseline)
            optimisation.backward(result.losses.sum() / len(rows), {"rows": torch.tensor(part)} | seen)
            means.add(result.values)
        norm = optimisation.step()
        metrics = means.result() | {"grad_norm": norm, "learning_rate": rate}
        if held_out is not None and progress.due(step, run.validate_every):
            metrics |= held_out.validate(scorer, batch_size=run.batch_size)
        progress.record(step, metrics, tensors=saved)
