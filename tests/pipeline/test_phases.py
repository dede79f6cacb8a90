"""What the phases share: prompts that may be empty, the setup of PPO, the control, what a run remembers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer

from rlhf_lite.data.formatting import encode_prompts
from rlhf_lite.evaluation import answers as answers_module
from rlhf_lite.evaluation import eval_policy as eval_policy_module
from rlhf_lite.evaluation.answers import measure
from rlhf_lite.evaluation.eval_policy import EvalPolicy
from rlhf_lite.evaluation.judges import Judges
from rlhf_lite.functional import best_of_n_kl_bound
from rlhf_lite.models import policy as policy_module
from rlhf_lite.pipeline import run as run_module
from rlhf_lite.pipeline import run_pipeline
from rlhf_lite.pipeline.context import STATE_FILE, Run
from rlhf_lite.pipeline.phases import POLICY, build_ppo_setup
from rlhf_lite.rollout.sampler import row_seeds
from rlhf_lite.training.policy_gradient import collect
from rlhf_lite.training.ppo import PPO, PPOSettings, token_rewards

COLLECT = PPO(PPOSettings(max_new_tokens=5, kl_coef=0.1, whiten_advantages=False))


def test_an_empty_prompt_becomes_the_start_token():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<start>"})
    assert encode_prompts(tokenizer, ["", "ab"])[0] == [tokenizer.bos_token_id]
    assert encode_prompts(tokenizer, ["", "ab"])[1] == tokenizer("ab", add_special_tokens=False)["input_ids"]
    tokenizer.bos_token = None
    assert encode_prompts(tokenizer, ("",)) == [[tokenizer.eos_token_id]]
    assert encode_prompts(tokenizer, []) == []


@pytest.fixture(scope="module")
def run(finished, settings) -> Run:
    return Run(settings(), finished, visible=False)


@pytest.fixture(scope="module")
def ppo_setup(run):
    return build_ppo_setup(run, trained=True)


def policy_of(ppo_setup, adapter, **changes) -> EvalPolicy:
    return EvalPolicy("sft", ppo_setup.adapters.model, ppo_setup.policy.tokenizer, adapter, **changes)


def test_the_setup_has_the_trained_policy_and_its_critic(run, ppo_setup):
    prompts = encode_prompts(ppo_setup.policy.tokenizer, run.texts.test_prompts[:6])
    batch, metrics = collect(COLLECT, ppo_setup.training, prompts, seeds=row_seeds(0, 7, rows=6))
    assert abs(metrics["kl/nats_per_seq"]) > 1e-4  # not the reference any more
    assert float(batch.old_values[batch.response_mask].abs().max()) > 0  # a critic that was trained
    # The reward is the reward model's, on the scale of human texts.
    text = batch.mask & ~(batch.response_mask & (batch.ids == ppo_setup.policy.tokenizer.eos_token_id))
    with torch.no_grad():
        raw = ppo_setup.reward(ppo_setup.reward.body.trunk(batch.ids, text), text)
    torch.testing.assert_close(batch.scores, ppo_setup.reward.normalise(raw), atol=1e-4, rtol=1e-4)
    assert metrics["reward/rm_raw"] == pytest.approx(float(raw.mean()), abs=1e-4)
    assert metrics["reward/part_rm"] == metrics["reward/rm_raw"]
    rewards = token_rewards(batch.old_logps, batch.ref_logps, batch.scores, batch.response_mask, kl_coef=0.1)
    kl = (batch.old_logps - batch.ref_logps).sum(1)
    torch.testing.assert_close(rewards.sum(1), batch.scores - 0.1 * kl, atol=1e-5, rtol=1e-5)


def test_a_new_setup_starts_from_the_reference(run, ppo_setup):
    fresh = build_ppo_setup(run, trained=False, reward=ppo_setup.reward)
    assert fresh.reward is ppo_setup.reward
    prompts = encode_prompts(fresh.policy.tokenizer, run.texts.test_prompts[:4])
    batch, metrics = collect(COLLECT, fresh.training, prompts, seeds=range(4))
    assert metrics["kl/nats_per_seq"] == pytest.approx(0.0, abs=1e-5)
    assert (batch.old_values == 0).all()


def test_the_best_of_n_is_a_policy_under_test(run, ppo_setup, monkeypatch):
    prompts, start = run.texts.test_prompts[:8], ppo_setup.adapters.reference
    sft, eight = policy_of(ppo_setup, start), policy_of(ppo_setup, start, best_of=8)
    judges = Judges(reference=sft, reward=ppo_setup.training.reward)
    options = {"max_new_tokens": 5, "temperature": 1.0, "seed": 0, "batch_size": 3}
    plain, best = measure(sft, prompts, judges, **options), measure(eight, prompts, judges, **options)
    assert best.scores["reward"].mean() > plain.scores["reward"].mean()
    assert best.scores["kl"] == pytest.approx(best_of_n_kl_bound(8), abs=1e-4)
    assert plain.scores["kl"] == pytest.approx(0.0, abs=1e-4)
    assert len(best.texts) == 8 and plain.missing["gold"] == "no such judge was given"
    # What is in memory at once is counted in rows, not in prompts: 100 prompts of 54 candidates took 13 GB.
    held: list[int] = []
    real = eval_policy_module.best_of_n

    def counting(model, ids, mask, *, n, **others):
        held.append(len(ids) * n)
        return real(model, ids, mask, n=n, **others)

    monkeypatch.setattr(eval_policy_module, "best_of_n", counting)
    again = measure(eight, prompts, judges, **options | {"batch_size": 24})
    assert held == [24, 24, 16] and again.texts == best.texts
    with pytest.raises(ValueError, match="best of 8"):
        measure(eight, prompts, replace(judges, reward=None), **options)
    with pytest.raises(ValueError, match="one answer"):
        measure(eight, prompts, judges, samples=2, **options)
    with pytest.raises(ValueError, match="the reference policy only"):
        measure(policy_of(ppo_setup, POLICY, best_of=8), prompts, judges, **options)


def test_long_answers_are_scored_in_pieces(run, ppo_setup, monkeypatch):
    """A pass over many answer tokens needs a row of logits for each."""
    reference = policy_of(ppo_setup, ppo_setup.adapters.reference)
    judges = Judges(reference=reference, reward=ppo_setup.training.reward)
    options = {"max_new_tokens": 5, "seed": 0}
    whole = measure(policy_of(ppo_setup, POLICY), run.texts.test_prompts[:7], judges, **options)
    monkeypatch.setattr(answers_module, "_SCORED", 10)  # two answers of five tokens
    pieces = measure(policy_of(ppo_setup, POLICY), run.texts.test_prompts[:7], judges, **options)
    assert pieces.texts == whole.texts and pieces.ended.tolist() == whole.ended.tolist()
    for name in ("kl", "reward", "reference_nats"):
        assert pieces.scores[name] == pytest.approx(whole.scores[name], abs=1e-4)


def test_the_control_is_in_the_results(settings, tmp_path):
    changes = {"evaluation.best_of_n": 3, "ppo.steps": 1, "sft.steps": 1, "reward.pairs": 4}
    found = run_pipeline(settings(changes), output=tmp_path / "run", visible=False)
    assert set(found["policies"]) == {"reference", "sft", "ppo", "best_of_3"}
    assert "ppo_minus_best_of_3" in found["comparisons"]
    assert found["policies"]["best_of_3"]["rm_reward"] > found["policies"]["sft"]["rm_reward"]
    assert "best" in (tmp_path / "run" / "report.md").read_text().lower()


# --- What a run remembers


def test_what_auto_meant_at_the_start_holds_to_the_end(settings, tmp_path, monkeypatch):
    config = settings({"model.precision": "auto", "sft.steps": 1, "ppo.steps": 1, "reward.pairs": 4})
    monkeypatch.setattr(policy_module, "has_bfloat16", lambda: True)
    run_pipeline(config, output=tmp_path, only=["sft"], visible=False)
    assert json.loads((tmp_path / STATE_FILE).read_text())["precision"] == "bf16"
    monkeypatch.setattr(policy_module, "has_bfloat16", lambda: False)
    run = Run(config, tmp_path, visible=False)
    assert run.precision == "bf16" and run.policy.model.dtype == torch.bfloat16
    run_pipeline(config, output=tmp_path, only=["reward"], resume=True, visible=False)
    ppo_setup = build_ppo_setup(run, trained=False)
    assert ppo_setup.policy.model.dtype == torch.bfloat16
    body = ppo_setup.reward.model.get_base_model().base_model
    assert body.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_a_named_precision_needs_no_memory(settings, tmp_path):
    assert Run(settings(), tmp_path, visible=False).precision == "fp32"
    assert not (tmp_path / STATE_FILE).exists()


def test_the_commit_is_the_one_at_the_start(settings, tmp_path, monkeypatch):
    """Somebody may commit while a run is going on; its numbers come from the code that was loaded."""
    commits = iter(["first", "second", "third"])
    monkeypatch.setattr(run_module, "run_info", lambda seed: {"seed": seed, "commit": next(commits)})
    seen = []

    def phase(run):
        seen.append(next(commits))

    monkeypatch.setitem(run_module.TRAINING, "sft", phase)
    found = run_pipeline(settings(), output=tmp_path / "run", only=["sft"], visible=False)
    assert (found["commit"], seen) == ("first", ["second"])
