"""Every phase and tool on a GPU, proved without one; see ``pretend_gpu.py`` for what that can show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

_NEEDS = "_setup_privateuseone_for_python_backend"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(backend_registration, _NEEDS),
                       reason=f"this torch has no {_NEEDS} (2.13 has), by which Python can pretend a GPU"),
]  # fmt: skip

ROOT = Path(__file__).parents[2]
TRAINERS = ("sft", "reward", "dpo", "kto", "ipo", "ppo", "grpo", "rloo", "rejection", "resume",
            "early stopping")  # fmt: skip
CHECKS = (
    "planted_faults_are_caught", "what_cuda_allows_passes", "a_run_of_all_phases", "cai_and_its_feedback",
    "eval_of_several_policies", "score_generate_and_train_on_a_file",
    "a_setup_loaded_again_as_the_notebooks_do", "judges_and_writers",
    *(f"trainer: {name}" for name in TRAINERS), "a_model_trained_as_a_whole_and_a_lab_beside_it",
    "a_reward_on_the_other_device_is_asked_where_it_is", "a_machine_with_a_gpu_can_be_kept_on_its_cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, str]:
    """For each check an empty text, or its traceback."""
    place = tmp_path_factory.mktemp("gpu") / "found.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("gpu_checks.py")), str(place)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(place.read_text(encoding="utf-8"))


def test_every_check_ran(found):
    assert set(found) == set(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_a_gpu_computes_what_the_cpu_computes(found, name):
    assert not found[name], found[name]
