"""The ablation of PPO's details: every arm changes one thing, and the switches do what they say."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import ppo_details
from rlhf_lite.lab import exact_kl, make_world, optimal_policy, pretrained_world
from rlhf_lite.pipeline.lab.run import run_lab
from rlhf_lite.pipeline.lab.trainers import _value_head

TINY = make_world("dense", tokens=4, length=3, prompts=2, seed=100)
QUICK = {"steps": 2, "rows": 16, "learning_rate": 3e-3, "evaluate_every": 5, "pretraining_steps": 20}


def test_every_arm_changes_one_thing_from_all_on() -> None:
    for pace in ppo_details.PACES:
        usual = ppo_details.settings(pace, ppo_details.ALL_ON) | {"value_head_std": 0.0, "kl_coef": None}
        for arm, changes in ppo_details.ARMS.items():
            given = usual | ppo_details.settings(pace, arm)
            differing = {name for name in given if given[name] != usual[name]}
            assert differing == set(changes) and len(changes) == (arm != ppo_details.ALL_ON)


def test_files_have_names_of_their_own() -> None:
    names = {ppo_details.file_name(pace, arm) for pace in ppo_details.PACES for arm in ppo_details.ARMS}
    assert len(names) == len(ppo_details.PACES) * len(ppo_details.ARMS)
    assert "hard_lambda_0.json" in names


def test_a_run_is_written_with_its_origin(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--paces", "calm", "--arms", "no KL penalty", "--seeds", "100", "--steps", "1"]
    assert ppo_details.main([*arguments, "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "calm_no_kl_penalty.json").read_text(encoding="utf-8"))
    assert record["summary"]["seeds"] == [100] and record["run"]["commit"]
    assert record["runs"][0]["settings"]["kl_coef"] == 0.0 and record["runs"][0]["settings"]["epochs"] == 2
    assert "no KL penalty" in capsys.readouterr().out
    # Files that are there are kept.
    record["summary"]["fraction"]["mean"] = 123.0
    (tmp_path / "calm_no_kl_penalty.json").write_text(json.dumps(record), encoding="utf-8")
    assert ppo_details.main([*arguments, "--missing", "--output", str(tmp_path)]) == 0
    assert "123.000" in capsys.readouterr().out


def test_another_price_of_a_nat_aims_at_another_optimum() -> None:
    found = run_lab("ppo", world=TINY, seed=3, kl_coef=0.3, **QUICK)
    _, world = pretrained_world(TINY, seed=3, steps=20)
    other = optimal_policy(world.reference, world.rewards, beta=0.3)
    expected = float(exact_kl(other, world.optimum).mean())
    assert found.target.kl_to_optimum == pytest.approx(expected) and expected > 0.01
    assert "0.3" in found.aims_at and found.settings["kl_coef"] == 0.3
    free = run_lab("ppo", world=TINY, seed=3, kl_coef=0.0, **QUICK)
    assert free.target is None and free.kl_to_target is None
    assert run_lab("ppo", world=TINY, seed=3, **QUICK).settings["kl_coef"] == TINY.beta


def test_the_critic_starts_at_zero_or_at_random() -> None:
    hidden = torch.randn(5, 2000, generator=torch.Generator().manual_seed(0))
    assert _value_head(2000, std=0.0, seed=1)(hidden).tolist() == [0.0] * 5
    head = _value_head(2000, std=0.1, seed=1)
    assert float(head.linear.weight.detach().std()) == pytest.approx(0.1, rel=0.1)
    assert torch.equal(head.linear.weight, _value_head(2000, std=0.1, seed=1).linear.weight)
    assert not torch.equal(head.linear.weight, _value_head(2000, std=0.1, seed=2).linear.weight)
    assert head.linear.bias.tolist() == [0.0]
