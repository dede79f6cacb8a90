"""``rlhf-lite eval``: policies found by name, loaded once, compared; errors that say what to change."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer, save_base, shake

from rlhf_lite.data.chat import write_template
from rlhf_lite.errors import ComparisonError, DataError, PhaseError
from rlhf_lite.evaluation.gold import agreement_with_humans
from rlhf_lite.evaluation.judges import ProfanityJudge
from rlhf_lite.evaluation.statistics import wilson_interval
from rlhf_lite.models.adapters import add_adapter, lora_config, save_adapter
from rlhf_lite.models.policy import load_policy
from rlhf_lite.models.reward_model import new_reward_model
from rlhf_lite.pipeline.commands import locate_policy
from rlhf_lite.pipeline.compare import ModelLoader, evaluate_models, optimised_by, parse_models
from rlhf_lite.pipeline.judging import judge_reward_model
from rlhf_lite.types import Preference, Rating

OPTIONS = {"with_gold": False, "max_new_tokens": 4, "visible": False}
SHAPE = {"rank": 2, "alpha": 4, "dropout": 0.0, "top_layers": 2}


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(ProfanityJudge, "__call__", lambda self, texts: np.zeros(len(texts)))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Two models, a run with SFT, PPO and a reward model (nothing of it trained), and prompts."""
    home = tmp_path_factory.mktemp("eval")
    save_base(home / "a")
    save_base(home / "b", seed=1)
    run = home / "run"
    run.mkdir()
    (run / "config.yaml").write_text(f"model: {{name: {home / 'a'}}}\n", encoding="utf-8")
    for seed, phase in enumerate(("sft", "ppo")):
        policy = load_policy(str(home / "a"), precision="fp32")
        network = add_adapter(policy.model, lora_config(policy.model, **SHAPE), "p", seed=seed)
        shake(network, "p", seed=seed)
        (run / phase).mkdir()
        save_adapter(network, run / phase / "adapter", "p", base=str(home / "a"))
    reward = new_reward_model(
        str(home / "a"), precision="fp32", target_modules="all-linear", max_tokens=24, seed=0, **SHAPE
    )
    (run / "reward" / "adapter").mkdir(parents=True)
    reward.save(run / "reward" / "adapter")
    (home / "prompts.txt").write_text("The film\nA plot\nThis is\nWhat a\n", encoding="utf-8")
    return home


def test_a_policy_is_found_by_every_name(home):
    run = home / "run"
    assert locate_policy(str(run)).phase == "ppo"
    assert locate_policy(str(run)).label == "run/ppo"
    assert locate_policy(str(run / "sft")).adapter == run / "sft" / "adapter"
    assert locate_policy(str(run / "sft" / "adapter")).phase == "sft"
    bare = locate_policy(str(run / "reference"))
    assert (bare.base, bare.adapter, bare.label) == (str(home / "a"), None, "run/reference")
    assert locate_policy(str(home / "b")).label == "b"
    assert locate_policy("HuggingFaceTB/SmolLM2-360M").base == "HuggingFaceTB/SmolLM2-360M"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("run/reward", "is a reward model, it cannot write"),
        ("run/dpo", "is not there; give a run folder"),
        ("nowhere", "is not there"),
        (".", "holds neither a run, nor an adapter, nor a model"),
    ],
)
def test_what_is_no_policy_is_refused(home, monkeypatch, spec, words):
    monkeypatch.chdir(home)
    with pytest.raises(PhaseError, match=words):
        locate_policy(spec)


def test_adapters_in_folders_of_their_own_are_named(tmp_path):
    for name in ("second", "first"):  # as PEFT saves adapters that are not called default
        (tmp_path / "both" / name).mkdir(parents=True)
        (tmp_path / "both" / name / "adapter_config.json").write_text("{}")
    with pytest.raises(PhaseError, match=r"give one of them, \S*both/first or \S*both/second$"):
        locate_policy(str(tmp_path / "both"))


def test_names(home):
    models = [str(home / "a"), f"mine={home / 'a'}", str(home / "a"), f"größer={home / 'a'}"]
    assert [one.name for one in parse_models(models)] == ["a", "mine", "a (2)", "größer"]
    with pytest.raises(ComparisonError, match="two policies are called 'x'"):
        parse_models([f"x={home / 'a'}", f"x={home / 'b'}"])


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_an_adapter_that_learned_its_chat_template_is_asked_in_it(home, tmp_path, kind):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<a>"
    base = save_base(tmp_path / "base", tokenizer=tokenizer)
    adapter = shutil.copytree(home / "run" / "sft" / "adapter", tmp_path / "adapter")
    named = adapter / "adapter_config.json"
    named.write_text(named.read_text().replace(str(home / "a"), str(base)))
    write_template(adapter, kind)
    found = evaluate_models([str(base), str(adapter)], str(home / "prompts.txt"), tmp_path / "out", limit=2,
                            **OPTIONS)
    assert found["settings"]["chat"] is (kind == "chat")
    assert found["policies"]["adapter"]["template"] == {"chat": "chat", "plain": "none"}[kind]


def test_adapters_of_one_base_share_a_network(home):
    models = [home / "run" / "reference", home / "run" / "sft", home / "run", home / "b"]
    loaded = ModelLoader().policies(parse_models([str(model) for model in models]))
    assert loaded[0].model is loaded[1].model is loaded[2].model
    assert loaded[3].model is not loaded[0].model
    assert [one.adapter for one in loaded] == [None, "policy_0", "policy_1", None]


def test_a_comparison_from_names_to_files(home, tmp_path):
    output = tmp_path / "out"
    metrics = evaluate_models(
        [str(home / "run" / "reference"), f"ppo={home / 'run'}", str(home / "b")],
        str(home / "prompts.txt"),
        output,
        reward=home / "run",
        limit=3,
        command="the command",
        **OPTIONS,
    )
    assert list(metrics["policies"]) == ["run/reference", "ppo", "b"]
    assert metrics["policies"]["ppo"]["optimised_by"] == ["reward"]
    assert metrics["policies"]["ppo"]["kl_nats_per_seq"] is not None
    assert metrics["policies"]["run/reference"]["kl_nats_per_seq"] == 0
    assert metrics["settings"]["prompts"] == 3
    content = json.loads((output / "report.json").read_text())
    assert content["command"] == "the command"
    assert content["policies"]["ppo"]["rm_reward"] == pytest.approx(metrics["policies"]["ppo"]["rm_reward"])
    assert "†" in (output / "report.html").read_text()
    assert str(home) not in (output / "report.json").read_text()


def test_the_reference_can_be_another_model(home, tmp_path):
    metrics = evaluate_models(
        [str(home / "a")], str(home / "prompts.txt"), tmp_path / "out", reference=str(home / "b"), **OPTIONS
    )
    assert list(metrics["policies"]) == ["a"]
    assert metrics["policies"]["a"]["kl_nats_per_seq"] != 0


def test_only_its_own_reward_model_marks_a_policy(home):
    own = home / "run" / "reward" / "adapter"
    assert optimised_by(locate_policy(str(home / "run")), own) == ("reward",)
    assert optimised_by(locate_policy(str(home / "run" / "sft")), own) == ()
    assert optimised_by(locate_policy(str(home / "run")), home / "other") == ()
    assert optimised_by(locate_policy(str(home / "b")), own) == ()


def test_nothing_is_loaded_before_the_request_is_checked(home, tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_lite.pipeline.compare.load_policy", lambda name: pytest.fail("loaded"))
    (tmp_path / "mine.txt").touch()
    prompts, models = str(home / "prompts.txt"), [str(home / "a")]
    with pytest.raises(ComparisonError, match="holds something else"):
        evaluate_models(models, prompts, tmp_path, **OPTIONS)
    with pytest.raises(DataError, match=r"none\.txt: does not exist"):
        evaluate_models(models, "none.txt", tmp_path / "out", **OPTIONS)
    with pytest.raises(PhaseError, match="holds no reward model"):
        evaluate_models(models, prompts, tmp_path / "out", reward=home / "b", **OPTIONS)


def test_skipped_prompts_are_listed_in_the_report(home, tmp_path):
    broken = tmp_path / "p.jsonl"
    broken.write_text('{"prompt": "a b"}\n{"prompt": ""}\n{"prompt": "c"}\n', encoding="utf-8")
    metrics = evaluate_models([str(home / "a")], str(broken), tmp_path / "out", on_error="skip", **OPTIONS)
    assert metrics["precision"] in ("fp32", "bf16")
    assert any("p.jsonl, row 2" in said for said in metrics["problems"])
    assert "p.jsonl, row 2" in (tmp_path / "out" / "report.md").read_text().replace("\\", "")


def test_a_model_that_does_not_load(home, tmp_path):
    with pytest.raises(PhaseError, match="nobody/nothing cannot be loaded as a model"):
        evaluate_models(["nobody/nothing"], str(home / "prompts.txt"), tmp_path / "out", **OPTIONS)


def test_a_gold_judge_against_people_by_hand():
    predicted, actual = np.array([3.0, 1.0, 2.0, 5.0, 4.0, 0.0]), np.array([1.0, 0.0, 1.0, 2.0, 2.0, 0.0])
    ratings = [Rating(str(i), str(i), (value,), "test") for i, value in enumerate(actual)]
    found = agreement_with_humans(lambda _: predicted, ratings, min_gap=0.5, bins=5)
    bins = found["bins"]  # six texts in five groups: two and four times one
    assert [row["n"] for row in bins] == [2, 1, 1, 1, 1]
    assert (bins[0]["predicted"], bins[0]["observed"], bins[4]["observed"]) == (0.5, 0.0, 2.0)
    assert (found["n_texts"], found["pair_accuracy"]) == (6, 1.0) and "missing" not in found


@pytest.mark.parametrize(
    ("texts", "min_gap", "missing"),
    [
        (10, 2.0, {"pair_accuracy": "no two of these texts differ by more than 2 points"}),
        (1, 1.0, {"pearson": "x: expected at least 4 values, got 2"}),
        (10, 9.0, {"pearson": "x: all 20 values are 1; a correlation needs spread",
                   "pair_accuracy": "no two of these texts differ by more than 9 points"}),
    ],
)
def test_what_cannot_be_said_of_a_gold_judge_is_none_with_the_reason(texts, min_gap, missing):
    pairs = [Preference("x", f" a{i}", f" b{i}") for i in range(texts)]
    flat = len(missing) == 2  # a judge that likes everything alike
    judge = np.ones(2 * texts) if flat else np.random.default_rng(0).random(2 * texts)
    found = agreement_with_humans(lambda _: judge, pairs, min_gap=min_gap, bins=3)
    assert found["missing"] == missing and found["pair_min_gap"] == min_gap
    for name, ends in (("pearson", "ci95"), ("pair_accuracy", "pair_accuracy_ci95")):
        assert (found[name] is None) == (found[ends] is None) == (name in missing)


def test_a_reward_model_against_people_by_hand():
    scores = {"p good": 2.0, "p bad": 0.0, "q good": 0.0, "q bad": 0.0, "r good": 1.0, "r bad": 3.0}

    class Known:
        def score_texts(self, texts, prompts=None):
            return torch.tensor([scores[text] for text in texts])

    pairs = [
        Preference(name, " good", " bad", margin) for name, margin in (("p", 2.0), ("q", 0.5), ("r", 1.5))
    ]
    found = judge_reward_model(Known(), pairs, min_gap=0.0, bins=10)
    assert found["accuracy"] == 0.5 and found["n_pairs"] == 3  # one right, one tie, one wrong
    assert found["ci95"] == wilson_interval(1.5, 3).ends
    p = 1 / (1 + np.exp(-np.array([2.0, 0.0, -2.0])))
    assert found["brier"] == pytest.approx(np.mean((1 - p) ** 2))
    assert [row["accuracy"] for row in found["accuracy_by_gap"]] == [0.5, 0.5]
    twice = judge_reward_model(Known(), pairs * 2, min_gap=0.0)  # the same three prompts: no new evidence
    assert twice["n_pairs"] == 6 and twice["accuracy"] == 0.5
    assert twice["ci95"][0] < found["ci95"][0] and found["ci95"][1] < twice["ci95"][1]
