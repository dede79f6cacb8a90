"""A constitutional run on a tiny model: every phase, what it writes, how it goes on, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_lite.checkpoint import read_phase
from rlhf_lite.constitutional import Chain, RevisionStep
from rlhf_lite.data import load_preferences
from rlhf_lite.errors import ConfigError, DataError, PhaseError
from rlhf_lite.evaluation import eval_policy
from rlhf_lite.evaluation.eval_policy import EvalPolicy
from rlhf_lite.evaluation.statistics import mean_ci, share_ci
from rlhf_lite.evaluation.text_metrics import toxicity_scores
from rlhf_lite.models.adapters import adapter_parameters, add_adapter, lora_config
from rlhf_lite.models.policy import load_policy
from rlhf_lite.pipeline.cai.config import CAIConfig, load_cai_config
from rlhf_lite.pipeline.cai.feedback import agreement, chosen_minus_rejected
from rlhf_lite.pipeline.cai.rounds import by_round, copied, judge_answers, read_chains, write_chains
from rlhf_lite.pipeline.cai.run import CAI_PHASES, line, run_cai
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.phases import DPO, POLICY, REFERENCE, build_adapter_policies
from rlhf_lite.teaching import book_runs as chapters
from rlhf_lite.types import Preference

SMALL = [
    "model.precision=fp32", "model.threads=1", "lora.rank=2", "lora.top_layers=2", "data.max_tokens=400",
    "data.principles=[no-insults, no-threats]", "revise.prompts=6", "revise.max_new_tokens=6", "sft.steps=3",
    "revise.temperature=1.0", "revise.first_temperature=1.0", "sft.batch_size=4", "sft.learning_rate=0.01",
    "feedback.prompts=6", "feedback.candidates=3", "feedback.max_new_tokens=6", "feedback.temperature=1.0",
    "dpo.batch_size=4", "dpo.learning_rate=0.01", "evaluation.prompts=5", "evaluation.samples=2",
    "evaluation.max_new_tokens=6", "evaluation.temperature=1.0", "checkpoint.every_steps=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def small(base: Path):
    def make(*changes: str) -> CAIConfig:
        return load_cai_config(None, [f"model.name={base}", *SMALL, *changes])

    return make


@pytest.fixture(scope="module")
def done(small, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("cai") / "run"
    return folder, run_cai(small(), output=folder, command="the command", visible=False)


def test_a_run_leaves_every_step_with_its_provenance(done: tuple[Path, dict]) -> None:
    folder, metrics = done
    assert CAI_PHASES == ("revise", "sft", "feedback", "dpo", "evaluation")
    chains = read_chains(folder)
    assert len(chains) == metrics["counts"]["chains"] == metrics["rounds"][0]["n"] <= 6
    for chain in chains:
        assert chain.prompt.endswith("\n-") and chain.constitution == "kind-and-honest" and chain.seed == 0
        for step in chain.steps:
            assert step.principle in ("no-insults", "no-threats")
            assert step.critique_prompt.endswith("\nCritique:") and step.revision_prompt.endswith("\nBetter:")
            assert step.kept == (step.problem not in ("empty", "copied example", "critique again", "loop"))
    records = load_preferences(folder / "feedback" / "pairs.jsonl").records
    assert len(records) == metrics["counts"]["dpo_pairs"] > 0
    for record in records:
        assert record.chosen != record.rejected and record.margin > 0 and record.chosen.startswith(" ")
        assert record.meta["principles"] == ["no-insults", "no-threats"] and record.meta["judge"]
    rows = [json.loads(text) for text in (folder / "feedback" / "feedback.jsonl").read_text().splitlines()]
    assert {row["method"] for row in rows} == {"likelihood", "pointwise", "pairwise"}
    assert read_phase(folder / "dpo")["reference"] == "sft"


def test_the_metrics_say_what_was_judged_and_how(done: tuple[Path, dict]) -> None:
    folder, metrics = done
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == metrics
    assert list(metrics["policies"]) == ["base", "sft", "cai"]
    base, cai = metrics["policies"]["base"], metrics["policies"]["cai"]
    assert base["kl_nats_per_seq"] == pytest.approx(0, abs=1e-6)  # the start policy is its own reference
    assert cai["n_prompts"] == 5 and cai["n_answers"] == 10 and cai["toxicity_ci95"][0] <= cai["toxicity"]
    assert set(metrics["comparisons"]) == {"sft_minus_base", "cai_minus_base", "cai_minus_sft"}
    gap = metrics["comparisons"]["cai_minus_base"]["toxicity"]
    assert gap == pytest.approx(cai["toxicity"] - base["toxicity"], abs=1e-9)
    assert metrics["command"] == "the command" and metrics["settings"]["seed"] == 0
    assert len((folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()) == 5
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "## Limits" in report and "after DPO on AI feedback" in report and "(0.5 is chance)" in report


def test_training_prompts_are_never_test_prompts(done: tuple[Path, dict]) -> None:
    folder, _ = done
    trained = {chain.prompt for chain in read_chains(folder)}
    judged = {
        json.loads(t)["prompt"] for t in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    }
    seen = {text for prompt in trained for text in prompt.splitlines()[1:-1]}
    assert not seen & {text for prompt in judged for text in prompt.splitlines()[1:-1]}


def test_a_run_goes_on_where_it_stopped_and_repeats_itself(
    done: tuple[Path, dict], small, tmp_path: Path
) -> None:
    folder, metrics = done
    with pytest.raises(PhaseError, match="already holds a run"):
        run_cai(small(), output=folder, visible=False)
    with pytest.raises(PhaseError, match=r"dpo.beta was 0.1, is 0.3"):
        run_cai(small("dpo.beta=0.3"), output=folder, resume=True, visible=False)
    again = run_cai(small(), output=folder, resume=True, visible=False)
    assert again["policies"] == metrics["policies"] and again["rounds"] == metrics["rounds"]
    other = run_cai(small(), output=tmp_path / "other", visible=False)
    assert other["policies"] == metrics["policies"] and other["feedback"] == metrics["feedback"]


def test_dpo_starts_from_the_policy_of_the_revisions_and_moves_away(done: tuple[Path, dict], small) -> None:
    folder, _ = done
    run = Run(small(), folder, visible=False)
    model = build_adapter_policies(
        run, load_policy(run.config.model.name, precision="fp32"), trained=False
    ).model
    pairs = zip(adapter_parameters(model, DPO), adapter_parameters(model, REFERENCE), strict=True)
    assert max(float((a - b).abs().max()) for a, b in pairs) > 1e-4
    log = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    first = next(row for row in log if row["phase"] == "dpo")
    assert first["loss/per_pair"] == pytest.approx(0.693147, abs=1e-4)  # the policy is its reference at first


def test_the_judge_is_exchanged_by_name(done: tuple[Path, dict], small, tmp_path: Path, base: Path) -> None:
    config = small(f"feedback.judge={base}", "feedback.method=pairwise", "feedback.compare=false")
    metrics = run_cai(config, output=tmp_path / "run", visible=False)
    assert metrics["feedback"]["judge"] == str(base)
    assert "pointwise" not in metrics["feedback"] and metrics["feedback"]["method"] == "pairwise"
    records = load_preferences(tmp_path / "run" / "feedback" / "pairs.jsonl").records
    assert all("log_odds_swapped" in record.meta for record in records)
    # The same model under its own name judges as the model itself does.
    assert metrics["feedback"]["pairwise"]["position_bias_nats"] == pytest.approx(
        done[1]["feedback"]["pairwise"]["position_bias_nats"], abs=1e-3
    )


def test_a_failed_phase_says_which_and_keeps_the_rest(small, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("rlhf_lite.pipeline.cai.rounds.read_chains", lambda folder: [])
        with pytest.raises(PhaseError, match=r"phase sft failed: sft: no revision to learn from"):
            run_cai(small(), output=tmp_path / "run", visible=False)
    assert (tmp_path / "run" / "revise" / "chains.jsonl").is_file() and (
        tmp_path / "run" / "error.log"
    ).is_file()
    with pytest.raises(PhaseError, match=r"phase revise failed: .*no principle 'kind'"):
        run_cai(small("data.principles=[kind]"), output=tmp_path / "other", visible=False)
    with pytest.raises(ConfigError, match=r"feedback.method"):
        small("feedback.method=guess")


def _chain(*texts: str, problem: str = "") -> Chain:
    steps = tuple(RevisionStep("p", "", "", "", text, not problem, text, problem) for text in texts[1:])
    return Chain("prompt", texts[0], steps, "writer", "constitution", 0)


def test_rounds_are_counted_by_hand() -> None:
    chains = [
        _chain("You are an idiot, bad film", "A bad film", "A film"),
        _chain("Stupid moron", "Stupid moron", "Sorry", problem="unchanged"),
    ]
    first, second, third = by_round(chains, seed=0)
    assert first["toxic_fraction"] == 1.0 and first["kept_words"] == 1.0 and "problems" not in first
    assert second["problems"]["unchanged"] == 1 and second["kept"] == 0.5
    # Content words: idiot, bad, film. The first revision keeps two of three, the other both.
    assert second["kept_words"] == pytest.approx((2 / 3 + 1) / 2)
    assert third["kept_words"] == pytest.approx((1 / 3 + 0) / 2) and third["words"] == 1.5
    assert third["minus_first"]["toxicity"] == pytest.approx(third["toxicity"] - first["toxicity"])
    with pytest.raises(ValueError, match="chains of one length"):
        by_round([chains[0], replace(chains[0], steps=())], seed=0)


def test_chains_of_one_prompt_are_no_new_evidence() -> None:
    texts = [f"You are {word}" for word in ("bad", "an idiot", "fine", "a moron", "a film")]
    once = [replace(_chain(text), prompt=f"p{i}") for i, text in enumerate(texts)]
    alone, twice = by_round(once, seed=0)[0], by_round([*once, *once], seed=0)[0]
    assert twice["toxicity_ci95"] == pytest.approx(alone["toxicity_ci95"]) and twice["n"] == 10
    assert alone["toxicity_ci95"] == pytest.approx(mean_ci(toxicity_scores(texts), seed=0).ends)
    unknown = by_round([replace(chain, prompt="") for chain in once], seed=0)[0]
    assert unknown["toxicity_ci95"] == alone["toxicity_ci95"]


def test_agreement_counts_clear_pairs_only() -> None:
    rude, kind = " You are a stupid idiot", " A lovely film"
    pairs = [("p", rude, kind), ("p", kind, rude), ("p", kind, kind)]
    odds = torch.tensor([[-1.0, 2.0], [1.0, -2.0], [5.0, 5.0]]).numpy()
    found = agreement(pairs, odds, ["good", "bad"])
    assert found["n_clear_pairs"] == 2 and found["agreement_by_principle"] == {"good": 1.0, "bad": 0.0}
    assert found["agreement"] == 0.0  # the second principle speaks louder
    expected = share_ci([0, 0, 1], groups=["p", "p", "q"])  # two pairs of one prompt are one unit
    grouped = agreement(
        [("p", rude, kind), ("p", kind, rude), ("q", rude, kind)], np.array([[1.0], [-1.0], [-1.0]]), ["x"]
    )
    assert (grouped["agreement"], grouped["agreement_ci95"]) == (expected.estimate, expected.ends)
    assert "agreement" not in agreement(pairs[2:], odds[2:], ["good", "bad"])
    gap = chosen_minus_rejected([Preference("p", kind, rude, 1.0)], seed=0)
    assert gap["chosen_minus_rejected_toxicity"] < -0.5 and gap["chosen_minus_rejected_words"] == -2


def test_small_things(base: Path, tmp_path: Path) -> None:
    assert copied("head\n- A bad film.\n-", "a bad film") and not copied("head\n- A bad film.\n-", "a film")
    assert not copied("head\n\n-", "")
    tokenizer = load_policy(str(base), precision="fp32").tokenizer
    text = "ab"
    length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert line(tokenizer, text, max_new_tokens=length + 2) == " ab\n"
    assert line(tokenizer, text, max_new_tokens=length + 1) == " ab"  # it may have been cut
    chains = [_chain("x\u2028y\u0085z", "y")]  # ends of lines for str.splitlines, not for JSON lines
    write_chains(tmp_path / "c.jsonl", chains)
    assert read_chains(tmp_path / "c.jsonl") == chains
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="row 1: is not a chain"):
        read_chains(tmp_path / "bad.jsonl")


def test_chapters_make_what_is_missing_and_what_stands_on_it(
    base: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(chapters, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(chapters, "CAI_SIZES", {"fast": [f"model.name={base}", *SMALL], "full": []})
    run = chapters.cai_chapter_run()
    chapters.require(run, "feedback")
    assert all(run.finished(name) for name in ("revise", "sft", "feedback")) and not run.finished("dpo")
    chapters.require(run, "revise")
    assert "revise: from chapter 15" in capsys.readouterr().out
    chapters.remake(run, "sft")
    assert run.finished("revise") and not run.finished("feedback")
    with pytest.raises(ValueError, match="no chapter makes the phase 'ppo'"):
        chapters.require(run, "ppo")


def test_layers_below_the_adapters_are_read_once_and_change_nothing(base: Path, monkeypatch) -> None:
    policy = load_policy(str(base), precision="fp32")
    shape = lora_config(policy.model, rank=2, alpha=4.0, dropout=0.0, top_layers=1, target_modules=["q_proj"])
    model = add_adapter(policy.model, shape, POLICY, seed=0)
    for weight in adapter_parameters(model, POLICY):
        torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))
    prompts = ["- a film\n-", "- another one\n-", "- b\n-"]
    make = partial(EvalPolicy, model=model.eval(), tokenizer=policy.tokenizer)
    both = []
    for layers in ([3], [0, 1, 2, 3]):  # the second claims that every layer may change
        monkeypatch.setattr(eval_policy, "lowest_adapted", lambda _, layers=layers: min(layers))
        policies = {"base": make("base"), "shaken": make("shaken", adapter=POLICY)}
        options = {"samples": 2, "max_new_tokens": 6, "temperature": 1.0, "seed": 0}
        both.append(judge_answers(policies, prompts, **options)["shaken"])
        assert policies["base"].network.scorer.body.depth == 4 - len(layers)
    assert both[0].texts == both[1].texts
    assert abs(both[0].scores["kl"]).max() > 0.01  # the adapter does something
    for name in ("kl", "reference_nats", "reference_tokens"):
        assert both[0].scores[name] == pytest.approx(both[1].scores[name], abs=1e-4)
