"""Our sampling engine against ``transformers.generate``, and what each part of it contributes.

    python -m benchmarks.sampling [--rounds 5] [--tokens 24] [--threads 2] [--batches 1 8 48]

Every side runs in a process of its own; they take turns, and ratios are taken turn by turn. All of them
sample from the same distribution (temperature 1, nothing truncated) and draw the same number of tokens; the
time includes folding the adapters into the weights, and packing the weights, wherever a side does so.
Writes results/bench/sampling.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Worker, ratios, roofline, spread, take_turns, write_result

PEERS = ("generate, adapters as they are", "generate, adapters merged", "ours")
# From written plainly to as shipped: every line adds one thing to the line above.
LEVERS = (
    "by hand, adapters as they are",
    "adapters merged",
    "head on the last position only",
    "one uniform number per draw",
    "rows that have ended leave",
    "a loop of our own",
    "a prompt is read once per group",
    "weights packed once per call",
    "freed memory kept: as shipped",
)
# SmolLM2-135M: parameters that a token is multiplied by; the vocabulary head is needed once per prompt.
PARAMETERS, HEAD = 134_515_008, 49_152 * 576
KEY_VALUE_BYTES = 30 * 2 * 3 * 64 * 4  # per token and row, in float32


def floor_seconds(machine: dict[str, float], *, batch: int, tokens: int, precision: str) -> float:
    """The least time for the multiplications, or for reading weights and cache, whichever is longer.

    Prompts have 6.5 tokens on average. The first token of a row comes out of reading its prompt.
    """
    rate = machine[f"{precision}_gigaflops"] * 1e9
    speed = machine["read_gigabytes_per_second"] * 1e9
    weights = PARAMETERS * (2 if precision == "bf16" else 4)
    prompt = max(2 * batch * (6.5 * (PARAMETERS - HEAD) + HEAD) / rate, weights / speed)
    cache = batch * (6.5 + tokens / 2) * KEY_VALUE_BYTES
    step = max(2 * batch * PARAMETERS / rate, (weights + cache) / speed)
    return prompt + (tokens - 1) * step


def turns(names: tuple[str, ...], spec: dict[str, Any], *, rounds: int) -> dict[str, dict[str, Any]]:
    """Run the sides in turn; seconds of each counted turn, tokens per second, and peak memory."""
    with tempfile.TemporaryDirectory() as folder:

        def start(number: int) -> Worker:
            path = Path(folder) / f"{number}.json"
            path.write_text(json.dumps(spec | {"name": names[number]}), encoding="utf-8")
            command = [sys.executable, "-m", "benchmarks.sampling_worker", str(path)]
            return Worker(names[number], command, {"OMP_NUM_THREADS": str(spec["threads"])})

        sides = take_turns([partial(start, n) for n in range(len(names))], rounds=rounds)
    records = {}
    for side in sides:
        seconds = [step["seconds"] for step in side.steps]
        records[side.name] = {
            "seconds": spread(seconds),
            "all_seconds": seconds,
            "tokens_per_second": spread([step["counted_tokens"] / step["seconds"] for step in side.steps]),
            "peak_megabytes": side.peak_megabytes,
        }
    return records


def agreement(spec: dict[str, Any], precision: str) -> dict[str, float]:
    """Shares of greedy tokens and of whole rows that are those of ``generate``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agreement.json"
        path.write_text(json.dumps(spec | {"name": "agreement", "precision": precision}), encoding="utf-8")
        threads = {"OMP_NUM_THREADS": str(spec["threads"])}
        worker = Worker("agreement", [sys.executable, "-m", "benchmarks.sampling_worker", str(path)], threads)
        try:
            counts = worker.step()
            worker.stop()
        finally:
            worker.close()
    return {"tokens": counts["tokens"], "rows": counts["rows"]}


def show_peers(batch: int, records: dict[str, Any], floor: float) -> None:
    """One table per batch size."""
    ours = records["ours"]
    print(f"\nbatch {batch:34} tokens/s      ours is faster by   peak MB")
    for name, record in records.items():
        faster = ratios(record["all_seconds"], ours["all_seconds"])
        record["ours_is_faster"] = faster
        print(
            f"{name:40} {record['tokens_per_second']['median']:8.0f}"
            f"{faster['median']:10.2f}x ({faster['min']:.2f}-{faster['max']:.2f})"
            f"{record['peak_megabytes']:9.0f}"
        )
    ours["roofline_share"] = floor / ours["seconds"]["median"]
    print(f"ours reaches {ours['roofline_share']:.0%} of the machine's roofline")


def show_levers(records: dict[str, Any]) -> None:
    """The ablation table."""
    first = records[LEVERS[0]]["all_seconds"]
    before = first
    print(f"\n{'each line adds to the one above':40} tokens/s   this line    all so far   peak MB")
    for name, record in records.items():
        record["times_the_line_above"] = ratios(before, record["all_seconds"])
        record["times_the_first_line"] = ratios(first, record["all_seconds"])
        before = record["all_seconds"]
        print(
            f"{name:40} {record['tokens_per_second']['median']:8.0f}"
            f"{record['times_the_line_above']['median']:11.2f}x"
            f"{record['times_the_first_line']['median']:13.2f}x{record['peak_megabytes']:10.0f}"
        )


def main() -> None:
    """Measure, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted turns of each side")
    parser.add_argument("--tokens", type=int, default=24, help="new tokens per row")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 48])
    parser.add_argument("--levers", type=int, default=48, help="batch of the ablation table; 0 leaves it out")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    import torch

    from rlhf_lite.tracking import run_info

    torch.set_num_threads(arguments.threads)
    machine = roofline()
    shared = {
        "tokens": arguments.tokens,
        "threads": arguments.threads,
        "precision": arguments.precision,
        "seed": arguments.seed,
        "group": 1,
        "early": False,
    }
    result: dict[str, Any] = {**run_info(seed=arguments.seed), "machine": machine, "setting": shared}
    result["greedy_agreement"] = {
        precision: agreement({**shared, "batch": 8}, precision) for precision in ("fp32", "bf16")
    }
    for precision, agreement in result["greedy_agreement"].items():
        print(f"greedy, {precision}: {agreement['tokens']:.1%} of the tokens are those of generate")
    result["peers"] = {}
    for batch in arguments.batches:
        records = turns(PEERS, {**shared, "batch": batch}, rounds=arguments.rounds)
        floor = floor_seconds(machine, batch=batch, tokens=arguments.tokens, precision=arguments.precision)
        show_peers(batch, records, floor)
        result["peers"][batch] = records
    if arguments.levers:
        # Groups of four share a prompt, and half of the rows end early.
        spec = {**shared, "batch": arguments.levers, "group": 4, "early": True}
        result["levers"] = turns(LEVERS, spec, rounds=arguments.rounds)
        show_levers(result["levers"])
    print(f"\nwritten to {write_result('sampling', result)}")


if __name__ == "__main__":
    main()
