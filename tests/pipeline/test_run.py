"""Whole runs on a tiny model: what they leave behind, and that a kill in the middle changes nothing."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from conftest import rows, write_rows
from tiny_models import byte_tokenizer, save_base

from rlhf_lite.config import load_config
from rlhf_lite.errors import ConfigError, DataError, PhaseError
from rlhf_lite.models import policy as policy_module
from rlhf_lite.pipeline import run as run_module
from rlhf_lite.pipeline import run_pipeline
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.folder import method_with_dpo
from rlhf_lite.tracking import read_metrics

ROOT = Path(__file__).parents[2]
EVERY_TIME = ("seconds", "finished", "commit", "dirty")


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def numbers(folder: Path) -> dict:
    """What must not depend on when and how often a run was started."""
    return {key: value for key, value in metrics(folder).items() if key not in EVERY_TIME}


def log_lines(folder: Path) -> list[dict]:
    lines = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


def greedy(model, tokenizer, prompt: str) -> list[int]:
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            pad_token_id=0,
        )
    return out[0].tolist()


# --- What a run leaves behind


def test_files(finished):
    expected = {"config.yaml", "metrics.json", "metrics.jsonl", "samples.jsonl", "report.html", "report.md"}
    assert expected | {"sft", "reward", "ppo"} <= {p.name for p in finished.iterdir()}
    assert not (finished / "error.log").exists()
    assert not [p for p in finished.rglob("*") if p.name.endswith((".tmp", ".old")) or "step-" in p.name]


def test_metrics_json(finished, settings):
    found = metrics(finished)
    assert found["schema"] == 1 and found["command"] == "the command" and found["seed"] == 0
    assert found["precision"] == "fp32"
    wanted = {"commit", "versions", "hardware", "finished", "gold_judge", "reward_model", "policies"}
    assert wanted | {"comparisons", "checks", "seconds", "steps"} <= found.keys()
    assert found["steps"] == {"sft": 3, "reward": 4, "ppo": 5}
    assert {"sft", "reward", "ppo", "evaluation", "load", "total"} == found["seconds"].keys()
    assert all(value >= 0 for value in found["seconds"].values())
    assert set(found["policies"]) == {"reference", "sft", "ppo"}
    for row in found["policies"].values():
        assert row["n_prompts"] == 12
        assert row["gold_ci95"][0] <= row["gold_reward"] <= row["gold_ci95"][1]
        assert 0 <= row["length_tokens"] <= 5 and 0 <= row["ended_fraction"] <= 1
        assert 0 <= row["toxicity"] <= 1 and row["perplexity_reference"] > 1
    # The KL is measured from the SFT policy.
    assert found["policies"]["sft"]["kl_nats_per_seq"] == pytest.approx(0, abs=1e-4)
    assert found["policies"]["ppo"]["kl_nats_per_seq"] != 0
    assert set(found["comparisons"]) == {"ppo_minus_sft", "ppo_minus_reference", "sft_minus_reference"}
    difference = found["policies"]["ppo"]["gold_reward"] - found["policies"]["sft"]["gold_reward"]
    assert found["comparisons"]["ppo_minus_sft"]["gold_reward"] == pytest.approx(difference, abs=1e-9)
    assert found["reward_model"]["n_pairs"] == settings().reward.eval_pairs
    low, high = found["reward_model"]["ci95"]
    assert 0 <= low <= found["reward_model"]["accuracy"] <= high <= 1
    assert all(isinstance(check["passed"], bool) and check["target"] for check in found["checks"])


def test_config_log_and_samples(finished, settings):
    saved = yaml.safe_load((finished / "config.yaml").read_text())
    assert saved == settings().model_dump(mode="json")
    lines = log_lines(finished)
    expected = [("sft", s) for s in (1, 2, 3)] + [("reward", s) for s in (1, 2, 3, 4)]
    assert [(line["phase"], line["step"]) for line in lines] == expected + [("ppo", s) for s in range(1, 6)]
    ppo = [line for line in lines if line["phase"] == "ppo"]
    assert ppo[0]["kl/nats_per_seq"] == pytest.approx(0, abs=1e-5)
    assert all(line["ratio/first_error"] < 1e-5 for line in ppo)
    samples = [json.loads(line) for line in (finished / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == len({s["prompt"] for s in samples}) == 12
    ours = {row["prompt"] for row in rows()}
    for sample in samples:
        assert sample["prompt"] in ours and set(sample["policies"]) == {"reference", "sft", "ppo"}
    found = metrics(finished)["policies"]
    for name, row in found.items():
        mean = sum(s["policies"][name]["gold"] for s in samples) / 12
        assert row["gold_reward"] == pytest.approx(mean)


def test_reports(finished):
    html, markdown = (finished / "report.html").read_text(), (finished / "report.md").read_text()
    assert "<html" in html and ("<svg" in html or "data:image" in html)
    accuracy = metrics(finished)["reward_model"]["accuracy"]
    shown = (f"{accuracy:.2f}", f"{accuracy:.3f}", f"{100 * accuracy:.1f}", f"{100 * accuracy:.0f}")
    assert any(number in markdown for number in shown)


def test_no_text_is_in_two_splits(settings):
    from rlhf_lite.pipeline.texts import run_texts

    texts = run_texts(settings())
    train = {p for p, _ in texts.sft_train} | set(texts.ppo_prompts) | {p.prompt for p in texts.train_pairs}
    test = set(texts.test_prompts) | {p.prompt for p in texts.test_pairs}
    validation = {p for p, _ in texts.sft_validation}
    gold = {getattr(g, "prompt", None) or g.text for g in texts.gold}
    groups = [train, test, validation, gold]
    assert all(groups)
    assert all(not a & b for i, a in enumerate(groups) for b in groups[i + 1 :])


def test_prompts_that_answers_follow_in_training_are_not_tested(settings, tmp_path):
    """One prompt in three is common to the file: it is asked in training, so it is no test prompt."""
    from rlhf_lite.pipeline.texts import run_texts

    content = [row | ({"prompt": "Say something:"} if i % 3 == 0 else {}) for i, row in enumerate(rows())]
    content = [row | {"chosen": f"{row['chosen']} {i}"} for i, row in enumerate(content)]
    texts = run_texts(settings({"data.source": write_rows(tmp_path / "common.jsonl", content)}))
    assert texts.split.shared_prompts == 1
    assert "Say something:" in texts.ppo_prompts and "Say something:" not in texts.test_prompts


def test_a_run_goes_on_with_its_own_split_only(settings, tmp_path, capsys):
    """A file that changed since, or a run of an older version: what was trained may be held out now."""
    content = rows(200)
    source = write_rows(tmp_path / "pairs.jsonl", content)
    config, output = settings({"data.source": source}), tmp_path / "run"
    run_pipeline(config, output=output, only=["sft"])
    split = metrics(output)["split"]
    assert sum(split["pairs"].values()) == 200 and split["crossing"] == 0
    assert f"train {split['pairs']['train']}" in capsys.readouterr().err
    write_rows(source, [*content[:-1], content[-1] | {"prompt": "another"}])
    with pytest.raises(PhaseError, match=r"another split of .*pairs\.jsonl.*--output"):
        run_pipeline(config, output=output, only=["sft"], resume=True, visible=False)
    write_rows(source, content)
    state = json.loads((output / "state.json").read_text())
    run_pipeline(config, output=output, only=["sft"], resume=True, visible=False)
    assert json.loads((output / "state.json").read_text()) == state
    (output / "state.json").write_text(json.dumps({"precision": "fp32"}))
    with pytest.raises(PhaseError, match="older version"):
        run_pipeline(config, output=output, only=["sft"], resume=True, visible=False)


def test_adapters_load_with_plain_peft(finished, base):
    tokenizer = AutoTokenizer.from_pretrained(finished / "ppo" / "adapter")
    texts = {}
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    texts["base"] = greedy(plain, tokenizer, "film 7 was")
    for phase in ("sft", "ppo"):
        weights = load_file(finished / phase / "adapter" / "adapter_model.safetensors")
        assert any("lora_B" in name and t.abs().sum() > 0 for name, t in weights.items())
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, str(finished / phase / "adapter")).eval()
        texts[phase] = greedy(model, tokenizer, "film 7 was")
    merged = AutoModelForCausalLM.from_pretrained(finished / "ppo" / "merged").eval()
    assert not any("lora" in name or "base_layer" in name for name in merged.state_dict())
    own_tokenizer = AutoTokenizer.from_pretrained(finished / "ppo" / "merged")
    for prompt in ("film 7 was", "x", "a longer opening"):
        assert greedy(merged, own_tokenizer, prompt) == greedy(model, tokenizer, prompt)
    with torch.no_grad():
        ids = torch.tensor([tokenizer("film 7 was")["input_ids"]])
        torch.testing.assert_close(merged(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
        assert not torch.equal(plain(ids).logits, merged(ids).logits)


def test_reward_model_loads_with_plain_peft(finished, base):
    from rlhf_lite.models.reward_model import load_reward_model

    folder = finished / "reward" / "adapter"
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain, str(folder)).eval()
    ours = load_reward_model(folder, precision="fp32")
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("film 7 was good")["input_ids"]])
    with torch.no_grad():
        expected = plain(input_ids=ids).logits.item()
    assert ours.score_texts(["film 7 was good"]).item() == pytest.approx(expected, abs=1e-5)
    assert expected != 0.0 and ours.std > 0


def test_the_critic_is_saved(finished):
    critic = load_file(finished / "ppo" / "value_head.safetensors")
    assert critic["linear.weight"].shape == (1, 32) and critic["linear.weight"].abs().sum() > 0


# --- A kill, and what comes after

KILLED = """
import os, signal, sys
from pathlib import Path
from rlhf_lite import tracking
from rlhf_lite.config import load_config
from rlhf_lite.pipeline import run_pipeline

write = tracking.MetricsLog.log

def log(self, phase, step, *values, **options):
    write(self, phase, step, *values, **options)
    if (phase, step) == ("ppo", 4):  # written, but not in a checkpoint yet
        os.kill(os.getpid(), signal.SIGKILL)

tracking.MetricsLog.log = log
run_pipeline(load_config(sys.argv[1]), output=Path(sys.argv[2]), command="the command", visible=False)
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers(finished, settings, tmp_path):
    config, output = tmp_path / "config.yaml", tmp_path / "killed"
    settings({"checkpoint.every_steps": 3}).save(config)
    command = [sys.executable, "-c", KILLED, str(config), str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (output / "ppo").exists() and not (output / "metrics.json").exists()
    assert (output / "checkpoints" / "ppo" / "step-000003").is_dir()
    torch.manual_seed(77)
    # How often to save may change, since it changes no number.
    run_pipeline(settings(), output=output, resume=True, command="the command", visible=False)
    assert numbers(output) == numbers(finished)
    assert log_lines(output) == log_lines(finished)
    for name in ("sft/adapter/adapter_model", "reward/adapter/adapter_model", "ppo/value_head"):
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (output, finished))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for name in ("samples.jsonl", "ppo/adapter/adapter_model.safetensors"):
        assert (output / name).read_bytes() == (finished / name).read_bytes()
    assert not (output / "checkpoints" / "ppo").exists()


def test_resuming_a_finished_run_keeps_every_number(finished, settings, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    run_pipeline(settings(), output=copy, resume=True, command="the command", visible=False)
    assert numbers(copy) == numbers(finished)
    assert metrics(copy)["seconds"]["ppo"] == metrics(finished)["seconds"]["ppo"]
    assert log_lines(copy) == log_lines(finished)


def test_a_damaged_checkpoint_is_named(settings, tmp_path, monkeypatch):
    output = tmp_path / "run"

    def stop(run):
        raise RuntimeError("stop here")

    monkeypatch.setitem(run_module.TRAINING, "reward", stop)
    with pytest.raises(PhaseError):
        run_pipeline(settings(), output=output, visible=False)
    place = output / "checkpoints" / "sft" / "step-000002"
    shutil.rmtree(output / "sft")
    place.mkdir(parents=True)
    (place / "state.safetensors").write_bytes(b"\x01" * 20)
    with pytest.raises(PhaseError, match="phase sft failed") as found:
        run_pipeline(settings(), output=output, resume=True, visible=False)
    assert str(place) in str(found.value)


# --- Phases


def test_without_sft_the_reference_is_the_untouched_model(settings, tmp_path):
    config = settings({"ppo.steps": 1, "reward.pairs": 4})
    found = run_pipeline(config, output=tmp_path / "run", skip=["sft"], visible=False)
    assert set(found["policies"]) == {"reference", "ppo"}
    assert set(found["comparisons"]) == {"ppo_minus_reference"}
    assert found["policies"]["reference"]["kl_nats_per_seq"] == pytest.approx(0, abs=1e-4)
    record = json.loads((tmp_path / "run" / "ppo" / "phase.json").read_text())
    assert record["reference"] == "base" and "sft" not in found["steps"]


def test_only(settings, tmp_path):
    output, config = tmp_path / "run", settings({"sft.steps": 1})
    found = run_pipeline(config, output=output, only=["sft"], visible=False)
    assert found["steps"] == {"sft": 1} and "policies" not in found
    assert (output / "sft" / "phase.json").is_file() and not (output / "reward").exists()
    assert not (output / "report.html").exists()
    with pytest.raises(ConfigError, match="phase ppo needs the phase reward"):
        run_pipeline(config, output=output, only=["ppo"], resume=True, visible=False)
    with pytest.raises(PhaseError, match=r"unknown phase 'grpo'.*sft, reward, ppo, dpo, evaluation"):
        run_pipeline(config, output=output, only=["grpo"], resume=True, visible=False)


def test_a_ppo_policy_is_not_judged_against_another_reference(settings, tmp_path):
    """PPO without SFT, then SFT: the reference adapter that PPO started from is no longer the same."""
    output, config = tmp_path / "run", settings({"ppo.steps": 1, "sft.steps": 1, "reward.pairs": 4})
    run_pipeline(config, output=output, only=["reward", "ppo"], skip=["sft"], visible=False)
    with pytest.raises(PhaseError, match="reference is 'base' there and 'sft' here"):
        run_pipeline(config, output=output, resume=True, visible=False)


# --- Refusals


def test_another_run_is_not_overwritten(finished, settings):
    before = (finished / "metrics.json").read_bytes()
    with pytest.raises(PhaseError, match="--resume"):
        run_pipeline(settings(), output=finished, visible=False)
    assert (finished / "metrics.json").read_bytes() == before


def test_a_folder_with_other_files_is_not_filled(settings, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(PhaseError, match="--output"):
        run_pipeline(settings(), output=tmp_path, only=["sft"], visible=False)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("ppo.clip", 0.1, "ppo.clip was 0.2, is 0.1"),
        ("seed", 3, "seed was 0, is 3"),
        ("lora.rank", 4, "lora.rank"),
    ],
)
def test_other_settings_are_refused(finished, settings, key, value, said):
    before = (finished / "config.yaml").read_bytes()
    with pytest.raises(PhaseError, match=said):
        run_pipeline(settings({key: value}), output=finished, resume=True, visible=False)
    assert (finished / "config.yaml").read_bytes() == before


def test_dpo_can_be_added_to_a_run_by_ppo(finished, settings, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    assert method_with_dpo(folder) == "both" and method_with_dpo(tmp_path / "new") == "dpo"
    kept = (folder / "ppo" / "adapter" / "adapter_model.safetensors").read_bytes()
    before = load_config(folder / "config.yaml", ["method=both", "dpo.beta=0.3"])
    run_pipeline(before, output=folder, resume=True, visible=False)
    found = metrics(folder)
    assert {"sft", "ppo", "dpo"} <= found["policies"].keys() and "dpo_minus_sft" in found["comparisons"]
    assert (folder / "ppo" / "adapter" / "adapter_model.safetensors").read_bytes() == kept
    assert method_with_dpo(folder) == "both"
    # What is there now has its settings: neither may change any more, nor may the run shrink.
    for changed, said in (("dpo.beta=0.4", "dpo.beta was 0.3"), ("method=ppo", "method was 'both'")):
        other = load_config(folder / "config.yaml", [changed])
        with pytest.raises(PhaseError, match=said):
            run_pipeline(other, output=folder, resume=True, visible=False)
    fresh = load_config(finished / "config.yaml", ["method=both", "sft.steps=9"])
    with pytest.raises(PhaseError, match=r"sft\.steps was"):
        run_pipeline(fresh, output=finished, resume=True, visible=False)


def test_another_model_or_tokenizer_under_the_same_name_is_refused(settings, tmp_path):
    base, output = save_base(tmp_path / "base"), tmp_path / "run"
    config = settings({"model.name": str(base), "sft.steps": 1})
    run_pipeline(config, output=output, only=["sft"], visible=False)
    save_base(base, seed=5)
    with pytest.raises(PhaseError, match="model is '") as found:
        run_pipeline(config, output=output, only=["sft"], resume=True, visible=False)
    assert "tokenizer" not in str(found.value)
    save_base(base)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(base)
    with pytest.raises(PhaseError, match="tokenizer is '"):
        run_pipeline(config, output=output, only=["sft"], resume=True, visible=False)


def test_the_model_is_the_same_in_either_precision(settings, tmp_path, monkeypatch):
    """``precision: auto`` asks the processor, which may be another one when a run is continued."""
    found = []
    for there in (True, False):
        monkeypatch.setattr(policy_module, "has_bfloat16", lambda there=there: there)
        found.append(Run(settings({"model.precision": "auto"}), tmp_path, visible=False).identity)
    assert found[0] == found[1]


def test_a_broken_phase_says_what_how_and_where(settings, tmp_path, monkeypatch):
    output, config = tmp_path / "run", settings({"sft.steps": 1})

    def broken(run):
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setitem(run_module.TRAINING, "reward", broken)
        with pytest.raises(PhaseError) as found:
            run_pipeline(config, output=output, only=["sft", "reward"], visible=False)
    message = str(found.value)
    for part in ("phase reward failed", "the disk is full", str(output), "--resume", "error.log"):
        assert part in message
    assert "Traceback" in (output / "error.log").read_text()
    assert (output / "sft" / "phase.json").is_file()
    run_pipeline(config, output=output, only=["sft", "reward"], resume=True, visible=False)
    assert not (output / "error.log").exists()


def test_broken_data_is_named(settings, tmp_path):
    broken = rows(40)
    broken[7] = {"prompt": "film 7 was", "chosen": " good"}
    source = write_rows(tmp_path / "broken.jsonl", broken)
    with pytest.raises(DataError, match=r"broken\.jsonl.*rejected"):
        run_pipeline(settings({"data.source": source}), output=tmp_path / "a", only=["sft"], visible=False)
    with pytest.raises(DataError, match="too few"):
        few = write_rows(tmp_path / "few.jsonl", rows(3))
        run_pipeline(settings({"data.source": few}), output=tmp_path / "b", only=["sft"], visible=False)
    with pytest.raises(ConfigError, match=r"data\.source"):
        run_pipeline(settings({"data.source": "nowhere"}), output=tmp_path / "c", only=["sft"], visible=False)


def test_empty_prompts_can_be_judged(settings, tmp_path):
    """A preference file may have no prompts at all: two texts, one of them better."""
    content = [
        {"prompt": "", "chosen": f"film {i} was good", "rejected": f"film {i} was bad"} for i in range(200)
    ]
    source = write_rows(tmp_path / "pairs.jsonl", content)
    config = settings({"data.source": source, "evaluation.prompts": 2})
    found = run_pipeline(config, output=tmp_path / "run", only=["evaluation"], visible=False)
    assert found["policies"]["reference"]["n_prompts"] >= 1
