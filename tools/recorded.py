"""The page "Recorded runs", made from the JSON files in ``results/quickstart/``; no number in it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HEAD = """# Recorded runs

The five-minute run, `rlhf-lite quickstart`, at the settings of `configs/quickstart.yaml`, once for each seed.
The table is made from the files in `results/quickstart/`, which the runs wrote themselves; only the
folder in the recorded command was shortened. Pairs and learning rate of the reward model were chosen on
validation texts. The test texts were not untouched: earlier settings had been run on them, and PPO's
number of steps and its price of KL were changed, for time, after those results had been seen.
"""

TAIL = """
*Gold* is the judge that nobody optimised, on the human scale of −4 to +4. *Gain* is PPO minus SFT on the
same openings with the same random numbers, with its 95 % interval. KL, in nats per sequence, is from the SFT
policy. Perplexity is under the untouched model. Seconds are of the whole run, loading included.
Other work shared the machine with these runs, most of all with seeds 1 and 2, so the seconds are upper ends.

What the table does not show: how the numbers change on another machine (bfloat16 rounds differently, so texts
differ), with other raters, or with a larger model.
"""


def runs(root: Path) -> list[dict[str, Any]]:
    """The recorded runs, by seed."""
    files = sorted((root / "results" / "quickstart").glob("*.json"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return sorted(found, key=lambda run: run["seed"])


def recorded_page(root: Path) -> str:
    """The page as MyST Markdown.

    Raises:
        SystemExit: if a recorded file lacks an entry; it names the entry.
    """
    found = runs(root)
    if not found:
        return HEAD + "\nNo run is recorded yet.\n"
    try:
        rows = [_column(run) for run in found]
    except KeyError as error:
        raise SystemExit(f"results/quickstart: a file has no entry {error}; record the run again") from error
    names = list(rows[0])
    lines = ["| | " + " | ".join(f"seed {run['seed']}" for run in found) + " |"]
    lines.append("|---|" + "--:|" * len(found))
    lines += [f"| {name} | " + " | ".join(row[name] for row in rows) + " |" for name in names]
    places = sorted(
        {
            f"{run['hardware']['cpu']}, {run['hardware']['physical_cores']} cores, "
            f"{run['hardware']['memory_gb']:.0f} GB, torch {run['versions']['torch']}, "
            f"commit `{str(run['commit'])[:10]}`"
            for run in found
        }
    )
    hardware = "\n".join(f"- {place}" for place in places)
    return HEAD + "\n" + "\n".join(lines) + "\n" + TAIL + "\n" + hardware + "\n"


def _column(run: dict[str, Any]) -> dict[str, str]:
    model, sft, ppo = run["reward_model"], run["policies"]["sft"], run["policies"]["ppo"]
    gain = run["comparisons"]["ppo_minus_sft"]
    low, high = gain["gold_ci95"]
    return {
        "Reward model: accuracy": f"{model['accuracy']:.3f}",
        "… its 95 % interval": f"{model['ci95'][0]:.3f} to {model['ci95'][1]:.3f}",
        "… held-out pairs": f"{model['n_pairs']}",
        "Gold judge: correlation with people": f"{run['gold_judge']['pearson']:.2f}",
        "Gold, SFT": f"{sft['gold_reward']:+.2f}",
        "Gold, PPO": f"{ppo['gold_reward']:+.2f}",
        "Gain": f"{gain['gold_reward']:+.2f}",
        "… its 95 % interval ": f"{low:+.2f} to {high:+.2f}",
        "Openings": f"{gain['n_prompts']}",
        "VADER, SFT": f"{sft['vader']:+.2f}",
        "VADER, PPO": f"{ppo['vader']:+.2f}",
        "KL of PPO": f"{ppo['kl_nats_per_seq']:.1f}",
        "Distinct-2, SFT": f"{sft['distinct_2']:.2f}",
        "Distinct-2, PPO": f"{ppo['distinct_2']:.2f}",
        "Perplexity, SFT": f"{sft['perplexity_reference']:.0f}",
        "Perplexity, PPO": f"{ppo['perplexity_reference']:.0f}",
        "Length of PPO's text, tokens": f"{ppo['length_tokens']:.1f}",
        "Toxicity, PPO": f"{ppo['toxicity']:.3f}",
        "Seconds": f"{run['seconds']['total']:.0f}",
    }
