"""How near does each algorithm come to the exact optimum? Five seeds, means with 95% t-intervals, and bars.

    python -m benchmarks.lab                              # everything: under an hour on two quiet cores
    python -m benchmarks.lab --algorithms dpo ppo --worlds dense
    python -m benchmarks.lab --quick --seeds 100 --output /tmp/lab     # does it run at all?

Writes ``results/lab/ALGORITHM_WORLD.json``, one file per pair as soon as its seeds are done, and
``results/lab/summary.json`` with the table that is printed. A seed draws everything: world, pre-training,
sampling and order. Settings were chosen on seeds from 100 upwards; 0 to 4 are for this report. The exit code
is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from rlhf_lite.files import write_json
from rlhf_lite.lab import REWARDS
from rlhf_lite.pipeline.lab.preferences import PREFERENCE_CASES
from rlhf_lite.pipeline.lab.run import ALGORITHMS, BEST_OF_N, run_lab
from rlhf_lite.pipeline.lab.trainers import DPO_TRAINER, POLICY_CASES
from rlhf_lite.tracking import run_info

RESULTS = Path(__file__).resolve().parents[1] / "results" / "lab"
SECONDS_BAR = 60.0
# (algorithm, world) -> the least mean fraction.
BARS = {("dpo", world): 0.99 for world in REWARDS} | {
    (algorithm, "dense"): 0.97 for algorithm in ("ppo", "rloo", "grpo")
}


def cases(algorithms: Sequence[str], worlds: Sequence[str] | None) -> list[tuple[str, str]]:
    """Which worlds each algorithm is run in; ``worlds`` overrides the plan."""
    plan: dict[str, Sequence[str]] = {name: ("dense", "table") for name in PREFERENCE_CASES}
    plan |= {name: ("dense", "order", "sparse", "deceptive") for name in POLICY_CASES}
    plan |= {"dr_grpo": ("dense",), "grpo_kl_in_loss": ("dense",), DPO_TRAINER: ("dense",)}
    plan |= {"dpo": tuple(REWARDS), BEST_OF_N: tuple(REWARDS)}
    return [(name, world) for name in algorithms for world in worlds or plan[name]]


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and 95% t-interval over seeds; the interval is None for a single seed."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summary(algorithm: str, world: str, runs: Sequence[dict[str, Any]], *, quick: bool) -> dict[str, Any]:
    """What one line of the table says, and whether the bar was reached; a quick run is not judged."""

    def over(pick) -> dict[str, float | None]:
        return interval([pick(run) for run in runs])

    bar = None if quick else BARS.get((algorithm, world))
    fraction, seconds = over(lambda run: run["evaluation"]["fraction"]), [run["seconds"] for run in runs]
    passed = None if bar is None else fraction["mean"] >= bar and max(seconds) < SECONDS_BAR
    targets = [run["target"]["fraction"] for run in runs if run["target"] is not None]
    return {
        "algorithm": algorithm,
        "world": world,
        "policy": runs[0]["policy"],
        "seeds": [run["seed"] for run in runs],
        "fraction": fraction,
        "kl_to_optimum_nats_per_seq": over(lambda run: run["evaluation"]["kl_to_optimum"]),
        "kl_to_reference_nats_per_seq": over(lambda run: run["evaluation"]["kl_to_reference"]),
        "win_rate": over(lambda run: run["win_rate"]),
        "fraction_of_its_own_optimum": statistics.fmean(targets) if targets else None,
        "kl_to_its_own_optimum_nats_per_seq": (
            None if runs[0]["kl_to_target"] is None else over(lambda run: run["kl_to_target"])
        ),
        "seconds": {"mean": statistics.fmean(seconds), "largest": max(seconds)},
        "aims_at": runs[0]["aims_at"],
        "bar": bar,
        "bar_reached": passed,
    }


def line(row: dict[str, Any]) -> str:
    """One line of the printed table."""
    fraction = row["fraction"]
    spread = "" if fraction["low"] is None else f" [{fraction['low']:.4f}, {fraction['high']:.4f}]"
    verdict = {None: "", True: f"bar {row['bar']} reached", False: f"BAR {row['bar']} MISSED"}
    return (
        f"{row['algorithm']:16} {row['world']:10} {fraction['mean']:.4f}{spread:20} "
        f"KL to optimum {row['kl_to_optimum_nats_per_seq']['mean']:.4f}, "
        f"{row['seconds']['mean']:.0f} s  {verdict[row['bar_reached']]}"
    )


def run_case(algorithm: str, world: str, seeds: Sequence[int], *, quick: bool) -> dict[str, Any]:
    """All seeds of one algorithm in one world, and their summary."""
    runs = [run_lab(algorithm, world=world, seed=seed, quick=quick).as_json() for seed in seeds]
    info = run_info()
    row = summary(algorithm, world, runs, quick=quick) | {"commit": info["commit"], "quick": quick}
    return {"summary": row, "run": info, "runs": runs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write and print; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--worlds", nargs="+", choices=tuple(REWARDS), help="default: a plan per algorithm")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps; bars are not judged")
    parser.add_argument("--missing", action="store_true", help="keep the files that are already there")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for algorithm, world in cases(options.algorithms, options.worlds):
        path = options.output / f"{algorithm}_{world}.json"
        if options.missing and path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
        else:
            record = run_case(algorithm, world, options.seeds, quick=options.quick)
            write_json(path, record)
        rows.append(record["summary"])
        print(line(rows[-1]), flush=True)
    # A run of a few cases must not hide the others: the summary is of all files in the folder.
    paths = sorted(options.output.glob("*_*.json"))
    summaries = [json.loads(path.read_text(encoding="utf-8"))["summary"] for path in paths]
    write_json(options.output / "summary.json", {"run": run_info(), "rows": summaries})
    return int(any(row["bar_reached"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
