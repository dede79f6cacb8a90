"""Two processes follow the path of one: same losses, same metrics, same weights, for every trainer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from rank_script import jobs, run_all
from runners import assert_same_run
from tiny_models import save_base

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SECONDS = 150


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(processes: int, *arguments: str) -> None:
    """Run the script under ``accelerate launch``; whatever it started is gone afterwards."""
    options = [
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
        "--main_process_port",
        str(free_port()),
    ]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *options]
    # accelerate would set the number of threads itself; one per process, or they wait for each other.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    started = subprocess.Popen(
        [*command, str(Path(__file__).with_name("rank_script.py")), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = started.communicate(timeout=SECONDS)
    finally:
        # The launcher leads a group of its own: this reaches its ranks, even if it ended before them.
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    assert started.returncode == 0, output[-4000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[dict, dict]:
    """What one process and what two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    base, output = str(save_base(folder / "base")), folder / "two.json"
    launch(2, base, str(output))
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
