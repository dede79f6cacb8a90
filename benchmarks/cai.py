"""One recorded run of Constitutional AI: a seed's figures in one JSON file, written whole or not at all.

    for s in 0 1 2; do python -m benchmarks.cai --seed $s; done        # settings of configs/cai.yaml
    python -m benchmarks.cai --seed 7 --results /tmp/cai revise.prompts=8    # does it run at all?

Writes ``results/cai/seedS.json``: what ``rlhf-lite cai`` found, the judge held against people's ratings
(sentiment questions), and a dozen chains as they are. The run itself goes to ``runs/cai-seedS`` and may be
deleted; a killed run goes on where it was when the same command is started again. Chapter 15 replays them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rlhf_lite.constitutional import PolicyWriter
from rlhf_lite.data import load_ratings, make_pairs, split_ratings
from rlhf_lite.files import write_json
from rlhf_lite.models.policy import load_policy
from rlhf_lite.pipeline.cai.config import load_cai_config
from rlhf_lite.pipeline.cai.feedback import measure_judge
from rlhf_lite.pipeline.cai.rounds import read_chains
from rlhf_lite.pipeline.cai.run import run_cai
from rlhf_lite.pipeline.run import without_nan

ROOT = Path(__file__).resolve().parents[1]
PAIRS, MIN_GAP, CHAINS, SAMPLES = 80, 1.0, 12, 12


def human_agreement(model: str | None, *, seed: int, pairs: int) -> dict[str, Any]:
    """The judge on pairs of test reviews that people rated at least a point apart."""
    rated = split_ratings(load_ratings("movie"))["test"]
    human = make_pairs(rated, n=pairs, min_gap=MIN_GAP, prompt_words=0, seed=seed)
    quality = measure_judge(PolicyWriter(load_policy(model), batch_size=32), human)
    return quality | {"min_gap": MIN_GAP, "split": "test"}


def chain_rows(folder: Path) -> list[dict[str, Any]]:
    """A dozen chains, spread evenly over all of them, without the prompts that were sent to the model."""
    chains = read_chains(folder)
    chosen = chains[:: max(1, len(chains) // CHAINS)][:CHAINS]
    names = ("principle", "critique", "revision", "problem", "kept", "text", "overlap")
    return [
        {
            "prompt": chain.prompt,
            "first": chain.first,
            "steps": [{name: getattr(step, name) for name in names} for step in chain.steps],
        }
        for chain in chosen
    ]


def sample_rows(folder: Path) -> list[dict[str, Any]]:
    """One answer of each policy to a dozen test prompts."""
    rows = [json.loads(text) for text in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = rows[:: max(1, len(rows) // SAMPLES)][:SAMPLES]
    return [
        row | {"policies": {name: answers[0] for name, answers in row["policies"].items()}} for row in rows
    ]


def main(arguments: list[str]) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "cai.yaml")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "cai")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="human pairs to measure the judge on")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args(arguments)
    config = load_cai_config(given.config, [*given.settings, f"seed={given.seed}"])
    folder = given.runs / f"cai-seed{given.seed}"
    metrics = run_cai(
        config, output=folder, resume=folder.exists(), command=f"python -m benchmarks.cai --seed {given.seed}"
    )
    judge = config.feedback.judge or config.model.name
    record = metrics | {
        "human_agreement": human_agreement(judge, seed=given.seed, pairs=given.pairs),
        "chains": chain_rows(folder),
        "samples": sample_rows(folder),
    }
    # The folder of a machine is nobody's business.
    for part in (record["feedback"], record["human_agreement"]):
        part["judge"] = Path(part["judge"]).name
    path = given.results / f"seed{given.seed}.json"
    write_json(path, without_nan(record))
    print(path)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
