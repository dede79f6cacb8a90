"""One policy-gradient step, from written plainly to as shipped: what each optimisation contributes.

    python -m benchmarks.ablation [--rounds 5]

Every line of the table is a step that really runs: sample 32 completions of 20 tokens, score them under the
policy and the reference, take one gradient step on the LoRA weights of the top eight layers. Each line adds
one optimisation to the line above. All lines run in processes of their own and take turns.
Writes results/bench/ablation.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Worker, roofline, spread, take_turns, write_result
from benchmarks.training import specification


@dataclass(frozen=True)
class Variant:
    """How the step is done.

    Attributes:
        label: the line of the table.
        precision: of the frozen weights.
        sampling: ``generate`` with adapters as they are, ``generate_merged``, ``ours_generic`` (our loop over
            the model's own forward pass) or ``ours``.
        wanted_only: the vocabulary head runs on completion tokens only.
        shared_trunk: the frozen lower layers run once for policy and reference, without a graph.
        keep_memory: the C library keeps the memory of freed tensors.
    """

    label: str
    precision: str = "fp32"
    sampling: str = "generate"
    wanted_only: bool = False
    shared_trunk: bool = False
    keep_memory: bool = False


VARIANTS = (
    Variant("written plainly: fp32, generate with adapters, logits everywhere"),
    Variant("+ adapters folded into the weights while sampling", sampling="generate_merged"),
    Variant("+ bfloat16 weights", "bf16", "generate_merged"),
    Variant("+ vocabulary head on completion tokens only", "bf16", "generate_merged", True),
    Variant("+ frozen trunk computed once, shared", "bf16", "generate_merged", True, True),
    Variant("+ our sampling loop", "bf16", "ours_generic", True, True),
    Variant("+ our decoder", "bf16", "ours", True, True),
    Variant("+ freed memory kept: as shipped", "bf16", "ours", True, True, True),
)


def measure(rounds: int, seed: int) -> list[dict[str, Any]]:
    """All variants in turn; one record each."""
    spec = specification("rloo", precision="fp32", shape="top8", rounds=rounds, seed=seed)
    with tempfile.TemporaryDirectory() as folder:

        def start(number: int) -> Worker:
            path = Path(folder) / f"{number}.json"
            path.write_text(json.dumps({**spec, **asdict(VARIANTS[number])}), encoding="utf-8")
            command = [sys.executable, "-m", "benchmarks.ablation_worker", str(path)]
            return Worker(VARIANTS[number].label, command)

        sides = take_turns([partial(start, n) for n in range(len(VARIANTS))], rounds=rounds)
    plain = [step["seconds"] for step in sides[0].steps]
    records = []
    for variant, side in zip(VARIANTS, sides, strict=True):
        counted = side.steps
        parts = {
            name: spread([step[name] for step in counted])["median"]
            for name in ("sampling_seconds", "scoring_seconds", "update_seconds")
        }
        seconds = [step["seconds"] for step in counted]
        records.append(
            {
                **asdict(variant),
                "seconds": spread(seconds),
                **parts,
                "times_faster_than_plain": spread([a / b for a, b in zip(plain, seconds, strict=True)]),
                "peak_megabytes": side.peak_megabytes,
            }
        )
    return records


def main() -> None:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    from rlhf_lite.tracking import run_info

    info = run_info(seed=arguments.seed)
    machine = roofline()
    records = measure(arguments.rounds, arguments.seed)
    write_result("ablation", {**info, "machine": machine, "variants": records})
    print(f"{'':66} seconds  sample   score  update  faster  MB")
    for record in records:
        parts = [record[f"{name}_seconds"] for name in ("sampling", "scoring", "update")]
        print(
            f"{record['label']:66} {record['seconds']['median']:7.2f} "
            + " ".join(f"{part:7.2f}" for part in parts)
            + f" {record['times_faster_than_plain']['median']:6.1f}x {record['peak_megabytes']:5.0f}"
        )


if __name__ == "__main__":
    main()
