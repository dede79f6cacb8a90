"""Two processes follow the path of one: same losses, same metrics, same weights, for every trainer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from rank_script import jobs, run_all
from runners import assert_same_run, launch
from tiny_models import save_base

pytestmark = pytest.mark.slow

@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[dict, dict]:
    """What one process and what two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    base, output = str(save_base(folder / "base")), folder / "two.json"
    launch(2, Path(__file__).with_name("rank_script.py"), base, str(output))
    return run_all(base), json.loads(output.read_text(encoding="utf-8"))


def test_there_were_two_processes(results):
    one, two = results
    assert (one["processes"], two["processes"]) == (1, 2)


@pytest.mark.parametrize("job", list(jobs("")))
def test_two_processes_follow_the_path_of_one(results, job):
    one, two = (result[job] for result in results)
    assert len(one["lines"]) >= 2
    assert_same_run(two["lines"], one["lines"], rel=5e-4, abs=5e-5)
    expected = torch.tensor(one["weights"])
    torch.testing.assert_close(torch.tensor(two["weights"]), expected, atol=5e-4, rtol=0)
    assert two["apart"] == 0.0  # both processes hold the same weights, to the last bit


def test_a_loss_that_is_not_finite_in_one_process_stops_both(results):
    assert [result["stopped"] for result in results] == [1, 2]
