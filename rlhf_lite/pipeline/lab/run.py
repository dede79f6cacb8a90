"""Run any algorithm of this package in a world whose best answer is known, and measure what it reached.

    from rlhf_lite.pipeline.lab.run import run_lab

    run = run_lab("rloo", world="dense", seed=0)
    run.fraction                         # (J(π) - J(reference)) / (J* - J(reference)), exact
    run.evaluation.kl_to_optimum         # KL(π || π*) in nats per sequence, exact
    [(p.step, p.fraction) for p in run.curve]

Three kinds of runs share one report: preference losses on infinite data with a table
(``preferences``), the trainers with a tiny transformer (``trainers``), and best-of-n, for which nothing is
trained.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rlhf_lite.functional import best_of_n_kl_bound, best_of_n_probs
from rlhf_lite.lab import World, exact_kl, make_world
from rlhf_lite.pipeline.lab.preferences import PREFERENCE_CASES, run_preferences
from rlhf_lite.pipeline.lab.results import Curve, LabResult, OnPoint, result
from rlhf_lite.pipeline.lab.trainers import DPO_TRAINER, POLICY_CASES, run_dpo_trainer, run_policy

BEST_OF_N = "best_of_n"
ALGORITHMS = (*PREFERENCE_CASES, *POLICY_CASES, DPO_TRAINER, BEST_OF_N)

# Found on worlds and runs with seeds from 100 upwards; the reported seeds are 0 to 4.
_PREFERENCE_SETTINGS = {"steps": 500, "learning_rate": 0.1, "evaluate_every": 50}
_POLICY_SETTINGS = {"steps": 350, "rows": 256, "learning_rate": 1e-3, "evaluate_every": 10}
_DPO_TRAINER_SETTINGS = {"steps": 250, "rows": 256, "learning_rate": 2e-3, "evaluate_every": 10}
_BEST_OF = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def run_lab(algorithm: str, *, world: World | str = "dense", seed: int = 0, quick: bool = False,
            on_point: OnPoint | None = None, **settings: Any) -> LabResult:
    """Run one algorithm in one world and measure it exactly.

    Args:
        algorithm: one of :data:`ALGORITHMS`.
        world: a world, or the name of one, which is then built with its default sizes: 8 tokens x length 4
            (4,096 sequences), or 6 tokens x length 3 (216) for preference losses, where every pair counts.
        seed: of the run, and of the world if it is given by name.
        quick: a tenth of the steps, to see that everything works.
        on_point: called with every point of the curve as it is measured, for progress displays.
        **settings: replace the defaults of the kind of run (``steps``, ``learning_rate``, ``rows``, ...);
            for best-of-n, ``ns`` are the numbers n.

    Raises:
        ValueError: for an unknown algorithm or world.
        BeyondOptimumError: if the measurement shows more than the possible.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"the lab has no algorithm {algorithm!r}; choose one of {', '.join(ALGORITHMS)}")
    if isinstance(world, str):
        # 216 sequences: every pair can be summed.
        size = {"tokens": 6, "length": 3} if algorithm in PREFERENCE_CASES else {}
        world = make_world(world, seed=seed, **size)
    if algorithm == BEST_OF_N:
        return run_best_of_n(world, seed=seed, on_point=on_point, **settings)
    if algorithm in PREFERENCE_CASES:
        run, defaults = partial(run_preferences, algorithm), _PREFERENCE_SETTINGS
    elif algorithm == DPO_TRAINER:
        run, defaults = run_dpo_trainer, _DPO_TRAINER_SETTINGS
    else:
        run, defaults = partial(run_policy, algorithm), _POLICY_SETTINGS
    if quick:
        defaults = defaults | {"steps": max(1, defaults["steps"] // 10)}
    return run(world=world, seed=seed, on_point=on_point, **defaults | settings)


def run_best_of_n(world: World, *, seed: int = 0, ns: tuple[int, ...] = _BEST_OF,
                  on_point: OnPoint | None = None) -> LabResult:
    """The exact distribution of best-of-n in a world, for every n; the best n stands for all of them.

    Nothing is trained and nothing is drawn: it has a closed form. ``extra`` holds, for each n, the KL to
    the reference and its bound log n - (n-1)/n, per prompt the largest.

    Args:
        world: its reference is sampled from.
        seed: recorded only.
        ns: the numbers n, each at least 1.
        on_point: called with every point of the curve, for progress displays.
    """
    curve = Curve(world, on_point)
    probs = {n: best_of_n_probs(world.reference, world.rewards, n) for n in ns}
    evaluations = {n: curve.add(n, partial(probs.get, n)) for n in ns}
    best = max(ns, key=lambda n: evaluations[n].objective)
    rows = [{"n": n, "fraction": evaluation.fraction, "expected_reward": evaluation.expected_reward,
             "kl_nats_per_seq": evaluation.kl_to_reference,
             "largest_kl_nats_per_seq": float(exact_kl(probs[n], world.reference).max()),
             "kl_bound_nats_per_seq": best_of_n_kl_bound(n)}
            for n, evaluation in evaluations.items()]
    aims_at = ("the winner of n draws: it looks at the rank of a reward, π* at its size, so that J has its "
               "peak at some n, below J*")
    return result(world, probs[best], curve, algorithm=BEST_OF_N, policy="reference", seed=seed,
                  aims_at=aims_at, target=None, settings={"ns": list(ns)},
                  extra={"best_n": best, "by_n": rows})
