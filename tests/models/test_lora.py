"""LoRA from scratch: by hand on one layer, by identity on whole models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import HIDDEN, LAYERS, VOCAB, family, gpt2, llama, qwen2, token_rows

from rlhf_lite.data.collate import pad_left
from rlhf_lite.models.lora.layer import LoRAEmbedding, LoRALinear, LoRASpec
from rlhf_lite.models.lora.model import (
    add_lora,
    lora_layers,
    lora_parameters,
    merge,
    merged,
    set_adapter,
    unmerge,
    using_adapter,
)
from rlhf_lite.models.policy import PolicyScorer

IDS = torch.tensor(token_rows([8, 8]))
SHAPE = {"rank": 4, "alpha": 8.0}
EVERYTHING = ["q_proj", "v_proj", "down_proj", "embed_tokens"]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def train(model, name="default", *, seed=0):
    """Make the halves that start at zero something else, as training does."""
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model, name).values():
        zero = layer.B if isinstance(layer, LoRALinear) else layer.A
        zero[name].data = torch.randn(zero[name].shape, generator=generator) * 0.2
    return model


def adapted(model=None, **options):
    model = llama() if model is None else model
    return train(add_lora(model, **SHAPE | options), options.get("name", "default"))


def filled(layer, a, b, spec):
    layer.add("x", spec)
    layer.A["x"].data, layer.B["x"].data = torch.tensor(a), torch.tensor(b)
    layer.active = "x"
    return layer


# --- One layer, by hand ------------------------------------------------------

#   W x + b = [1·5 + 2·6 + 10, 3·5 + 4·6 + 20] = [27, 59];  A x = 1·5 + 1·6 = 11;  s = 3 / 1;
#   s · B A x = 3 · [2, 0] · 11 = [66, 0]
WEIGHT, BIAS, X = [[1.0, 2.0], [3.0, 4.0]], [10.0, 20.0], torch.tensor([5.0, 6.0])
A, B, SPEC = [[1.0, 1.0]], [[2.0], [0.0]], LoRASpec(rank=1, alpha=3.0)


def linear() -> nn.Linear:
    base = nn.Linear(2, 2)
    base.weight.data, base.bias.data = torch.tensor(WEIGHT), torch.tensor(BIAS)
    return base


def conv() -> Conv1D:
    base = Conv1D(2, 2)
    base.weight.data, base.bias.data = torch.tensor(WEIGHT).T.contiguous(), torch.tensor(BIAS)
    return base


@pytest.mark.parametrize("base", [linear, conv])
def test_a_linear_layer_by_hand(base):
    layer = filled(LoRALinear(base()), A, B, SPEC)
    assert layer(X).tolist() == [93.0, 59.0]
    update = layer.update("x") if base is linear else layer.update("x").T
    assert update.tolist() == [[6.0, 6.0], [0.0, 0.0]]
    layer.active = None
    assert layer(X).tolist() == [27.0, 59.0]


def test_an_embedding_by_hand():
    base = nn.Embedding(3, 2)
    base.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    # A [1, 3], B [2, 1]: token 2 gets s · A[0, 2] · Bᵀ = 3 · 7 · [2, 1] = [42, 21]
    layer = filled(LoRAEmbedding(base), [[0.0, 1.0, 7.0]], [[2.0], [1.0]], SPEC)
    assert layer(torch.tensor([2, 0])).tolist() == [[47.0, 27.0], [1.0, 2.0]]
    assert layer.update("x").tolist() == [[0.0, 0.0], [6.0, 3.0], [42.0, 21.0]]


def test_the_scale():
    assert LoRASpec(rank=4, alpha=8.0).scale == 2.0
    assert LoRASpec(rank=4, alpha=8.0, rslora=True).scale == 4.0
    for wrong in ({"rank": 0}, {"rank": 4, "dropout": 1.0}):
        with pytest.raises(ValueError, match=f"{list(wrong)[-1]} must be"):
            LoRASpec(**{"alpha": 1.0} | wrong)


def test_dropout_drops_inputs_of_the_update_in_training_only():
    base = nn.Linear(1000, 1, bias=False)
    base.weight.data.zero_()
    layer = filled(LoRALinear(base), [[1.0] * 1000], [[1.0]], LoRASpec(rank=1, alpha=1.0, dropout=0.75))
    x = torch.ones(1000)
    assert layer.eval()(x).item() == 1000
    torch.manual_seed(0)
    kept = layer.train()(x).item() / 4  # what is kept is scaled by 1 / (1 - 0.75)
    # 250 expected, standard deviation 14; exactly 250 is also what no dropout at all would give.
    assert kept == round(kept) and 150 < kept < 350 and kept != 250
    base.weight.data.fill_(1.0)
    layer.B["x"].data.zero_()
    assert layer(x).item() == 1000  # the frozen layer sees every input


def test_the_start():
    model = add_lora(llama(), rank=16, alpha=1.0, target_modules=["q_proj", "embed_tokens"])
    for layer in lora_layers(model).values():
        a, b = layer.A["default"], layer.B["default"]
        if isinstance(layer, LoRALinear):
            # Kaiming's uniform law with a = √5: standard deviation 1 / √(3 · in)
            assert a.abs().max() <= 1 / HIDDEN**0.5 and not b.any()
            assert a.std().item() == pytest.approx(1 / (3 * HIDDEN) ** 0.5, rel=0.1)
        else:
            assert a.shape == (16, VOCAB) and not a.any()
            assert b.std().item() == pytest.approx(1.0, rel=0.15)


# --- Whole models ------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "gemma2", "granite"])
def test_a_new_adapter_changes_nothing_and_a_trained_one_can_be_switched_off(kind, dtype):
    expected = logits(family(kind).to(dtype))
    model = add_lora(family(kind).to(dtype), **SHAPE)
    assert torch.equal(logits(model), expected)
    train(model)
    assert not torch.allclose(logits(model), expected, atol=0.05)
    with using_adapter(model, None):
        assert torch.equal(logits(model), expected)
    with merged(model, None):
        assert torch.equal(logits(model), expected)
    assert not torch.allclose(logits(model), expected, atol=0.05)


def test_the_reference_needs_no_memory_of_its_own():
    bare, model = llama(), llama()
    pointers = {p.data_ptr() for p in model.parameters()}
    adapted(model)
    added = [p for p in model.parameters() if p.data_ptr() not in pointers]
    assert {id(p) for p in added} == {id(p) for p in lora_parameters(model)}
    assert len(list(model.parameters())) == len(list(bare.parameters())) + len(added)


@pytest.mark.parametrize(("top_layers", "first"), [(1, 3), (2, 2), (4, 0), (None, 0)])
def test_only_the_top_layers_and_only_lora_are_trainable(top_layers, first):
    model = add_lora(llama(tie_word_embeddings=False), **SHAPE, top_layers=top_layers)
    assert {path.split(".")[2] for path in lora_layers(model)} == {str(i) for i in range(first, LAYERS)}
    assert len(lora_layers(model)) == 7 * (LAYERS - first)  # and no lm_head
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in lora_parameters(model)} and len(trainable) == 14 * (LAYERS - first)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = [lora_parameters(add_lora(llama(), **SHAPE, seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, found[0], found[1]))
    assert not torch.equal(found[0][0], found[2][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("build", "targets"),
    [(llama, EVERYTHING), (llama, "all-linear"), (qwen2, "all-linear"), (gpt2, ["c_attn", "c_proj", "wte"])],
)
def test_merged_equals_unmerged(build, targets, dtype):
    model = adapted(build().to(dtype), target_modules=targets)
    expected = logits(model).float()
    with merged(model, "default"):
        got = logits(model).float()
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


def test_a_merge_rounds_once():
    # bfloat16 numbers next to 1 are 2⁻⁷ apart. This update is a little more than half of that: the sum rounds
    # up. Rounded to bfloat16 itself it would be half exactly, and the sum would round down, to the even 1.
    base = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    base.weight.data.fill_(1.0)
    layer = filled(LoRALinear(base), [[1.0]], [[2.0**-8 * (1 + 2.0**-10)]], LoRASpec(rank=1, alpha=1.0))
    model = nn.Sequential(layer)
    merge(model, "x")
    assert layer.weight.item() == 1 + 2.0**-7 and layer.weight.dtype == torch.bfloat16
    unmerge(model)
    assert layer.weight.item() == 1.0


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerging_puts_the_very_same_tensors_back(dtype, fail):
    model = adapted(llama().to(dtype), target_modules=EVERYTHING)
    names = list(model.state_dict())
    before = [(layer, layer.base.weight, layer.base.weight.clone()) for layer in lora_layers(model).values()]
    head, expected = model.lm_head.weight, logits(model)
    assert model.model.embed_tokens.weight is head  # tied
    try:
        with merged(model, "default"):
            assert all(layer.base.weight is not weight for layer, weight, _ in before)
            assert model.lm_head.weight is head  # the embedding's update is not the head's
            assert [n for n in names if n not in model.state_dict()] == []
            if fail:
                raise KeyError("inside")
    except KeyError:
        assert fail
    for layer, weight, values in before:
        assert layer.base.weight is weight and torch.equal(weight, values)
        assert layer.merged is None and layer.active == "default"
    assert list(model.state_dict()) == names
    assert torch.equal(logits(model), expected)


def test_a_broken_adapter_is_not_merged():
    model = adapted()
    layers = lora_layers(model)
    before = [layer.base.weight for layer in layers.values()]
    path = list(layers)[5]
    with torch.no_grad():
        layers[path].B["default"][0, 0] = torch.inf
    with pytest.raises(ValueError, match=rf"{path} infinite or NaN"):
        merge(model, "default")
    assert all(layer.base.weight is w for layer, w in zip(layers.values(), before, strict=True))
    assert all(layer.active == "default" and layer.merged is None for layer in layers.values())


def test_several_adapters():
    model = adapted(name="first", top_layers=1)
    first = logits(model)
    adapted(model, name="second", target_modules=["q_proj", "embed_tokens"], seed=7)
    second, bare = logits(model), logits(llama())
    assert {type(layer.base) for layer in lora_layers(model).values()} == {nn.Linear, nn.Embedding}
    assert not torch.allclose(first, second, atol=0.05)
    assert {id(p) for p in model.parameters() if p.requires_grad} == {
        id(p) for p in lora_parameters(model, "second")
    }
    for name, expected in (("first", first), ("second", second), (None, bare)):
        with using_adapter(model, name):
            assert torch.equal(logits(model), expected)
            if name is not None:
                with merged(model, name):
                    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
        with pytest.raises(KeyError), using_adapter(model, name):
            raise KeyError
        assert torch.equal(logits(model), second)
    # Merged from another adapter's point of view: the active one must not be added on top.
    with merged(model, "first"):
        torch.testing.assert_close(logits(model), first, atol=1e-4, rtol=1e-4)
    set_adapter(model, "first")
    assert torch.equal(logits(model), first)
    assert len(lora_parameters(model)) == len(lora_parameters(model, "first")) + len(
        lora_parameters(model, "second")
    )


def test_what_cannot_be_done_is_an_error():
    model = adapted()
    for call in (set_adapter, merge, lora_parameters, lora_layers):
        with pytest.raises(ValueError, match=r"no adapter 'x'; there are \['default'\]"):
            call(model, "x")
    with pytest.raises(ValueError, match="'default' already"):
        add_lora(model, **SHAPE)
    with merged(model, "default"):
        for call in (set_adapter, merge):
            with pytest.raises(RuntimeError, match="unmerge it first"):
                call(model, "default")
        with pytest.raises(RuntimeError, match="unmerge it first"):
            add_lora(model, **SHAPE, name="other")
    with pytest.raises(ValueError, match="no layer 'typo'"):
        add_lora(llama(), **SHAPE, target_modules=["q_proj", "typo"])
    with pytest.raises(ValueError, match="list of names"):
        add_lora(llama(), **SHAPE, target_modules="q_proj")
    for wrong in (0, LAYERS + 1):
        with pytest.raises(ValueError, match=f"between 1 and {LAYERS}.*{wrong}"):
            add_lora(llama(), **SHAPE, top_layers=wrong)
    with pytest.raises(ValueError, match="no layer 'embed_tokens'"):
        add_lora(family("gemma"), **SHAPE, target_modules=["embed_tokens"])  # scales its embeddings itself


def test_the_scorer_takes_it_as_it_takes_peft():
    model = adapted(top_layers=2)
    scorer = PolicyScorer(model, top_layers=2)
    ids, mask = pad_left(token_rows([7, 3]), 0)
    wanted = mask.clone()
    wanted[:, :-2] = False
    logps = scorer.score(ids, mask, wanted).logps
    with using_adapter(model, None), torch.no_grad():
        reference = scorer.score(ids, mask, wanted).logps
    with torch.no_grad():
        bare = PolicyScorer(llama(), top_layers=2).score(ids, mask, wanted).logps
    assert torch.equal(reference, bare) and not torch.allclose(reference, logps, atol=0.01)
    gradients = torch.autograd.grad(logps.sum(), lora_parameters(model))
    assert all(gradient.any() for gradient in gradients)
