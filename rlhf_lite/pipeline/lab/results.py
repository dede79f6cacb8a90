"""What a run in a small world reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlhf_lite.lab import Evaluation, World, exact_kl, win_rates

# J* is exact; what exceeds it by more than rounding is a bug in the measurement.
_EXCESS = 1e-9


class BeyondOptimumError(RuntimeError):
    """A policy was measured above the best possible value: the measurement is wrong."""


@dataclass(frozen=True)
class Point:
    """The exact state of a policy during a run.

    Attributes:
        step: optimiser or trainer steps so far; for best-of-n the number n.
        fraction: of the possible improvement.
        kl_to_reference: nats per sequence.
        expected_reward: points.
    """

    step: int
    fraction: float
    kl_to_reference: float
    expected_reward: float


@dataclass(frozen=True)
class LabResult:
    """One algorithm in one world, measured by enumeration.

    Attributes:
        algorithm: its name.
        policy: what was trained: ``table``, ``transformer`` or, for best-of-n, ``reference``.
        world: name of the world.
        tokens, length, prompts, beta: of the world.
        seed: of the run: sampling, order, and the pre-training of a transformer.
        evaluation: the final policy against the optimum of E[r] - β KL.
        win_rate: chance that the final policy beats the reference under Bradley-Terry preferences.
        aims_at: one sentence: which policy this algorithm leads to with unlimited data.
        target: the same, measured, where it has a closed form that differs from π*; else None.
        kl_to_target: KL(π || that policy), nats per sequence; None without a closed form.
        seconds: training, without the exact measurements.
        seconds_measuring: the exact measurements.
        curve: from the reference (step 0) to the end.
        settings: every number the run was given.
        extra: figures of one algorithm only.
    """

    algorithm: str
    policy: str
    world: str
    tokens: int
    length: int
    prompts: int
    beta: float
    seed: int
    evaluation: Evaluation
    win_rate: float
    aims_at: str
    target: Evaluation | None
    kl_to_target: float | None
    seconds: float
    seconds_measuring: float
    curve: tuple[Point, ...]
    settings: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """(J(π) - J(reference)) / (J* - J(reference))."""
        return self.evaluation.fraction

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return asdict(self)


def measured(world: World, probs: Tensor) -> Evaluation:
    """``world.evaluate``, with the check that the optimum is not exceeded.

    Raises:
        BeyondOptimumError: if it is, by more than rounding.
    """
    evaluation = world.evaluate(probs)
    value, best = evaluation.objective, evaluation.best_objective
    if value > best + _EXCESS * max(1.0, abs(best)):
        raise BeyondOptimumError(f"J = {value!r} is above J* = {best!r} in the world {world.name!r}")
    return evaluation


OnPoint = Callable[[Point], None]


class Curve:
    """The points of a run, its clock, and the seconds that measuring the points took.

    Args:
        world: where the policies are measured.
        on_point: called with every new point.
    """

    def __init__(self, world: World, on_point: OnPoint | None = None) -> None:
        self.points: list[Point] = []
        self.started, self.seconds_measuring = time.perf_counter(), 0.0
        self._world, self._on_point = world, on_point

    def add(self, step: int, probs: Callable[[], Tensor]) -> Evaluation:
        """Measure the distribution ``[P, N]`` that ``probs`` gives now, after ``step`` steps."""
        started = time.perf_counter()
        now = measured(self._world, probs())
        self.points.append(Point(step, now.fraction, now.kl_to_reference, now.expected_reward))
        if self._on_point is not None:
            self._on_point(self.points[-1])
        self.seconds_measuring += time.perf_counter() - started
        return now


def result(world: World, probs: Tensor, curve: Curve, *, target: Tensor | None, **about: Any) -> LabResult:
    """Measure the final distribution ``probs`` ``[P, N]`` and put everything together.

    ``target`` is the algorithm's own optimum ``[P, N]`` where it is known in closed form; ``about`` are
    algorithm, policy, seed, aims_at, settings and extra of the :class:`LabResult`.
    """
    seconds = time.perf_counter() - curve.started - curve.seconds_measuring
    same = target is not None and torch.allclose(target, world.optimum, atol=1e-12, rtol=0)
    return LabResult(**about, world=world.name, tokens=world.tokens, length=world.length,
                     prompts=len(world.prompts), beta=world.beta, evaluation=measured(world, probs),
                     win_rate=float((probs * win_rates(world.rewards, world.reference)).sum(-1).mean()),
                     target=None if target is None or same else measured(world, target),
                     kl_to_target=None if target is None else float(exact_kl(probs, target).mean()),
                     seconds=seconds, seconds_measuring=curve.seconds_measuring, curve=tuple(curve.points))
