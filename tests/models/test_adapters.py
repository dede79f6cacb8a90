"""Adapters: nothing at first, one small update later, and never a trace on the frozen weights."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from peft import PeftModel

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import LAYERS, gpt2, llama, shake, token_rows

from rlhf_lite.models.adapters import (
    adapter_parameters,
    add_adapter,
    linear_names,
    load_adapter,
    lora_config,
    lora_layers,
    merged,
    save_adapter,
    using_adapter,
)

IDS = torch.tensor(token_rows([8, 8]))
SHAPE = {"rank": 4, "alpha": 8.0, "dropout": 0.0}


def adapted(model=None, *, top_layers=2, seed=0, trained=True) -> PeftModel:
    model = llama() if model is None else model
    peft_model = add_adapter(model, lora_config(model, **SHAPE, top_layers=top_layers), "policy", seed=seed)
    if trained:
        shake(peft_model, "policy")
    return peft_model.eval()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_linear_names_are_the_blocks_own():
    expected = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert linear_names(llama(tie_word_embeddings=False)) == expected  # and no lm_head
    assert linear_names(gpt2()) == ["c_attn", "c_fc", "c_proj"]  # Conv1D
    assert linear_names(adapted().get_base_model()) == expected  # and nothing of the adapters
    model = gpt2()
    for block in model.transformer.h:
        block.attn, block.mlp = torch.nn.Identity(), torch.nn.Identity()
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no linear layers"):
        linear_names(model)


def test_a_second_adapter_is_a_neighbour_of_the_first():
    model = adapted()
    layers = lora_layers(model)
    add_adapter(model, lora_config(model.get_base_model(), **SHAPE, top_layers=2), "other", seed=3)
    assert lora_layers(model) == layers
    assert all(isinstance(layer.base_layer, torch.nn.Linear) for layer in layers)


def test_gpt2_with_adapters():
    model = adapted(gpt2(), top_layers=1)
    expected = logits(model)
    assert not torch.allclose(expected, logits(gpt2()), atol=0.01)
    assert {n.split(".h.")[1][0] for n, p in model.named_parameters() if p.requires_grad} == {"1"}
    with merged(model, "policy"):
        torch.testing.assert_close(logits(model.get_base_model()), expected, atol=1e-4, rtol=1e-4)


def test_merging_a_broken_adapter_is_an_error_and_leaves_no_trace():
    model = adapted()
    before = [layer.get_base_layer().weight for layer in lora_layers(model)]
    with torch.no_grad():
        lora_layers(model)[3].lora_B["policy"].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'policy' infinite or NaN"), merged(model, "policy"):
        pass
    after = [layer.get_base_layer().weight for layer in lora_layers(model)]
    assert all(weight is original for weight, original in zip(after, before, strict=True))
    assert model.active_adapter == "policy"


def test_adapter_parameters():
    model = adapted()
    found = adapter_parameters(model, "policy")
    assert {id(p) for p in found} == {id(p) for p in model.parameters() if p.requires_grad}
    with pytest.raises(ValueError, match=r"no adapter 'x'; there are \['policy'\]"):
        adapter_parameters(model, "x")


def test_a_new_adapter_changes_nothing():
    expected = logits(llama())
    assert torch.equal(logits(adapted(trained=False)), expected)
    assert not torch.allclose(logits(adapted()), expected, atol=0.01)


@pytest.mark.parametrize(("top_layers", "first"), [(1, 3), (2, 2), (4, 0), (None, 0)])
def test_only_the_top_layers_and_only_lora_are_trainable(top_layers, first):
    model = adapted(top_layers=top_layers)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trainable)
    layers = {int(name.split(".layers.")[1].split(".")[0]) for name in trainable}
    assert layers == set(range(first, LAYERS))
    assert len(lora_layers(model)) == 7 * len(layers)


def test_rank_and_scale():
    layer = lora_layers(adapted())[0]
    assert layer.lora_A["policy"].weight.shape[0] == 4
    delta = 8.0 / 4 * layer.lora_B["policy"].weight @ layer.lora_A["policy"].weight
    torch.testing.assert_close(layer.get_delta_weight("policy"), delta)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, same, other = (adapted(trained=False, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [lora_layers(m)[0].lora_A["policy"].weight for m in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_equals_unmerged(dtype):
    model = adapted(llama().to(dtype))
    expected = logits(model).float()
    with merged(model, "policy"):
        got = logits(model.get_base_model()).float()
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_puts_the_very_same_tensors_back(dtype, fail):
    model = adapted(llama().to(dtype))
    layers = lora_layers(model)
    before = [
        (layer.get_base_layer().weight, layer.get_base_layer().weight.data_ptr(), layer.weight.clone())
        for layer in layers
    ]
    state = {id(p): p.requires_grad for p in model.parameters()}
    expected = logits(model)
    failing = pytest.raises(RuntimeError, match="inside") if fail else nullcontext()
    with failing, merged(model, "policy"):
        assert layers[0].get_base_layer().weight.data_ptr() != before[0][1]
        if fail:
            raise RuntimeError("inside")
    for layer, (parameter, pointer, values) in zip(layers, before, strict=True):
        weight = layer.get_base_layer().weight
        assert weight is parameter and weight.data_ptr() == pointer and torch.equal(weight, values)
    assert {id(p): p.requires_grad for p in model.parameters()} == state
    assert torch.equal(logits(model), expected)


def test_merged_none_is_the_bare_model():
    model = adapted()
    expected = logits(llama())
    with merged(model, None):
        assert torch.equal(logits(model.get_base_model()), expected)


def test_adapters_are_switched_and_restored():
    model = adapted()
    add_adapter(model, lora_config(model.get_base_model(), **SHAPE, top_layers=2), "reference", seed=3)
    shake(model, "reference", seed=9)
    model.set_adapter("policy")
    model.eval()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable and all(".policy." in name for name in trainable)
    policy = logits(model)
    with using_adapter(model, "reference"):
        reference = logits(model)
    with using_adapter(model, None):
        bare = logits(model)
    assert torch.equal(bare, logits(llama()))
    assert not torch.allclose(reference, policy, atol=0.01)
    assert not torch.allclose(reference, bare, atol=0.01)
    for name in ("reference", None):
        with pytest.raises(RuntimeError, match="inside"), using_adapter(model, name):
            raise RuntimeError("inside")
        assert model.active_adapter == "policy"
        assert {n for n, p in model.named_parameters() if p.requires_grad} == trainable
        assert torch.equal(logits(model), policy)


def test_adapters_can_be_nested():
    model = adapted()
    policy, bare = logits(model), logits(llama())
    with using_adapter(model, None):
        with merged(model, "policy"):
            torch.testing.assert_close(logits(model.get_base_model()), policy, atol=1e-4, rtol=1e-4)
        assert torch.equal(logits(model), bare)
    assert torch.equal(logits(model), policy)


@pytest.mark.parametrize("name", ["policy", "default"])
def test_saved_adapters_load_here_and_with_plain_peft(tmp_path, name):
    model = llama()
    peft_model = add_adapter(model, lora_config(model, **SHAPE, top_layers=2), name, seed=0)
    shake(peft_model, name)
    peft_model.eval()
    save_adapter(peft_model, tmp_path, name, base="the/base")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in tmp_path.iterdir()}
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]
    assert '"the/base"' in (tmp_path / "adapter_config.json").read_text()
    expected = logits(peft_model)
    plain = PeftModel.from_pretrained(llama(), str(tmp_path)).eval()
    assert torch.equal(logits(plain), expected)
    loaded = load_adapter(llama(), tmp_path, "other").eval()
    assert torch.equal(logits(loaded), expected)
    assert not any(p.requires_grad for p in loaded.parameters())
    second = load_adapter(adapted(), tmp_path, "second", trainable=True)
    second.set_adapter("second")
    assert torch.equal(logits(second.eval()), expected)
    trainable = {n for n, p in second.named_parameters() if p.requires_grad}
    assert trainable and all(".second." in n for n in trainable)


def test_saving_one_of_two_adapters_saves_that_one(tmp_path):
    model = adapted()
    add_adapter(model, lora_config(model.get_base_model(), **SHAPE, top_layers=2), "reference", seed=3)
    shake(model, "reference", seed=9)
    model.set_adapter("policy")
    expected = logits(model.eval())
    save_adapter(model, tmp_path, "policy", base="x")
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), str(tmp_path)).eval()), expected)
