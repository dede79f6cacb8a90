"""The page of recorded runs says what the files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.recorded import recorded_page
from tools.state import REPOSITORY


def run(seed: int, gain: float) -> dict[str, Any]:
    policy = {
        "gold_reward": 0.25,
        "vader": 0.1,
        "kl_nats_per_seq": 3.21,
        "distinct_2": 0.9,
        "perplexity_reference": 77.7,
        "length_tokens": 12.3,
        "toxicity": 0.04,
    }
    return {
        "seed": seed,
        "commit": "0123456789abcdef",
        "versions": {"torch": "2.13.0"},
        "hardware": {"cpu": "A processor", "physical_cores": 2, "memory_gb": 16.0},
        "reward_model": {"accuracy": 0.876, "ci95": [0.84, 0.91], "n_pairs": 400},
        "gold_judge": {"pearson": 0.7},
        "policies": {"sft": policy, "ppo": policy},
        "comparisons": {
            "ppo_minus_sft": {"gold_reward": gain, "gold_ci95": [gain - 0.2, gain + 0.2], "n_prompts": 200}
        },
        "seconds": {"total": 271.4},
    }


def write(root: Path, *runs: dict[str, Any]) -> None:
    folder = root / "results" / "quickstart"
    folder.mkdir(parents=True)
    for number, content in enumerate(runs):
        (folder / f"seed{number}.json").write_text(json.dumps(content), encoding="utf-8")


def test_one_column_per_seed_in_order(tmp_path: Path) -> None:
    write(tmp_path, run(1, 0.5), run(0, 1.5))
    page = recorded_page(tmp_path)
    assert "| | seed 0 | seed 1 |" in page
    assert "| Gain | +1.50 | +0.50 |" in page
    assert "| … its 95 % interval  | +1.30 to +1.70 | +0.30 to +0.70 |" in page
    assert "commit `0123456789`" in page


def test_no_run(tmp_path: Path) -> None:
    assert "No run is recorded yet" in recorded_page(tmp_path)


def test_a_file_that_lacks_an_entry_is_named(tmp_path: Path) -> None:
    broken = run(0, 1.0)
    del broken["policies"]["ppo"]["toxicity"]
    write(tmp_path, broken)
    with pytest.raises(SystemExit, match="toxicity"):
        recorded_page(tmp_path)


def test_the_recorded_runs_meet_the_bar() -> None:
    files = sorted((REPOSITORY / "results" / "quickstart").glob("*.json"))
    assert len(files) >= 3
    for path in files:
        found = json.loads(path.read_text(encoding="utf-8"))
        failed = [check["name"] for check in found["checks"] if not check["passed"]]
        assert not failed, f"{path.name}: {failed}"
