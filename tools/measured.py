"""The pages "Near the optimum" and "Speed", made from the JSON files in ``results/``; no number is typed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NOTHING = "\nNothing is recorded yet.\n"
# An interval in a narrow column stays on one line.
TO = "\u00a0to\u00a0"

LAB_HEAD = """# Near the optimum

In the lab a world is small enough to list every possible text: 8 tokens, length 4, 4,096 texts for each
prompt (for preference losses on infinite data 6 tokens, length 3, so that every pair of texts can be
summed). The best policy is then known exactly:

$$\\pi^*(y \\mid x) \\propto \\pi_\\mathrm{ref}(y \\mid x)\\, e^{r(x, y) / \\beta}.$$

Every algorithm of the package is run in such worlds and measured by enumeration, not by sampling. The
*share of the possible* is

$$\\frac{J(\\pi) - J(\\pi_\\mathrm{ref})}{J^* - J(\\pi_\\mathrm{ref})}, \\qquad J(\\pi) =
\\mathbb{E}_\\pi[r] - \\beta\\, \\mathrm{KL}(\\pi \\Vert \\pi_\\mathrm{ref}).$$

The reference has 0, the optimum 1, and nothing can have more. Each line is a mean over seeds with its
95 % t-interval; a seed draws the world, the start and every sample. Settings were chosen on other
seeds. To run one yourself: `rlhf-lite lab ppo --world dense --seed 0`.
"""

LAB_TAIL = """
## Where each algorithm leads

An algorithm can reach its own goal and still stay below 1: not all of them aim at $\\pi^*$.

"""

SPEED_HEAD = """# Speed

Measured side by side with the libraries that people would use otherwise, on two CPU cores: `make
bench`. Both sides run in processes of their own and take turns, step by step, so that a slow minute of
the machine slows both. A number above 1 means that this package needs less. The brackets hold the
smallest and the largest ratio of a turn.
"""

TRAINING_HEAD = """
## Training

One optimiser step of SmolLM2-135M with LoRA, rank 16, on the attention of the top layers. Same rows,
same order, same optimiser; sampled tasks draw the same number of tokens. Memory is the peak of the
whole process. *First step* is the time from the start of the process to the end of its first step,
imports and loading included.
"""

TRAINING_TAIL = """
*Losses* is the largest relative difference between the two sides' losses over all steps: the work is
the same. It is missing where the two sides draw different tokens. TRL's PPO (1.12.0, the last with one)
wants a critic and a reward model of their own; here both sit on the policy's frozen trunk. `dpo` lets
TRL ask the reference in every step, its default; we ask it once, before the first step, and each of our
steps is charged its share of that. `dpo_cached` asks it once on both sides and charges nothing.

TRL is given the rows in our order, which puts rows of similar length together; in its own random order it
would compute more padding. The reward model gains least: it has no vocabulary head to save, no reference,
and nothing to sample, and both sides spend most of the step in the same matrix products.
"""


def _load(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table whose first ``left`` columns are text."""
    marks = ["---"] * left + ["--:"] * (len(head) - left)
    lines = [head, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machines(records: Sequence[dict[str, Any]]) -> str:
    """Machines and commits of records, one line each."""
    found = set()
    for record in records:
        machine, torch = record["hardware"], record["versions"]["torch"]
        found.add(
            f"- {machine['cpu']}, {machine['physical_cores']} cores, {machine['memory_gb']:.0f} GB, "
            f"torch {torch}, commit `{str(record['commit'])[:10]}`"
        )
    return "\n" + "\n".join(sorted(found)) + "\n"


# --- The lab


def lab_page(root: Path) -> str:
    """The page "Near the optimum" as MyST Markdown."""
    path = root / "results" / "lab" / "summary.json"
    if not path.is_file():
        return LAB_HEAD + NOTHING
    record = json.loads(path.read_text(encoding="utf-8"))
    rows = sorted(record["rows"], key=lambda row: (row["policy"], row["algorithm"], row["world"]))
    titles = {
        "transformer": "A tiny transformer, trained by sampling",
        "table": "A table of logits, trained on infinite preferences",
        "reference": "Best of n: nothing is trained",
    }
    text = LAB_HEAD
    for policy, title in titles.items():
        chosen = [row for row in rows if row["policy"] == policy]
        if chosen:
            text += f"\n## {title}\n\n" + _lab_table(chosen)
    aims = dict.fromkeys((row["algorithm"], row["aims_at"]) for row in rows)
    text += LAB_TAIL + "\n".join(f"- `{name}`: {aim}." for name, aim in aims) + "\n"
    return text + machines([record["run"]])


def _lab_table(rows: Sequence[dict[str, Any]]) -> str:
    def interval(value: dict[str, float | None]) -> str:
        if value["low"] is None:
            return f"{value['mean']:.4f}"
        return f"{value['mean']:.4f} ({value['low']:.4f}{TO}{value['high']:.4f})"

    verdicts = {None: "", True: "reached", False: "**missed**"}
    lines = [
        (
            f"`{row['algorithm']}`",
            row["world"],
            interval(row["fraction"]),
            f"{row['kl_to_optimum_nats_per_seq']['mean']:.4f}",
            f"{row['kl_to_reference_nats_per_seq']['mean']:.3f}",
            f"{row['seconds']['mean']:.0f}",
            "" if row["bar"] is None else f"{row['bar']} {verdicts[row['bar_reached']]}",
        )
        for row in rows
    ]
    distances = ("KL to optimum, nats", "KL to reference, nats")
    head = ("algorithm", "world", "share of the possible", *distances, "s", "bar")
    return table(head, lines, left=2)


# --- Speed


def speed_page(root: Path) -> str:
    """The page "Speed" as MyST Markdown."""
    found = _load(root / "results" / "bench")
    if not found:
        return SPEED_HEAD + NOTHING
    training = {name: record for name, record in found.items() if "speedup" in record}
    text = SPEED_HEAD
    if training:
        text += TRAINING_HEAD + "\n" + _training_table(list(training.values())) + TRAINING_TAIL
    if "sampling" in found:
        text += _sampling(found["sampling"])
    if "ablation" in found:
        text += _ablation(found["ablation"])
    return text + "\n## Where it was measured\n" + machines(list(found.values()))


def _ratio(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['min']:.2f}{TO}{value['max']:.2f})"


def _training_table(records: Sequence[dict[str, Any]]) -> str:
    rows = []
    for record in records:
        settings, difference = record["settings"], record.get("largest_relative_loss_difference")
        rows.append(
            (
                f"`{settings['task']}`",
                f"{settings['precision']}, top\u00a0{settings['top_layers']}",
                f"{record['ours']['seconds_per_step']['median']:.2f}",
                f"{record['theirs']['seconds_per_step']['median']:.2f}",
                _ratio(record["speedup"]),
                f"{record['memory_ratio']:.2f}",
                f"{record['start_ratio']:.2f}",
                "" if difference is None else f"{difference:.0e}",
            )
        )
    seconds = ("ours, s", "TRL, s")
    head = ("task", "weights, layers", *seconds, "times faster", "less memory", "first step", "losses")
    return table(head, rows, left=2)


def _sampling(record: dict[str, Any]) -> str:
    text = (
        "\n## Sampling\n\n"
        f"{record['setting']['tokens']} new tokens per row, {record['setting']['precision']}. The time of "
        "our engine includes folding the adapters into the weights.\n\n"
    )
    rows = []
    for batch, sides in record["peers"].items():
        for name, side in sides.items():
            share = side.get("roofline_share")
            rows.append(
                (
                    name,
                    batch,
                    f"{side['tokens_per_second']['median']:.0f}",
                    _ratio(side["ours_is_faster"]),
                    f"{side['peak_megabytes']:.0f}",
                    "" if share is None else f"{share:.0%}",
                )
            )
    head = ("side", "rows", "tokens/s", "ours is faster by", "peak MB", "of the roofline")
    text += table(head, rows) + _machine(record["machine"])
    if "levers" in record:
        lines = [
            (
                name,
                f"{side['tokens_per_second']['median']:.0f}",
                _ratio(side["times_the_line_above"]),
                _ratio(side["times_the_first_line"]),
                f"{side['peak_megabytes']:.0f}",
            )
            for name, side in record["levers"].items()
        ]
        text += (
            "\nWhat each part contributes, on groups of four completions per prompt of which half end early. "
            "Each line adds one thing to the line above:\n\n"
        )
        text += table(("", "tokens/s", "this line", "all so far", "peak MB"), lines)
    return text


def _machine(machine: dict[str, float]) -> str:
    return (
        "\nThe roofline is what the machine could do at best: it reads memory at "
        f"{machine['read_gigabytes_per_second']:.0f} GB/s and multiplies matrices at "
        f"{machine['bf16_gigaflops']:.0f} (bf16) or {machine['fp32_gigaflops']:.0f} (fp32) billion "
        "operations a second, measured in the same run.\n"
    )


def _ablation(record: dict[str, Any]) -> str:
    rows = [
        (
            v["label"],
            *(f"{v[k]:.2f}" for k in ("sampling_seconds", "scoring_seconds", "update_seconds")),
            f"{v['seconds']['median']:.2f}",
            _ratio(v["times_faster_than_plain"]),
            f"{v['peak_megabytes']:.0f}",
        )
        for v in record["variants"]
    ]
    seconds = ("sampling, s", "scoring, s", "update, s", "in all, s")
    head = ("one step of RLOO", *seconds, "times faster", "peak MB")
    return (
        "\n## From written plainly to as shipped\n\n"
        "One policy-gradient step on 32 completions of 20 tokens. Each line adds one optimisation to the "
        "line above and really runs that way.\n\n" + table(head, rows)
    )
