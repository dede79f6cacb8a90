"""``rlhf-lite eval`` on the command line: what is passed on, what is printed, and the exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_lite.errors import DataError

POLICY = {
    "gold_reward": 0.5,
    "kl_nats_per_seq": 3.21,
    "toxicity": 0.04,
    "distinct_2": 0.9,
    "length_tokens": 12.0,
}
METRICS = {
    "settings": {"judge": "gold", "baseline": "base"},
    "policies": {"base": POLICY, "mine": POLICY | {"gold_reward": 0.75}},
    "versus_baseline": {"mine": {"gold": {"win_rate": 0.7, "ci95": [0.6, 0.8], "n": 50}}},
    "problems": ["mine: 1 of 50 answers are empty."],
}


@pytest.fixture
def run(recorded_command):
    """Run ``rlhf-lite eval ARGUMENTS`` with a recorder for the pipeline: (exit code, out, err, calls)."""
    return recorded_command("eval", "rlhf_lite.pipeline.compare", "evaluate_models", METRICS)


def test_everything_is_passed_on(run):
    code, out, _, calls = run(
        "smollm2", "mine=runs/a", "--prompts", "p.txt", "-o", "out", "--seed", "3", "--no-gold", "--chat",
        "--reward", "runs/a", "--judge", "reward", "-n", "2", "--baseline", "mine", "--limit", "9",
        "--precision", "fp32",
    )  # fmt: skip
    assert code == 0
    ((args, options),) = calls
    assert args == (["smollm2", "mine=runs/a"], "p.txt", Path("out"))
    wanted = {"seed": 3, "with_gold": False, "chat": True, "reward": Path("runs/a"), "judge": "reward"}
    wanted |= {"n_samples": 2, "baseline": "mine", "limit": 9, "temperature": 1.0, "on_error": "raise",
               "precision": "fp32"}
    assert {key: options[key] for key in wanted} == wanted
    assert options["command"].startswith("rlhf-lite eval smollm2 mine=runs/a --prompts p.txt")
    assert "mine wins 0.70 of the comparisons by Gold reward (95 % interval 0.60 to 0.80, n = 50)" in out
    assert "Note: mine: 1 of 50 answers are empty." in out
    assert str(Path("out") / "report.html") in out


def test_errors_are_one_message_with_a_code(run):
    broken = DataError("is empty", file="p.txt", row=2, fix="write a prompt")
    code, _, err, _ = run("smollm2", "--prompts", "p.txt", "-o", "out", error=broken)
    assert (code, "p.txt, row 2: is empty. Fix: write a prompt." in err) == (2, True)
    from rlhf_lite.errors import ComparisonError, ToxicityError

    assert run("smollm2", "--prompts", "p", "-o", "out", error=ComparisonError("no"))[0] == 2
    assert run("smollm2", "--prompts", "p", "-o", "out", error=ToxicityError("no"))[0] == 1


def test_wrong_options_are_refused(run):
    assert run("smollm2", "-o", "out")[0] == 2
    assert run("--prompts", "p", "-o", "out")[0] == 2
    assert run("smollm2", "--prompts", "p", "-o", "out", "--on-error", "ignore")[0] == 2
    assert run("smollm2", "--prompts", "p", "-o", "out", "-n", "0")[0] == 2
