"""The DPO phase: from human pairs and from the policy's own texts, alone and beside PPO."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from rlhf_lite.checkpoint import read_phase
from rlhf_lite.data import load_preferences
from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.models.adapters import adapter_parameters
from rlhf_lite.models.policy import load_policy
from rlhf_lite.pipeline import dpo, run_pipeline
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.dpo import policy_pairs, with_label_noise
from rlhf_lite.pipeline.phases import DPO, REFERENCE, build_adapter_policies
from rlhf_lite.pipeline.run import planned_phases
from rlhf_lite.tracking import read_metrics

SMALL = {"dpo.pairs": 12, "dpo.batch_size": 4, "dpo.max_new_tokens": 5, "dpo.learning_rate": 0.01}


def test_which_phases_a_method_needs(settings) -> None:
    def phases(changes: dict) -> tuple[str, ...]:
        return planned_phases(settings(changes))

    assert phases({}) == ("sft", "reward", "ppo", "evaluation")
    assert phases({"method": "dpo"}) == ("sft", "dpo", "evaluation")
    assert phases({"method": "dpo", "dpo.source": "policy"}) == ("sft", "reward", "dpo", "evaluation")
    assert phases({"method": "both"}) == ("sft", "reward", "ppo", "dpo", "evaluation")


def test_human_pairs_need_no_reward_model(settings, tmp_path: Path) -> None:
    metrics = run_pipeline(settings(SMALL | {"method": "dpo"}), output=tmp_path / "run", visible=False)
    folder = tmp_path / "run"
    assert not (folder / "reward").exists() and not (folder / "ppo").exists()
    log = [row for row in read_metrics(folder / "metrics.jsonl") if row["phase"] == "dpo"]
    assert [row["step"] for row in log] == [1, 2, 3]
    # Before the first update the policy is the reference: the loss is ln 2 on every pair.
    assert log[0]["loss/per_pair"] == pytest.approx(0.693147, abs=1e-4)
    assert set(metrics["policies"]) == {"reference", "sft", "dpo"}
    assert metrics["policies"]["sft"]["kl_nats_per_seq"] == pytest.approx(0, abs=1e-5)
    assert {"dpo_minus_sft", "dpo_minus_reference", "sft_minus_reference"} == set(metrics["comparisons"])
    assert any("DPO minus SFT" in check["name"] for check in metrics["checks"])
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "DPO training" in report and "PPO training" not in report and "SFT, DPO and evaluation" in report
    again = run_pipeline(settings(SMALL | {"method": "dpo"}), output=folder, resume=True, visible=False)
    assert again["policies"]["dpo"] == metrics["policies"]["dpo"]


def test_kto_learns_from_the_answers_of_the_pairs(settings, tmp_path: Path) -> None:
    config = settings(SMALL | {"method": "dpo", "dpo.loss": "kto"})
    metrics = run_pipeline(config, output=tmp_path / "run", visible=False)
    log = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["phase"] == "dpo"]
    assert log[0]["loss/per_answer"] == pytest.approx(0.5, abs=1e-3)  # both sigmoids at zero
    assert "dpo" in metrics["policies"]
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "per answer" in report and "undesirable" in report


@pytest.fixture(scope="module")
def both(settings, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("both") / "run"
    config = settings(SMALL | {"method": "both", "dpo.source": "policy", "dpo.pairs": 16})
    return folder, run_pipeline(config, output=folder, visible=False)


def test_both_methods_are_judged_beside_each_other(both: tuple[Path, dict]) -> None:
    folder, metrics = both
    assert set(metrics["policies"]) == {"reference", "sft", "ppo", "dpo"}
    assert "dpo_minus_ppo" in metrics["comparisons"]
    row = json.loads((folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(row["policies"]) == {"reference", "sft", "ppo", "dpo"}
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "DPO training" in report and "PPO training" in report


def test_sampled_pairs_are_ordered_as_the_reward_model_orders_them(both: tuple[Path, dict], settings) -> None:
    """Scored again, text by text, the chosen one is higher, by the margin that was written down."""
    folder, _ = both
    records = load_preferences(folder / "dpo" / "pairs.jsonl").records
    assert records and all(record.margin > 0 for record in records)
    config = settings(SMALL | {"method": "both", "dpo.source": "policy", "dpo.pairs": 16})
    run = Run(config, folder, visible=False)
    policy = load_policy(config.model.name, precision="fp32")
    adapters = build_adapter_policies(run, policy, trained=False)
    prompts = list(dict.fromkeys(record.prompt for record in records))[:4]
    pairs, texts = policy_pairs(run, policy, adapters, prompts)
    again, _ = policy_pairs(run, policy, adapters, prompts)
    assert [pair.chosen_ids for pair in pairs] == [pair.chosen_ids for pair in again]  # seeded
    assert all(pair.chosen_ids != pair.rejected_ids and pair.margin > 0 for pair in pairs)
    assert [text.prompt for text in texts] == [p for p in prompts if p in {t.prompt for t in texts}]


def test_all_processes_learn_from_the_pairs_of_the_main_one(
    both: tuple[Path, dict], settings, tmp_path: Path, monkeypatch
) -> None:
    """What each samples may differ by rounding, in number too: then they would wait for each other."""
    shutil.copytree(both[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "dpo")
    config = settings(SMALL | {"method": "both", "dpo.source": "policy", "dpo.pairs": 16})
    told = []

    def from_the_main_one(made: list) -> list:
        [(pairs, texts)] = made
        told.append((pairs[-4:], texts[-4:]))
        return told

    monkeypatch.setattr(dpo, "broadcast_object_list", from_the_main_one)
    run = Run(config, tmp_path / "run", visible=False)
    dpo.run_dpo(run)
    assert read_phase(run.output / "dpo")["pairs"] == 4
    records = load_preferences(run.output / "dpo" / "pairs.jsonl").records
    assert [r.chosen for r in records] == [text.chosen for text in told[0][1]]


def test_dpo_moves_its_own_adapter_only(both: tuple[Path, dict], settings) -> None:
    folder, _ = both
    config = settings(SMALL | {"method": "both", "dpo.source": "policy", "dpo.pairs": 16})
    run = Run(config, folder, visible=False)
    policy = load_policy(config.model.name, precision="fp32")
    model = build_adapter_policies(run, policy, trained=True).model
    moved = [
        float((a - b).abs().max())
        for a, b in zip(adapter_parameters(model, DPO), adapter_parameters(model, REFERENCE), strict=True)
    ]
    assert max(moved) > 1e-4
    assert all(torch.isfinite(parameter).all() for parameter in adapter_parameters(model, DPO))


def test_label_noise_turns_its_share_of_the_pairs() -> None:
    pairs = [EncodedPair([1], [2, i], [3, i]) for i in range(10)]
    noisy = with_label_noise(pairs, 0.3, seed=5)
    turned = [pair.chosen_ids[0] == 3 for pair in noisy]
    assert sum(turned) == 3
    for after, before, was_turned in zip(noisy, pairs, turned, strict=True):
        found = (after.chosen_ids, after.rejected_ids)
        both = (before.chosen_ids, before.rejected_ids)
        assert found == (both[::-1] if was_turned else both)
    assert with_label_noise(pairs, 0.3, seed=5) == noisy
    assert with_label_noise(pairs, 0.0, seed=5) == pairs
