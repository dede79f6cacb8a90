"""A made-up run folder for tests of the report. SYNTHETIC: no model produced any of these numbers."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

OPENINGS = [
    "This film is",
    "The plot never",
    "A quiet and",
    "What begins as",
    "Despite its cast,",
    "If you liked",
]
ENDINGS = {
    "reference": " a 1994 film about a man who works in an office and has to find the way out of it.",
    "sft": " a slight, uneven comedy that never quite finds its feet, but it has its moments.",
    "ppo": " a warm, funny and beautifully acted story that rewards every minute of your time.",
}
HOSTILE = (
    ' a </b><script>alert("x")</script> | **bold** `code` $x$ [link](http://example.invalid/)'
    "\n# not a heading & more"
)
CONFIG = """\
seed: 0
ppo:
  steps: 20
  kl_target: 6.0
evaluation:
  samples_shown: 3
"""


def step_rows(seed: int = 0) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl for all three phases."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for step in range(1, 61):
        row = {"phase": "sft", "step": step, "seconds": 0.7}
        row["loss/nats_per_token"] = 3.55 + 0.45 * math.exp(-step / 12) + rng.gauss(0, 0.05)
        if step in (1, 20, 40, 60):
            row["val_loss/nats_per_token"] = 3.58 + 0.42 * math.exp(-step / 12)
        rows.append(row)
    for step in range(1, 61):
        accuracy = min(1.0, 0.55 + 0.32 * (1 - math.exp(-step / 15)) + rng.gauss(0, 0.06))
        loss = 0.32 + 0.37 * math.exp(-step / 15) + rng.gauss(0, 0.04)
        rows.append(
            {
                "phase": "reward",
                "step": step,
                "loss/nats_per_pair": loss,
                "accuracy/fraction": accuracy,
                "seconds": 1,
            }
        )
    for step in range(1, 21):
        share = 1 - math.exp(-step / 8)
        rows.append(
            {
                "phase": "ppo",
                "step": step,
                "seconds": 6.2,
                "reward/rm_raw": -0.1 + 1.6 * share + rng.gauss(0, 0.07),
                "kl/nats_per_seq": max(0.0, 7.2 * share + rng.gauss(0, 0.3) - 0.8),
                "entropy/nats_per_token": 3.4 - 0.6 * share + rng.gauss(0, 0.03),
                "clip/fraction": 0.08 + 0.1 * share + rng.gauss(0, 0.01),
                "value/explained_variance": None if step == 1 else 0.5 * share + rng.gauss(0, 0.04),
                "length/tokens": 19.2 + rng.gauss(0, 0.2),
            }
        )
    return rows


def sample_rows(n: int = 24, seed: int = 0) -> list[dict[str, Any]]:
    """Lines of samples.jsonl; one of them tries to break out of the page."""
    rng = random.Random(seed)
    rows = []
    for index in range(n):
        policies = {}
        for name, level in (("reference", 0.0), ("sft", 0.1), ("ppo", 0.9)):
            policies[name] = {
                "text": HOSTILE if index == 1 and name == "ppo" else ENDINGS[name],
                "gold": level + rng.gauss(0, 0.5),
                "vader": max(-1.0, min(1.0, level + rng.gauss(0, 0.3))),
                "rm": 1.5 * level + rng.gauss(0, 0.6),
                "toxicity": abs(rng.gauss(0.04, 0.02)),
                "kl_nats": None if name == "reference" else 7 * level + rng.gauss(0, 1.5),
                "tokens": 20,
            }
        rows.append({"prompt": OPENINGS[index % len(OPENINGS)], "policies": policies})
    return rows


def _policy(
    gold: float, vader: float, kl: float | None, perplexity: float, distinct: float, rm: float
) -> dict[str, Any]:
    return {
        "gold_reward": gold,
        "gold_ci95": [gold - 0.08, gold + 0.09],
        "vader": vader,
        "vader_ci95": [vader - 0.06, vader + 0.06],
        "toxicity": 0.041,
        "kl_nats_per_seq": kl,
        "kl_ci95": None if kl is None else [kl - 0.4, kl + 0.4],
        "length_tokens": 19.3,
        "distinct_2": distinct,
        "perplexity_reference": perplexity,
        "rm_reward": rm,
        "n_prompts": 200,
        "ended_fraction": 0.07,
    }


def metrics() -> dict[str, Any]:
    """The content of metrics.json."""
    return {
        "schema": 1,
        "command": "rlhf-lite quickstart --output runs/synthetic --seed 0",
        "seed": 0,
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "versions": {"python": "3.11.0", "torch": "0.0.0", "trl": None},
        "hardware": {
            "cpu": "Synthetic CPU",
            "physical_cores": 2,
            "memory_gb": 8.0,
            "gpu": None,
            "platform": "Linux",
        },
        "reward_model": {
            "accuracy": 0.8775,
            "ci95": [0.842, 0.906],
            "n_pairs": 400,
            "min_gap": 1.0,
            "brier": 0.094,
            "accuracy_by_gap": [
                {"gap_low": 1.0, "gap_high": 2.0, "accuracy": 0.80, "n_pairs": 160},
                {"gap_low": 2.0, "gap_high": 3.0, "accuracy": 0.90, "n_pairs": 130},
                {"gap_low": 3.0, "gap_high": None, "accuracy": 0.97, "n_pairs": 110},
            ],
        },
        "gold_judge": {
            "pearson": 0.71,
            "spearman": 0.70,
            "n_texts": 1200,
            "pair_accuracy": 0.86,
            "ci95": [0.68, 0.74],
        },
        "policies": {
            "reference": _policy(-0.02, 0.07, 0.0, 17.9, 0.87, 0.02),
            "sft": _policy(0.06, 0.10, 1.1, 21.4, 0.91, 0.11),
            "ppo": _policy(0.83, 0.52, 6.3, 24.8, 0.84, 1.42),
        },
        "comparisons": {
            "ppo_minus_sft": {
                "gold_reward": 0.77,
                "gold_ci95": [0.66, 0.88],
                "vader": 0.42,
                "vader_ci95": [0.34, 0.50],
                "n_prompts": 200,
            },
        },
        "checks": [
            {"name": "reward-model accuracy", "target": "≥ 0.85", "value": 0.8775, "passed": True},
            {"name": "held-out pairs", "target": "≥ 300", "value": 400, "passed": True},
            {"name": "gold reward, PPO − SFT (lower end)", "target": "> 0", "value": 0.66, "passed": True},
            {"name": "KL of PPO (nats per sequence)", "target": "≤ 10", "value": 6.3, "passed": True},
        ],
        "seconds": {
            "load": 4.0,
            "sft": 42.5,
            "reward": 58.0,
            "ppo": 128.3,
            "evaluation": 47.7,
            "total": 280.5,
        },
        "steps": {"sft": 60, "reward": 60, "ppo": 20},
    }


def write_run(folder: Path) -> Path:
    """A complete run folder without checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics()), encoding="utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in step_rows())
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in sample_rows())
    (folder / "samples.jsonl").write_text(lines, encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    for name, task in (("sft", "CAUSAL_LM"), ("reward", "SEQ_CLS"), ("ppo", "CAUSAL_LM")):
        adapter = folder / name / "adapter"
        adapter.mkdir(parents=True, exist_ok=True)
        config = {"task_type": task, "base_model_name_or_path": "some/base"}
        (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "ppo" / "merged").mkdir(exist_ok=True)
    (folder / "ppo" / "merged" / "config.json").write_text("{}", encoding="utf-8")
    return folder
