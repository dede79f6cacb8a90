"""Two processes that share one run: one of them writes, and it comes out as one process's run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from conftest import SMALL
from runners import launch

from rlhf_lite.tracking import read_metrics


@pytest.mark.slow
def test_two_processes_make_one_run(finished, base, data, tmp_path):
    folder = tmp_path / "two"
    settings = SMALL | {"model.name": str(base), "data.source": str(data)}
    values = [f"{key}={value}" for key, value in settings.items()]
    launch(2, Path(__file__).with_name("rank_run.py"), str(folder), *values)
    assert {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} == {
        entry.name for entry in finished.iterdir() if not entry.name.startswith(".")
    }
    assert not list(folder.glob(".*.tmp")) and not list(folder.glob(".*.holder"))
    two, one = (read_metrics(place / "metrics.jsonl") for place in (folder, finished))
    assert [(line["phase"], line["step"]) for line in two] == [(line["phase"], line["step"]) for line in one]
    two, one = (json.loads((place / "metrics.json").read_text()) for place in (folder, finished))
    for name, policy in one["policies"].items():
        assert two["policies"][name]["gold_reward"] == pytest.approx(policy["gold_reward"], abs=1e-3)
