"""Model folders of other people: every weight is theirs, or one message says which is not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import END, byte_tokenizer, save_base

from rlhf_lite.data.formatting import token_ids
from rlhf_lite.errors import PhaseError
from rlhf_lite.models.policy import load_policy, load_tokenizer, tokenizer_of
from rlhf_lite.models.reward_model import new_reward_model

FILE = "model.safetensors"
REWARD = {"precision": "fp32", "rank": 2, "alpha": 4.0, "dropout": 0.0, "top_layers": 2,
          "target_modules": "all-linear", "max_tokens": 32, "seed": 0}


def change(folder: Path, file: str, **fields: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def tensors(folder: Path, edit) -> None:
    weights = load_file(folder / FILE)
    edit(weights)
    save_file(weights, folder / FILE, metadata={"format": "pt"})


def lose(folder: Path) -> None:
    tensors(folder, lambda weights: weights.pop("model.layers.2.mlp.up_proj.weight"))


def spoil(folder: Path) -> None:
    tensors(folder, lambda weights: weights["model.layers.2.mlp.up_proj.weight"][1].fill_(float("nan")))


def body_alone(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).model.save_pretrained(folder)


def classify(folder: Path, labels: int = 2) -> None:
    options = {"num_labels": labels, "ignore_mismatched_sizes": True}
    AutoModelForSequenceClassification.from_pretrained(folder, **options).save_pretrained(folder)


@pytest.mark.parametrize(("tied", "harm", "told"), [
    (False, lose, "lacks 1 .*layers.2.mlp.up_proj"),
    (False, spoil, "layers.2.mlp.up_proj.* infinite or NaN"),
    (False, lambda folder: change(folder, "config.json", num_hidden_layers=6), "lacks .*layers.4"),
    (False, lambda folder: change(folder, "config.json", num_hidden_layers=2), "no place for.*layers.2"),
    (False, lambda folder: change(folder, "config.json", intermediate_size=40), "shape .*48.* says .*40"),
    (False, body_alone, "lacks 1 .*lm_head"),
    (False, classify, "lacks 1 .*lm_head"),
    (True, classify, "no place for.*score.weight"),
    (False, lambda folder: change(folder, "generation_config.json", eos_token_id=END), "eos_token_id: write"),
])
def test_a_policy_that_would_not_be_the_folders_is_refused(tmp_path, tied, harm, told):
    base = save_base(tmp_path / "base", tie_word_embeddings=tied)
    harm(base)
    with pytest.raises(PhaseError, match=told):
        load_policy(str(base), precision="fp32")


def test_a_missing_weight_of_the_body_is_refused_for_a_reward_model_too(tmp_path):
    base = save_base(tmp_path / "base")
    lose(base)
    with pytest.raises(PhaseError, match=r"lacks 1 .*up_proj"):
        new_reward_model(str(base), **REWARD)


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_a_reward_model_may_begin_from_a_classifier_of_any_size(tmp_path, tied, labels):
    base = save_base(tmp_path / "base", tie_word_embeddings=tied)
    plain = new_reward_model(str(base), **REWARD).model.get_base_model().model.norm.weight
    classify(base, labels)
    reward = new_reward_model(str(base), **REWARD)
    assert torch.equal(reward.model.get_base_model().model.norm.weight, plain)
    assert reward.score_texts(["a", "bc"]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("form", ["shards", "bin", "half"])
def test_whole_models_load_however_they_are_saved(tmp_path, form, tied):
    base = save_base(tmp_path / "bäse (1)", tie_word_embeddings=tied)
    expected = load_policy(str(base), precision="fp32").model
    if form == "bin":
        torch.save(load_file(base / FILE), base / "pytorch_model.bin")
        (base / FILE).unlink()
    else:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        (base / FILE).unlink()
        (model.half() if form == "half" else model).save_pretrained(base, max_shard_size="20KB")
    loaded = load_policy(str(base), precision="fp32").model
    for mine, other in zip(loaded.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, other.half().float() if form == "half" else other)


def test_a_value_head_of_somebodys_ppo_is_passed_over(tmp_path):
    base = save_base(tmp_path / "base")
    tensors(base, lambda weights: weights.update({"v_head.summary.weight": torch.zeros(1, 32)}))
    load_policy(str(base), precision="fp32")


def test_a_token_that_the_model_has_no_row_for_is_refused_where_a_text_holds_it(tmp_path):
    base, tokenizer = save_base(tmp_path / "base"), byte_tokenizer()
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(base)
    loaded = load_policy(str(base), precision="fp32").tokenizer
    assert token_ids(loaded, ["plain"]) == token_ids(byte_tokenizer(), ["plain"])
    for reader in (loaded, new_reward_model(str(base), **REWARD).tokenizer):
        with pytest.raises(PhaseError, match=r"'<image>', .*257, and the model has 257 tokens: take"):
            token_ids(reader, ["fine", "an <image>"])


def test_an_adapter_reads_and_ends_with_the_tokenizer_in_its_folder(tmp_path):
    policy = load_policy(str(save_base(tmp_path / "base")), precision="fp32")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    assert tokenizer_of(policy, None) is tokenizer_of(policy, adapter) is policy.tokenizer
    own = byte_tokenizer()
    own.eos_token, own.chat_template = "!", "{{ messages[0].content }}!"
    own.save_pretrained(adapter)
    found = tokenizer_of(policy, adapter)
    assert (found.eos_token_id, found.chat_template) == (own.eos_token_id, own.chat_template)
    own.add_special_tokens({"eos_token": "<turn>"})  # of a model with more tokens
    own.save_pretrained(adapter)
    with pytest.raises(PhaseError, match=r"does not fit the model: its end token has the id 257"):
        tokenizer_of(policy, adapter)
    assert load_tokenizer(str(adapter)).eos_token_id == 257
