"""What happens after each optimiser step: evaluate, log, stop early, save."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rlhf_lite.training.batches import batch_rows, micro_batches
from rlhf_lite.training.settings import RunSettings
from rlhf_lite.training.step import Optimisation, evaluating

_WEIGHT, _VALUE, _STEP, _MISSES = "best/weight/", "best/value", "best/step", "best/misses"


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
            self._best = {
                name.removeprefix(_WEIGHT): tensor.clone()
                for name, tensor in resume.tensors.items()
                if name.startswith(_WEIGHT)
            }
            self._numbers = {k: resume.numbers[k] for k in (_VALUE, _STEP, _MISSES) if k in resume.numbers}
            self._stopped = self._out_of_patience()

    def __iter__(self) -> Iterator[int]:
        for step in range(self._first, self._run.steps):
            if self._stopped:
                break
            yield step
        self._go_back_to_the_best()

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
            torch.manual_seed(run.seed * 1_000_003 + step)
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
