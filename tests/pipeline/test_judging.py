"""What an evaluation keeps for the next one: made once, read back to the last digit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer, llama

from rlhf_lite.evaluation.answers import Answers
from rlhf_lite.evaluation.eval_policy import EvalPolicy, PromptRows
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.judging import EvaluationCache, run_evaluation
from rlhf_lite.pipeline.run import checks, run_pipeline, without_nan


def never() -> dict:
    raise AssertionError("made again")


def test_what_is_kept_is_read_back_to_the_last_digit(tmp_path: Path) -> None:
    policy = EvalPolicy("sft", llama(), byte_tokenizer())
    scores = {name: np.array([1 / 3, -2e-17, np.nan]) for name in ("gold", "vader", "kl", "reference_nats")}
    made = Answers(
        policy=policy,
        prompts=PromptRows([[1, 2], [3], [4]], ["a", "b", "a"], [1], "none"),
        samples=1,
        texts=["so so\n", "“quoted”", ""],
        ids=[[5, 6], [7], [8]],
        ended=np.array([True, False, True]),
        scores=scores,
        missing={"reward": "no such judge was given"},
    )
    first = EvaluationCache(tmp_path / "kept").answers(policy, lambda: made)
    again = EvaluationCache(tmp_path / "kept").answers(policy, never)
    for found in (first, again):
        assert found.policy is policy and found.prompts == made.prompts and found.texts == made.texts
        assert (found.samples, found.ids, found.missing) == (made.samples, made.ids, made.missing)
        assert found.ended.tolist() == made.ended.tolist() and found.groups.tolist() == [0, 1, 0]
        assert found.scores.keys() == scores.keys()
        for name, values in scores.items():
            assert np.array_equal(found.scores[name], values, equal_nan=True)
    assert not list((tmp_path / "kept").glob(".*"))


def test_without_a_folder_everything_is_made(tmp_path: Path) -> None:
    calls: list[int] = []
    kept = EvaluationCache(None)
    for _ in range(2):
        kept.record("a", lambda: calls.append(1))
    assert calls == [1, 1] and not list(tmp_path.iterdir())


def test_an_evaluation_with_kept_parts_says_the_same(settings, tmp_path: Path, monkeypatch) -> None:
    config = settings()
    run_pipeline(config, output=tmp_path / "run", visible=False, skip=["evaluation"])
    plain = run_evaluation(Run(config, tmp_path / "run", visible=False))
    shared = tmp_path / "shared"
    first = run_evaluation(Run(config, tmp_path / "run", visible=False), shared=shared)
    monkeypatch.setattr("rlhf_lite.pipeline.judging.fit_gold_judge", never)
    monkeypatch.setattr("rlhf_lite.pipeline.judging.judge_reward_model", never)
    again = run_evaluation(Run(config, tmp_path / "run", visible=False), shared=shared)
    # NaN (no interval) is not equal to itself
    assert without_nan(first) == without_nan(again) == without_nan(plain)
    assert sorted(path.stem for path in shared.glob("*.npz")) == ["gold", "reference", "sft"]


def test_with_a_handful_of_prompts_there_is_no_interval_and_no_check_passes_by_it(settings, tmp_path) -> None:
    changes = {"evaluation.prompts": 3, "ppo.steps": 1, "sft.steps": 1, "reward.pairs": 4}
    metrics = run_pipeline(settings(changes), output=tmp_path / "run", visible=False)
    assert metrics["comparisons"]["ppo_minus_sft"]["gold_ci95"] == [None, None]
    assert isinstance(metrics["comparisons"]["ppo_minus_sft"]["gold_reward"], float)
    gain = next(check for check in metrics["checks"] if check["name"].startswith("Gold reward, PPO"))
    assert gain["value"] is None and not gain["passed"]
    assert "gives no interval" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_what_no_text_has_passes_no_check() -> None:
    numbers = {"kl_nats_per_seq": 1.0, "length_tokens": 1.0, "perplexity_reference": 2.0}
    policies = {name: numbers | {"distinct_2": None} for name in ("ppo", "reference")}
    judged = {"policies": policies, "comparisons": {"ppo_minus_sft": {"gold_ci95": [0.1, 0.2]}}}
    passed = {check["target"]: check["passed"] for check in checks(judged)}
    assert passed == {"> 0": True, "<= 10": True, ">= 0.7": False, "0.5 to 2": True, "0.2 to 3": True}
