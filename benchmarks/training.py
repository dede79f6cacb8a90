"""Our trainers against TRL's: same model, data, LoRA, precision and tokens, one step each in turn.

    python -m benchmarks.training [TASK ...] [--rounds 5] [--precision bf16 fp32]

Writes one file per task and precision under results/bench/.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Side, Worker, ratios, roofline, take_turns, write_result

# TRL 1.12 is the last one with PPO; see README.md in this folder.
TRL_WITH_PPO = Path(os.environ.get("RLHF_LITE_TRL_PPO", ROOT / "build" / "trl-1.12"))


@dataclass(frozen=True)
class Task:
    """One comparison.

    Attributes:
        data: which rows: ``texts``, ``pairs`` or ``prompts``.
        batch_size: rows, pairs or completions of one step.
        settings: more numbers that both sides read.
    """

    data: str
    batch_size: int
    settings: dict[str, Any]

    @property
    def rows_per_step(self) -> int:
        """Rows of data that a step uses up."""
        return self.batch_size // self.settings.get("group_size", 1)


_GROUPS = {"group_size": 4, "new_tokens": 20, "kl_coef": 0.05, "learning_rate": 1e-4}
MAX_TOKENS = 96
TASKS = {
    "sft": Task("texts", 16, {"learning_rate": 1e-3}),
    "reward": Task("pairs", 16, {"learning_rate": 1e-3, "centre": 0.01}),
    "dpo": Task("pairs", 8, {"learning_rate": 1e-4, "beta": 0.1}),
    "dpo_cached": Task("pairs", 8, {"learning_rate": 1e-4, "beta": 0.1}),
    "rloo": Task("prompts", 32, _GROUPS),
    "grpo": Task("prompts", 32, _GROUPS),
    "ppo": Task(
        "prompts",
        32,
        {"new_tokens": 16, "kl_coef": 0.05, "learning_rate": 1e-4, "epochs": 2, "minibatches": 4},
    ),
}
# The layers that carry LoRA: those of the quick start, and all of them.
SHAPES = {"top8": {"top_layers": 8}, "all": {"top_layers": 30}}


def rows_of(kind: str, n: int, seed: int) -> list[dict[str, str]]:
    """Rows from the human ratings, training split only."""
    from rlhf_lite.data import load_ratings, make_pairs, split_prompts, split_ratings

    ratings = split_ratings(load_ratings("movie"))["train"]
    if kind == "pairs":
        pairs = make_pairs(ratings, n=n, min_gap=1.0, prompt_words=2, seed=seed)
        return [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    cut = split_prompts(ratings, words_min=5, words_max=5)[:: max(1, 2000 // n)][:n]
    if kind == "texts":
        return [{"prompt": prompt, "completion": completion} for prompt, completion in cut]
    return [{"prompt": prompt} for prompt, _ in cut]


def their_rows(
    name: str, rows: list[dict[str, Any]], tokenizer: Any, *, steps: int, seed: int
) -> list[dict[str, Any]]:
    """The rows in the order in which our trainer takes them, as TRL wants them.

    Where TRL would tokenise otherwise (an end token after every scored text, say), it is given token ids.
    """
    from rlhf_lite.training.batches import batch_rows

    task = TASKS[name]

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    if name == "sft":
        ends = [tokenizer.eos_token_id]
        parts = [(ids(row["prompt"]), ids(row["completion"]) + ends) for row in rows]
        given = [{"input_ids": a + b, "labels": [-100] * len(a) + b} for a, b in parts]
        lengths = [len(a) + len(b) for a, b in parts]
    elif name == "reward":
        given = [{f"{key}_ids": ids(r["prompt"] + r[key]) for key in ("chosen", "rejected")} for r in rows]
        lengths = [len(r["prompt"]) + max(len(r["chosen"]), len(r["rejected"])) for r in rows]
    elif task.data == "pairs":
        given = rows
        longest = [max(len(ids(row[key])) for key in ("chosen", "rejected")) for row in rows]
        lengths = [len(ids(row["prompt"])) + n + 1 for row, n in zip(rows, longest, strict=True)]
    else:
        return rows
    order = [batch_rows(len(rows), task.batch_size, n, seed=seed, lengths=lengths) for n in range(steps)]
    return [given[row] for batch in order for row in batch]


def specification(name: str, *, precision: str, shape: str, rounds: int, seed: int) -> dict[str, Any]:
    """What both sides read."""
    from transformers import AutoConfig, AutoTokenizer

    from rlhf_lite.data.assets.ensure import ensure_model

    task = TASKS[name]
    model = str(ensure_model())
    # More than will run, so that no side ends, or decays its learning rate, by itself.
    steps = rounds + 2
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = rows_of(task.data, task.rows_per_step * steps, seed)
    return {
        "task": name,
        "model": model,
        "layers": AutoConfig.from_pretrained(model).num_hidden_layers,
        "precision": precision,
        "threads": os.cpu_count(),
        "rank": 16,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "batch_size": task.batch_size,
        "steps": steps,
        "max_tokens": MAX_TOKENS,
        "rows": rows,
        "their_rows": their_rows(name, rows, tokenizer, steps=steps, seed=seed),
        "seed": seed,
        **SHAPES[shape],
        **task.settings,
    }


def compare(spec: dict[str, Any], *, rounds: int) -> tuple[Side, Side]:
    """Run one comparison; returns (ours, theirs)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(spec), encoding="utf-8")

        def ours() -> Worker:
            return Worker("rlhf_lite", [sys.executable, "-m", "benchmarks.our_worker", str(path)])

        def theirs() -> Worker:
            extra = {}
            if spec["task"] == "ppo":
                extra = {"PYTHONPATH": os.pathsep.join([str(TRL_WITH_PPO), str(ROOT)])}
            return Worker("trl", [sys.executable, "-m", "benchmarks.trl_worker", str(path)], extra)

        first, second = take_turns([ours, theirs], rounds=rounds)
        return first, second


def to_first_step(side: Side) -> float:
    """Seconds from the start of the process to the end of its first step."""
    return side.start_seconds + side.first_step["seconds"]


def describe(spec: dict[str, Any], ours: Side, theirs: Side) -> dict[str, Any]:
    """The record of one comparison."""
    their_seconds, our_seconds = ([s["seconds"] for s in side.steps] for side in (theirs, ours))
    if spec["task"] == "dpo":
        # TRL asks the reference in every step, we ask it once, before the first: each step pays its share.
        share = (ours.first_step["seconds"] - min(our_seconds)) / spec["steps"]
        our_seconds = [seconds + share for seconds in our_seconds]
    losses = [[s["loss"] for s in (side.first_step, *side.steps)] for side in (ours, theirs)]
    hidden = ("rows", "their_rows", "model")
    settings = {key: value for key, value in spec.items() if key not in hidden}
    record = {
        "settings": settings,
        "speedup": ratios(their_seconds, our_seconds),
        "memory_ratio": theirs.peak_megabytes / ours.peak_megabytes,
        "start_ratio": to_first_step(theirs) / to_first_step(ours),
        "ours": ours.record(),
        "theirs": theirs.record(),
    }
    # Sampled tasks draw other tokens on each side: their losses are not comparable number by number.
    if TASKS[spec["task"]].data != "prompts":
        record["largest_relative_loss_difference"] = max(
            abs(a - b) / max(abs(b), 1e-3) for a, b in zip(*losses, strict=True)
        )
    return record


def main() -> None:
    """Compare, print a line each, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], help="default: all of them")
    parser.add_argument("--rounds", type=int, default=5, help="counted steps of each side")
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    parser.add_argument("--shape", nargs="+", default=["top8"], choices=list(SHAPES))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    from rlhf_lite.tracking import run_info

    info = run_info(seed=arguments.seed)
    for name in arguments.tasks or TASKS:
        for precision in arguments.precision:
            for shape in arguments.shape:
                spec = specification(
                    name, precision=precision, shape=shape, rounds=arguments.rounds, seed=arguments.seed
                )
                machine = roofline()
                ours, theirs = compare(spec, rounds=arguments.rounds)
                record = {**info, "machine": machine, **describe(spec, ours, theirs)}
                write_result(f"{name}-{precision}-{shape}", record)
                speed, memory, start = (record[k] for k in ("speedup", "memory_ratio", "start_ratio"))
                print(
                    f"{name:11} {precision} {shape}: TRL / ours = {speed['median']:.2f} "
                    f"[{speed['min']:.2f}, {speed['max']:.2f}] per step, {memory:.2f} in peak memory, "
                    f"{start:.2f} to the end of the first step",
                    flush=True,
                )


if __name__ == "__main__":
    main()
