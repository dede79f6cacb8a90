"""One optimiser step, on ``accelerate``, the learning rate over a run, and what happens after each step.

In a run of several processes every process holds the whole model, works on its own rows, and the gradients
are averaged by one collective call per optimiser step. That is done here rather than by a wrapper around the
module: a process may then have fewer rows than the others, or none, without leaving them waiting.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from accelerate.utils import broadcast
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf_lite.errors import NonFiniteError
from rlhf_lite.models.trunk import SplitBody
from rlhf_lite.rollout.sampler import step_seed
from rlhf_lite.training.batches import batch_rows, micro_batches
from rlhf_lite.training.settings import OptimiserSettings, RunSettings

# What the learning rate falls to, as a fraction of its peak.
FLOOR = 0.1

# Names of early stopping's memory in a checkpoint.
_WEIGHT, _VALUE, _STEP, _MISSES = "best/weight/", "best/value", "best/step", "best/misses"

# From the fraction of the decay that has passed, 0 to 1, to the fraction of the peak.
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda passed: 1.0 - (1.0 - FLOOR) * passed,
    "cosine": lambda passed: FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * passed)),
    "constant": lambda passed: 1.0,
}


def learning_rate_factor(step: int, *, warmup_steps: int, total_steps: int,
                         schedule: str = "linear") -> float:
    """Linear warm-up from 1/warmup_steps to 1, then the schedule, down to a tenth at ``total_steps``.

    Args:
        step: from 0.
        warmup_steps: how many steps the warm-up takes; 0 for none.
        total_steps: length of the run.
        schedule: ``linear``, ``cosine`` (Loshchilov & Hutter 2017, one half period) or ``constant``, which
            stays at 1.

    Raises:
        ValueError: if there is no such schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"there is no schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    rest = max(1, total_steps - warmup_steps)
    return SCHEDULES[schedule](min(1.0, (step - warmup_steps) / rest))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients; afterwards every part of ``module`` is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def require_frozen_trunk(body: SplitBody) -> None:
    """Raise a ValueError if something below the split would have to be trained.

    The trunk runs without gradient: an adapter there would be left out of training without a word.
    """
    wrong = [name for name, p in body.lower.named_parameters() if p.requires_grad]
    if wrong:
        raise ValueError(f"{len(wrong)} trainable parameters lie below the split at layer {body.depth}, "
                         f"where no gradient reaches them (the first is {wrong[0]}): give the scorer "
                         "top_layers=None or the top_layers of its adapter")


class Optimisation:
    """AdamW on the trainable parameters of a module, with warm-up, decay, clipping, and a saveable state.

    Args:
        module: what is trained; its parameters with ``requires_grad``.
        optimiser: the settings; warm-up and decay count steps of the run.
        run: its length, its accelerator, and the folder for batches that made a loss or a gradient NaN or
            infinite.
        updates_per_step: optimiser steps that a step of the run takes.

    Raises:
        ValueError: if nothing is trainable, there is no such schedule, or the accelerator shards the model.
    """

    def __init__(self, module: nn.Module, optimiser: OptimiserSettings, run: RunSettings, *,
                 updates_per_step: int = 1) -> None:
        accelerator = run.accelerator
        self._names = [name for name, p in module.named_parameters() if p.requires_grad]
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        if not self._parameters:
            raise ValueError(f"{type(module).__name__} has no trainable parameter")
        kind = accelerator.distributed_type.value
        if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            raise ValueError(f"the accelerator shards the model ({kind}), and these trainers need the whole "
                             "model in every process: use accelerate launch --multi_gpu")
        self._settings, self._done = optimiser, 0
        self._warmup, self._total = optimiser.warmup_steps * updates_per_step, run.steps * updates_per_step
        adam = torch.optim.AdamW(self._parameters, lr=self.learning_rate, weight_decay=optimiser.weight_decay)
        self.accelerator = accelerator
        # "Evaluation" to accelerate means: place it, apply its mixed precision, and do not wrap it.
        self.module = accelerator.prepare_model(module, evaluation_mode=True)
        self.optimizer = accelerator.prepare_optimizer(adam)
        self._bad_batches, self._failure = run.hooks.bad_batches, ""
        self._seen: list[dict[str, Tensor]] = []
        if accelerator.num_processes > 1:
            with torch.no_grad():
                for parameter in self._parameters:
                    parameter.copy_(broadcast(parameter.detach()))

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self._settings.learning_rate * learning_rate_factor(
            self._done, warmup_steps=self._warmup, total_steps=self._total, schedule=self._settings.schedule
        )

    def backward(self, loss: Tensor, batch: Mapping[str, Tensor] | None = None) -> None:
        """Add the gradient of ``loss``, a scalar.

        Args:
            loss: what these rows contribute to the loss of the whole batch: the contributions of all parts
                and processes add up.
            batch: what the loss was computed from (row numbers, token ids), to be saved if it goes wrong.

        Raises:
            NonFiniteError: if the loss is NaN or infinite. With several processes :meth:`step` raises it, in
                all of them at once.
        """
        # Processes average their gradients; the factor turns that average back into a sum.
        loss = loss * self.accelerator.num_processes
        if batch is not None:
            self._seen.append({**batch, "loss": loss.detach()})
        if not bool(torch.isfinite(loss)):
            self._failure = f"the loss is {loss.item()}"
            if self.accelerator.num_processes == 1:
                self._stop(self._failure)
            return
        self.accelerator.backward(loss)

    def step(self) -> float:
        """Average over the processes, clip, update, clear the gradients; returns the norm before clipping.

        Raises:
            NonFiniteError: if the gradient norm is NaN or infinite, or another process's loss is.
        """
        if self.accelerator.num_processes > 1:
            self._average_gradients()
        norm = float(self.accelerator.clip_grad_norm_(self._parameters, self._settings.max_grad_norm))
        if not math.isfinite(norm):
            self._stop(f"the gradient norm is {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._seen.clear()
        self._done += 1
        return norm

    def _average_gradients(self) -> None:
        """One collective call for all gradients; a process without rows or without a gradient adds zeros."""
        has = [float(p.grad is not None) for p in self._parameters]
        flags = torch.tensor([*has, float(self._failure != "")], device=self._parameters[0].device)
        flags = self.accelerator.reduce(flags, "sum").tolist()
        if flags[-1] > 0:
            self._stop(self._failure or "the loss is not finite in another process")
        used = [p for p, count in zip(self._parameters, flags, strict=False) if count > 0]
        if not used:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
        flat = self.accelerator.reduce(torch.cat([g.flatten().float() for g in gradients]), "mean")
        for parameter, gradient in zip(used, flat.split([p.numel() for p in used]), strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype)

    def _stop(self, what: str) -> None:
        """Save the batch since the last update, and raise."""
        message = f"{what} after {self._done} optimiser steps"
        if self._bad_batches is not None and self._seen:
            rank = self.accelerator.process_index
            path = self._bad_batches / f"nonfinite-step-{self._done + 1:06d}-process-{rank}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = {f"{part}/{name}": tensor.detach().cpu().contiguous().clone()
                       for part, batch in enumerate(self._seen) for name, tensor in batch.items()}
            losses = [float(batch["loss"]) for batch in self._seen]
            save_file(tensors, str(path), metadata={"reason": message, "losses": json.dumps(losses)})
            message += f"; the batch (rows, token ids, loss) is in {path}"
        raise NonFiniteError(message)

    def release(self) -> None:
        """Let the accelerator forget model and optimiser, which it keeps otherwise as long as it lives.

        Its own ``free_memory`` forgets everything that it prepared, and runs the garbage collector.
        """
        for kept, own in ((self.accelerator._models, self.module),
                          (self.accelerator._optimizers, self.optimizer)):
            kept[:] = [one for one in kept if one is not own]

    def weights(self) -> dict[str, Tensor]:
        """The trainable weights by name, not copied."""
        return {name: p.detach() for name, p in zip(self._names, self._parameters, strict=True)}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Set the trainable weights, as :meth:`weights` gave them; Adam's moments stay.

        Raises:
            KeyError: if a weight of this module is not in ``weights``.
        """
        for name, parameter in zip(self._names, self._parameters, strict=True):
            parameter.data.copy_(weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """Weights and Adam moments, by name: all that is needed to continue."""
        state = self.optimizer.state
        tensors = {f"weight/{name}": weight for name, weight in self.weights().items()}
        for name, parameter in zip(self._names, self._parameters, strict=True):
            for key, value in state.get(parameter, {}).items():
                tensors[f"adam/{key}/{name}"] = torch.as_tensor(value).detach()
        return tensors | {"steps": torch.tensor(self._done)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what :meth:`tensors` gave.

        Raises:
            KeyError: if a weight of this module is not in ``tensors``.
        """
        self._done = int(tensors["steps"])
        for name, parameter in zip(self._names, self._parameters, strict=True):
            parameter.data.copy_(tensors[f"weight/{name}"])
            keys = {key: f"adam/{key}/{name}" for key in ("step", "exp_avg", "exp_avg_sq")}
            if all(full in tensors for full in keys.values()):
                moments = {key: tensors[full].to(parameter.device, copy=True) for key, full in keys.items()}
                moments["step"] = moments["step"].cpu()  # where Adam keeps its step count
                self.optimizer.state[parameter] = moments


class Progress:
    """The steps of a run, as something to loop over::

        progress = Progress(optimisation, run)
        for step in progress:  # counts from 0, or from where the interrupted run stood
            ...
            progress.record(step, metrics)

    After the last step the weights are those of the best one, if the hooks ask for early stopping.

    Args:
        optimisation: the run's optimiser; it is loaded from ``run.resume``.
        run: length of the run, whom to tell, and where an interrupted run continues.
    """

    def __init__(self, optimisation: Optimisation, run: RunSettings) -> None:
        self._optimisation, self._run, self._hooks = optimisation, run, run.hooks
        self._first, self._stopped = 0, False
        self._best: dict[str, Tensor] = {}
        self._numbers: dict[str, float] = {}
        self._logged: set[str] = set()
        if (resume := run.resume) is not None:
            optimisation.load(resume.tensors)
            self._first = resume.step
            self._best = {name.removeprefix(_WEIGHT): tensor.clone()
                          for name, tensor in resume.tensors.items() if name.startswith(_WEIGHT)}
            self._numbers = {k: resume.numbers[k] for k in (_VALUE, _STEP, _MISSES) if k in resume.numbers}
            self._stopped = self._out_of_patience()

    def __iter__(self) -> Iterator[int]:
        try:
            for step in range(self._first, self._run.steps):
                if self._stopped:
                    break
                yield step
            self._go_back_to_the_best()
        finally:
            self._optimisation.release()

    def batches(self, lengths: Sequence[int]) -> Iterator[tuple[int, list[int], list[list[int]]]]:
        """The steps of a trainer on fixed data.

        Args:
            lengths: of the data rows, so that a batch holds rows of similar length.

        Yields:
            number of the step, rows of the whole batch, and this process's rows of it in parts.
        """
        run = self._run
        for step in self:
            # Dropout draws from torch's global generator; a resumed run must draw the same.
            torch.manual_seed(step_seed(run.seed, step))
            rows = batch_rows(len(lengths), run.batch_size, step, seed=run.seed, lengths=lengths)
            yield step, rows, micro_batches(rows, accumulation=run.accumulation, accelerator=run.accelerator)

    def due(self, step: int, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, happens after ``step``."""
        return (step + 1) % every == 0 or step + 1 == self._run.steps

    def record(self, step: int, metrics: Mapping[str, float], *, tensors: Mapping[str, Tensor] | None = None,
               numbers: Mapping[str, float] | None = None) -> None:
        """Report a completed step.

        Args:
            step: from 0.
            metrics: of this step, already the same in every process.
            tensors: what a checkpoint holds besides the optimiser's state.
            numbers: the same for plain numbers.
        """
        hooks, line = self._hooks, dict(metrics)
        if hooks.evaluate is not None and self.due(step, hooks.evaluate_every):
            with evaluating(self._optimisation.module):
                line |= hooks.evaluate(step + 1)
        self._logged |= line.keys()
        self._watch(step, line)
        hooks.on_step(step + 1, line)
        if hooks.save is not None and (self._stopped or self.due(step, hooks.save_every)):
            best = {f"{_WEIGHT}{name}": tensor for name, tensor in self._best.items()}
            hooks.save(step + 1, self._optimisation.tensors() | best | dict(tensors or {}),
                       {**self._numbers, **(numbers or {})})

    def _watch(self, step: int, line: Mapping[str, float]) -> None:
        rule = self._hooks.early_stopping
        if rule is None or rule.metric not in line:
            return
        # One value for all processes: they must agree on when to stop.
        accelerator = self._optimisation.accelerator
        mine = torch.tensor(float(line[rule.metric]), device=accelerator.device)
        value = float(accelerator.reduce(mine, "mean"))
        if _VALUE in self._numbers and not rule.better(value, self._numbers[_VALUE]):
            self._numbers[_MISSES] += 1
        elif value == value:  # not NaN
            self._numbers = {_VALUE: value, _STEP: step + 1, _MISSES: 0}
            self._best = {name: w.clone() for name, w in self._optimisation.weights().items()}
        self._stopped = self._out_of_patience()

    def _out_of_patience(self) -> bool:
        rule = self._hooks.early_stopping
        return rule is not None and self._numbers.get(_MISSES, 0) >= rule.patience

    def _go_back_to_the_best(self) -> None:
        rule = self._hooks.early_stopping
        if rule is None:
            return
        if self._best:
            self._optimisation.load_weights(self._best)
        elif self._logged:
            raise ValueError(f"early stopping watches {rule.metric!r}, which no step logged as a number; "
                             f"logged were {', '.join(sorted(self._logged))}")
