"""Which of PPO's implementation details matter? Each is switched off in turn, where the optimum is known.

    python -m benchmarks.ppo_details                      # everything: about 20 minutes on one thread
    python -m benchmarks.ppo_details --paces hard --arms "all on" "no ratio clipping"
    python -m benchmarks.ppo_details --seeds 100 --steps 6 --output /tmp/details     # does it run at all?

Writes ``results/ppo_details/PACE_ARM.json``, one file per pace and arm as soon as its seeds are done. A seed
draws everything: world, pre-training, sampling and order. All arms of a seed start from the same network in
the same world, so that an arm is compared with "all on" seed by seed. The two paces and the switches were
chosen on seeds from 100 upwards; 0 to 4 are for the report. The notebook of chapter 8 replays the files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lab import interval
from rlhf_lite.files import write_json
from rlhf_lite.pipeline.lab.run import run_lab
from rlhf_lite.tracking import run_info

RESULTS = Path(__file__).resolve().parents[1] / "results" / "ppo_details"
WORLD = "dense"
ALL_ON = "all on"
NO_LIMIT = 1e6
# How hard each batch is used: the same samples, another learning rate and other numbers of passes.
PACES: Mapping[str, Mapping[str, Any]] = {
    "calm": {"learning_rate": 1e-3, "epochs": 2},
    "hard": {"learning_rate": 4e-3, "epochs": 4},
}
# PPO as it is usually run on language models, with the world's β.
USUAL: Mapping[str, Any] = {
    "steps": 60,
    "rows": 128,
    "minibatches": 2,
    "warmup_steps": 3,
    "max_grad_norm": 1.0,
    "clip": 0.2,
    "value_clip": 0.2,
    "value_coef": 0.5,
    "lam": 0.95,
    "whiten_advantages": True,
    "schedule": "linear",
    "evaluate_every": 10,
}
ARMS: Mapping[str, Mapping[str, Any]] = {
    ALL_ON: {},
    "no whitening": {"whiten_advantages": False},
    "no ratio clipping": {"clip": NO_LIMIT},
    "no value clipping": {"value_clip": None},
    "no gradient clipping": {"max_grad_norm": NO_LIMIT},
    "one epoch": {"epochs": 1},
    "λ = 1": {"lam": 1.0},
    "λ = 0": {"lam": 0.0},
    "no critic": {"value_coef": 0.0},
    # 1 / sqrt(hidden size + 1), the start that Stiennon et al. give a reward head
    "random value head": {"value_head_std": 65**-0.5},
    "no warm-up": {"warmup_steps": 0},
    "no decay": {"schedule": "constant"},
    "no KL penalty": {"kl_coef": 0.0},
}


def settings(pace: str, arm: str) -> dict[str, Any]:
    """What a run of this pace and arm is given."""
    return {**USUAL, **PACES[pace], **ARMS[arm]}


def file_name(pace: str, arm: str) -> str:
    """``hard_no_ratio_clipping.json``."""
    words = re.sub(r"[^a-z0-9]+", "_", arm.replace("λ", "lambda").lower()).strip("_")
    return f"{pace}_{words}.json"


def run_arm(
    pace: str, arm: str, seeds: Sequence[int], *, info: Mapping[str, Any], **changes: Any
) -> dict[str, Any]:
    """All seeds of one arm at one pace, and their summary; ``info`` says where the code came from."""
    given = settings(pace, arm) | changes
    runs = [run_lab("ppo", world=WORLD, seed=seed, **given).as_json() for seed in seeds]
    summary = {
        "pace": pace,
        "arm": arm,
        "changes": dict(ARMS[arm]),
        "world": WORLD,
        "seeds": list(seeds),
        "fraction": interval([run["evaluation"]["fraction"] for run in runs]),
        "kl_to_reference_nats_per_seq": interval([run["evaluation"]["kl_to_reference"] for run in runs]),
        "seconds": interval([run["seconds"] for run in runs]),
        "commit": info["commit"],
    }
    return {"schema": 1, "summary": summary, "run": dict(info), "runs": runs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paces", nargs="+", choices=tuple(PACES), default=list(PACES))
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--steps", type=int, help=f"rollouts per run; default {USUAL['steps']}")
    parser.add_argument("--missing", action="store_true", help="keep the files that are already there")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    changes = {} if options.steps is None else {"steps": options.steps}
    info = run_info()  # now: the code that runs is the one that was there at the start
    for pace in options.paces:
        for arm in options.arms:
            path = options.output / file_name(pace, arm)
            if options.missing and path.exists():
                record = json.loads(path.read_text(encoding="utf-8"))
            else:
                record = run_arm(pace, arm, options.seeds, info=info, **changes)
                write_json(path, record)
            row = record["summary"]
            mean, each = row["fraction"], [run["evaluation"]["fraction"] for run in record["runs"]]
            spread = "" if mean["low"] is None else f" [{mean['low']:.3f}, {mean['high']:.3f}]"
            print(
                f"{pace:5} {arm:22} {mean['mean']:7.3f}{spread:18} "
                f"{' '.join(f'{value:.3f}' for value in each)}  {row['seconds']['mean']:.0f} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
