"""``rlhf-lite cai`` on the command line: what is passed on, what is printed, and the exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

POLICY = {"toxicity": 0.25, "toxicity_ci95": [0.2, 0.3], "vader": 0.5, "kl_nats_per_seq": 1.25}


@pytest.fixture
def run(recorded_command):
    """Run ``rlhf-lite cai ARGUMENTS`` with a recorder for the pipeline: (exit code, out, err, calls)."""
    return recorded_command("cai", "rlhf_lite.pipeline.cai.run", "run_cai", {"policies": {"base": POLICY}})


def test_everything_is_passed_on(run):
    code, out, _, calls = run("-o", "out", "--seed", "3", "--resume", "dpo.beta=0.3")
    assert code == 0
    (((config,), options),) = calls
    assert (config.seed, config.dpo.beta) == (3, 0.3)
    assert options == {
        "output": Path("out"),
        "resume": True,
        "command": "rlhf-lite cai -o out --seed 3 --resume dpo.beta=0.3",
    }
    assert "base: toxicity 0.250 (0.200 to 0.300), VADER +0.50, KL 1.25 nats per answer" in out
    assert f"Report: {Path('out') / 'report.md'}" in out


def test_without_an_output_the_settings_name_the_folder(run):
    assert run()[3][0][1]["output"] == Path("runs/cai")
    assert run("output=there")[3][1][1]["output"] == Path("there")


@pytest.mark.parametrize("arguments", [("--seed", "1", "seed=2"), ("-o", "a", "output=b"), ("dpo.pairs=3",)])
def test_wrong_command_lines_exit_with_2(run, arguments):
    code, _, err, calls = run(*arguments)
    assert (code, calls) == (2, [])
    assert err.startswith("Error: 1 problem in the settings:")


def test_ctrl_c_says_how_to_go_on(run):
    code, _, err, _ = run("-o", "a", error=KeyboardInterrupt())
    assert code == 130
    assert "--resume" in err and "is in a;" in err
