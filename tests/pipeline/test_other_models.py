"""Models and adapters that are not the book's: they work, or are refused before anything is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import save_base, shake

from rlhf_lite.errors import CheckpointError, RlhfLiteError
from rlhf_lite.models.adapters import add_adapter, lora_config
from rlhf_lite.models.policy import load_policy
from rlhf_lite.pipeline import generate_text, run_pipeline, score_file, train_reward_file
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.phases import POLICY, AdapterPolicies, save_merged, save_policy

OPTIONS = {"max_new_tokens": 6, "temperature": 1.0, "samples": 3, "seed": 0}


def test_an_adapter_without_a_task_type_writes(base, tmp_path):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] is None
    assert generate_text(str(tmp_path), "film", **OPTIONS) == generate_text(str(base), "film", **OPTIONS)


def test_an_artefact_works_from_any_folder(base, data, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(base.parent)
    train_reward_file(str(data), base.name, tmp_path / "run", settings())
    saved = tmp_path / "run" / "reward" / "adapter" / "adapter_config.json"
    assert json.loads(saved.read_text())["base_model_name_or_path"] == str(base)
    monkeypatch.chdir(tmp_path)
    assert score_file(tmp_path / "run", str(data))["n_pairs"] == 300


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.name": "no/such"}, "no/such cannot be loaded as a"),
        ({"model.name": __file__}, "is a file; a model is a folder"),
        ({"lora.top_layers": 9}, "lora.top_layers: must be between 1 and 4 for this model, got 9"),
        ({"lora.target_modules": "[q_porj]"}, "lora.target_modules: .* no linear layer 'q_porj'; take some"),
        ({"lora.target_modules": "[q_proj,embed_tokens]"}, "no linear layer 'embed_tokens'"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_written(settings, data, tmp_path, changes, words):
    config = settings(changes)
    with pytest.raises(RlhfLiteError, match=words):
        train_reward_file(str(data), None, tmp_path / "reward", config)
    with pytest.raises(RlhfLiteError, match=words):
        run_pipeline(config, output=tmp_path / "run", visible=False)
    assert not any((tmp_path / name / "config.yaml").exists() for name in ("reward", "run"))


def test_a_prompt_longer_than_the_window_keeps_its_end(tmp_path, capsys):
    base = save_base(tmp_path, kind="gpt2")  # 128 positions
    long = "".join(f"{i}, " for i in range(99))
    texts = generate_text(str(base), long, **OPTIONS | {"temperature": 0.0})
    assert "does not fit the 128 tokens of the model: its beginning was cut off" in capsys.readouterr().err
    end = generate_text(str(base), long[-122:], **OPTIONS | {"temperature": 0.0})
    assert texts[0].removeprefix(long) == end[0].removeprefix(long[-122:])
    assert not capsys.readouterr().err


FAMILIES = ["gpt2", "gpt_neox", "gemma2", "phi3"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_models_of_other_families_go_all_the_way(settings, tmp_path, kind):
    base, run = str(save_base(tmp_path / "base", kind=kind)), tmp_path / "run"
    changes = {"model.name": base, "lora.target_modules": "all-linear", "method": "both", "sft.steps": 1,
               "ppo.steps": 1, "dpo.pairs": 8, "dpo.batch_size": 4}  # fmt: skip
    run_pipeline(settings(changes), output=run, visible=False)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    for phase in ("ppo", "dpo"):
        plain = AutoModelForCausalLM.from_pretrained(base)
        adapted = PeftModel.from_pretrained(plain, run / phase / "adapter").eval()(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(run / phase / "merged").eval()(input_ids=ids).logits
        torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)


def test_a_tied_head_that_was_adapted_is_saved_as_its_own(base, settings, tmp_path):
    changes = {"lora.target_modules": "[q_proj,lm_head]", "lora.top_layers": "4"}
    policy = load_policy(str(base), precision="fp32")
    shape = lora_config(policy.model, **settings(changes).lora.model_dump())
    model = add_adapter(policy.model, shape, POLICY, seed=0)
    shake(model, POLICY)
    save_policy(model.eval(), policy, tmp_path)
    save_merged(AdapterPolicies(model, None), policy, tmp_path / "merged")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    plain = AutoModelForCausalLM.from_pretrained(base)
    adapted = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()(input_ids=ids).logits
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(input_ids=ids).logits
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
    assert load_policy(str(base), precision="fp32").model.config.tie_word_embeddings


def test_another_layer_makes_another_identity_and_old_records_still_hold(settings, base, tmp_path):
    folder = save_base(tmp_path / "base")
    config = settings({"model.name": str(folder), "sft.steps": 1})
    run_pipeline(config, output=tmp_path / "run", only=["sft"], visible=False)
    policy = load_policy(str(folder), precision="fp32")
    with torch.no_grad():
        policy.model.model.layers[3].mlp.down_proj.weight[0, 0] += 1
    policy.model.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="weights is"):
        Run(config, tmp_path / "run").verify("sft")
    record = tmp_path / "run" / "sft" / "phase.json"
    content = json.loads(record.read_text())
    del content["weights"]
    record.write_text(json.dumps(content))
    Run(config, tmp_path / "run").verify("sft")  # as earlier versions wrote it


@pytest.mark.slow
@settings_of_hypothesis(max_examples=15, deadline=None, derandomize=True)
@given(st.fixed_dictionaries({
    "kind": st.sampled_from(["llama", "qwen2", "gpt2"]), "tie_word_embeddings": st.booleans(),
    "end": st.sampled_from([None, 256, 9999]), "pad": st.sampled_from([None, 3]), "ends": st.booleans(),
    "num_key_value_heads": st.sampled_from([1, 2]), "attention_bias": st.booleans()}))  # fmt: skip
def test_any_model_folder_writes_or_is_refused(tmp_path_factory, case):
    folder = tmp_path_factory.mktemp("model")
    kind, end, pad, ends = (case.pop(name) for name in ("kind", "end", "pad", "ends"))
    own = {} if kind == "gpt2" else {"num_key_value_heads": case.pop("num_key_value_heads")}
    own |= {"attention_bias": case["attention_bias"]} if kind == "llama" else {}
    save_base(folder, kind=kind, tie_word_embeddings=case["tie_word_embeddings"], **own)
    for file, fields in (("config.json", {"eos_token_id": end, "pad_token_id": pad}),
                         ("generation_config.json", {"eos_token_id": end, "pad_token_id": pad}),
                         ("tokenizer_config.json", {} if ends else {"eos_token": None})):  # fmt: skip
        content = json.loads((folder / file).read_text()) | fields
        (folder / file).write_text(json.dumps(content))
    try:
        text = generate_text(str(folder), "film", **OPTIONS | {"temperature": 0.0}, precision="fp32")[0]
    except RlhfLiteError as error:
        assert not ends and "has no end token" in str(error)
        return
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("film", return_tensors="pt").input_ids
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 256}
    written = model.generate(ids, attention_mask=ids > -1, **options)
    assert text == "film" + tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
