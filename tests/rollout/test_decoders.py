"""The decoders against the model's own forward pass: the loop for Llama-like models, and the general one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import gpt2, llama, qwen2, shake, token_rows

from rlhf_lite.data.collate import pad_left
from rlhf_lite.models import llama_layers
from rlhf_lite.models.adapters import add_adapter, lora_config, merged, using_adapter
from rlhf_lite.models.linear import PackedLinear, PlainLinear, can_pack
from rlhf_lite.models.lora import model as lora
from rlhf_lite.rollout import decoder as decoder_module
from rlhf_lite.rollout.decoder import Generic, Llama, prepare, prepare_llama
from rlhf_lite.rollout.sampler import row_seeds, sample

ROWS = token_rows([6, 1, 3, 5])
IDS, MASK = pad_left(ROWS, 0)
LATER = torch.tensor(token_rows([5, 5, 5, 5], seed=1))  # what the rows go on with
BF16 = can_pack(torch.zeros(1, dtype=torch.bfloat16))
NO_BF16 = "this processor, or this PyTorch, has no oneDNN kernels for bfloat16, so nothing is packed"


def logits_of(ready, *, repeats=1, keep=None, steps=LATER.shape[1]):
    """Logits ``[rows, 1 + steps, V]`` of the decoder along given tokens; ``keep`` is (after step, order)."""
    decoder = ready.decoder()
    later = LATER.repeat_interleave(repeats, dim=0)
    found = [decoder.prefill(IDS, MASK, repeats=repeats, room=steps)]
    for t in range(steps):
        if keep is not None and t == keep[0]:
            decoder.keep(keep[1])
            later, found = later[keep[1]], [logits[keep[1]] for logits in found]
        found.append(decoder.step(later[:, t]))
    return torch.stack(found, dim=1).float()


def exact(model, repeats=1):
    """The same logits without a cache, without padding, one row at a time."""
    rows = []
    for row, later in zip(ROWS, LATER.tolist(), strict=True):
        logits = model(input_ids=torch.tensor([row + later])).logits[0]
        rows += [logits[len(row) - 1 :].float()] * repeats
    return torch.stack(rows)


KINDS = {
    "llama": llama,
    "qwen2": qwen2,
    "four heads": lambda: llama(num_attention_heads=4, num_key_value_heads=2),
    "no groups": lambda: llama(num_attention_heads=4, num_key_value_heads=4),
    "wide heads": lambda: llama(num_attention_heads=4, num_key_value_heads=2, head_dim=16),
    "biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "gpt2": gpt2,
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("repeats", [1, 3])
def test_logits_are_those_of_the_model(kind, repeats):
    model = KINDS[kind]()
    for name, parameter in model.named_parameters():  # biases and norms are 0 and 1 in a new model
        if name.endswith("bias") or "norm" in name:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    expected = exact(model, repeats)
    assert isinstance(prepare(model), Llama) == (kind != "gpt2")
    for ready in (prepare(model), Generic(model)):
        torch.testing.assert_close(logits_of(ready, repeats=repeats), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("order", [[0, 1, 2], [3, 1], [0, 3, 2], [2], [3, 2, 1, 0]], ids=str)
def test_rows_may_leave(kind, order):
    model = KINDS[kind]()
    order = torch.tensor(order)
    expected = exact(model)[order]
    for ready in (prepare(model), Generic(model)):
        got = logits_of(ready, keep=(2, order))
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)


def test_padding_is_not_computed():
    model = llama()
    seen: list[int] = []
    ready = prepare(model)
    down = ready.blocks.layers[0].down
    ready.blocks.layers[0] = _replace(ready.blocks.layers[0], down=_Watched(down, seen))
    logits_of(ready, steps=1)
    assert seen == [int(MASK.sum()), len(ROWS)]


def _replace(layer, **changes):
    from dataclasses import replace

    return replace(layer, **changes)


class _Watched:
    def __init__(self, linear, seen):
        self._linear, self._seen = linear, seen

    def plus(self, x, other):
        self._seen.append(len(x))
        return self._linear.plus(x, other)


def test_the_cache_has_room_for_what_was_asked_and_no_more():
    decoder = prepare(llama()).decoder()
    decoder.prefill(IDS, MASK, repeats=2, room=7)
    assert decoder._cache.shape == (4, 2, 2 * len(ROWS), 1, IDS.shape[1] + 7, 16)


@pytest.mark.parametrize(
    "pack", [False, pytest.param(True, marks=pytest.mark.skipif(not BF16, reason=NO_BF16))]
)
def test_bfloat16_is_as_near_to_float32_as_transformers_is(pack):
    model = llama(initializer_range=0.15)
    truth = exact(model)
    half = llama(initializer_range=0.15).to(torch.bfloat16)
    ours = logits_of(prepare_llama(half, pack=pack))
    theirs = exact(half)
    spread = truth.std()
    assert 0 < float((theirs - truth).abs().mean() / spread) < 0.05  # rounding shows
    assert float((ours - truth).abs().mean()) < 1.3 * float((theirs - truth).abs().mean())


@pytest.mark.skipif(not BF16, reason=NO_BF16)
def test_packed_layers_compute_the_same():
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape):
        return torch.randn(shape, generator=generator).to(torch.bfloat16)

    weight, bias, x, other = numbers(48, 32), numbers(48), numbers(5, 32), numbers(5, 48)
    for b in (None, bias):
        plain, packed = PlainLinear(weight, b), PackedLinear(weight, b)
        for got, expected in [
            (packed(x), plain(x)),
            (packed.plus(x, other), plain.plus(x, other)),
            (packed.gated(x, other), plain.gated(x, other)),
            (packed.silu(x), plain.silu(x)),
        ]:
            assert got.dtype == torch.bfloat16
            torch.testing.assert_close(got, expected, atol=0.05, rtol=0.02)


@pytest.mark.skipif(not BF16, reason=NO_BF16)
def test_few_steps_and_large_models_are_not_packed(monkeypatch):
    half = llama().to(torch.bfloat16)
    assert isinstance(prepare(half, steps=2).head, PlainLinear)
    assert isinstance(prepare(half, steps=50).head, PackedLinear) and isinstance(
        prepare(half).head, PackedLinear
    )
    assert isinstance(prepare(llama()).head, PlainLinear)
    monkeypatch.setattr(llama_layers, "_BYTES_TO_PACK", 1000)
    assert isinstance(prepare(half).head, PlainLinear)


# --- Adapters


def adapted(kind=llama):
    base = kind()
    shape = lora_config(base, rank=4, alpha=8.0, dropout=0.0, top_layers=2)
    model = add_adapter(base, shape, "policy", seed=0).eval()
    shake(model, "policy")
    return model


def test_merged_and_absent_adapters_take_the_fast_way():
    model = adapted()
    bare = logits_of(prepare(llama()))
    with merged(model, "policy"):
        inside = model.get_base_model()
        assert isinstance(prepare(inside), Llama)
        changed = logits_of(prepare(inside))
    torch.testing.assert_close(changed, exact(model), atol=5e-4, rtol=1e-3)
    assert float((changed - bare).abs().max()) > 0.1
    with using_adapter(model, None):
        assert isinstance(prepare(model.get_base_model()), Llama)
        torch.testing.assert_close(logits_of(prepare(model.get_base_model())), bare, atol=1e-5, rtol=1e-5)
    model.merge_adapter()
    assert isinstance(prepare(model.get_base_model()), Llama)
    torch.testing.assert_close(logits_of(prepare(model.get_base_model())), changed, atol=5e-4, rtol=1e-3)


def test_active_adapters_are_not_forgotten():
    model = adapted()
    for whole in (model, model.get_base_model()):
        ready = prepare(whole)
        assert isinstance(ready, Generic)
        torch.testing.assert_close(logits_of(ready), exact(model), atol=5e-4, rtol=1e-3)


def test_adapters_from_scratch_take_the_same_ways():
    model = lora.add_lora(llama(), rank=4, alpha=8.0)
    generator = torch.Generator().manual_seed(0)
    for parameter in lora.lora_parameters(model):
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    expected = exact(model)
    assert isinstance(prepare(model), Generic)
    torch.testing.assert_close(logits_of(prepare(model)), expected, atol=5e-4, rtol=1e-3)
    with lora.merged(model, "default"):
        assert isinstance(prepare(model), Llama)
        torch.testing.assert_close(logits_of(prepare(model)), expected, atol=5e-4, rtol=1e-3)
    with lora.using_adapter(model, None):
        assert isinstance(prepare(model), Llama)
        torch.testing.assert_close(logits_of(prepare(model)), exact(llama()), atol=2e-4, rtol=1e-4)


def test_the_weights_are_those_of_the_call():
    model = llama()
    options = dict(max_new_tokens=8, eos_token_id=(), pad_token_id=0, temperature=0.0)
    first = sample(model, IDS, MASK, seeds=row_seeds(0, rows=4), **options)
    ready = prepare(model)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= -1.0
    second = sample(model, IDS, MASK, seeds=row_seeds(0, rows=4), **options)
    assert not torch.equal(first.response_ids, second.response_ids)
    third = sample(ready, IDS, MASK, seeds=row_seeds(0, rows=4), **options)
    assert torch.equal(first.response_ids, third.response_ids)  # prepared before the change


# --- What the loop does not know goes through the model's own forward pass


class Louder(torch.nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


def test_anything_unusual_is_left_to_transformers():
    def subclass():
        model = llama()
        model.__class__ = type("MyLlama", (type(model),), {})
        return model

    def other_linear():
        model = llama()
        model.model.layers[1].mlp.up_proj.__class__ = Louder
        return model

    def hooked():
        model = llama()
        model.model.layers[0].register_forward_hook(lambda _, __, output: output * 2)
        return model

    unusual = {
        "subclass": subclass(),
        "another layer": other_linear(),
        "hook": hooked(),
        "activation": llama(hidden_act="gelu"),
        "training": llama().train(),
        "sliding window": qwen2(use_sliding_window=True, sliding_window=4, max_window_layers=0),
        "rope that depends on the length": llama(
            rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
        ),
    }
    for name, model in unusual.items():
        ready = prepare(model)
        assert isinstance(ready, Generic), name
        torch.testing.assert_close(logits_of(ready), exact(model), atol=5e-4, rtol=1e-3, msg=name)


def test_gradients_still_work_after_sampling():
    model = llama()
    sample(model, IDS, MASK, max_new_tokens=3, eos_token_id=(), pad_token_id=0, seeds=row_seeds(0, rows=4))
    model.requires_grad_(True)
    rollout = sample(
        model, IDS, MASK, max_new_tokens=3, eos_token_id=(), pad_token_id=0, seeds=row_seeds(0, rows=4)
    )
    logits = model(input_ids=rollout.response_ids).logits
    (
        logits.log_softmax(-1).gather(-1, rollout.response_ids[..., None]).squeeze(-1) * rollout.logps
    ).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["llama", "four heads", "wide heads"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_a_shared_beginning_is_read_once_and_changes_nothing(kind, repeats, monkeypatch):
    model = KINDS[kind]()
    head = token_rows([20], seed=5)[0]
    rows = [head + tail for tail in token_rows([6, 1, 3], seed=6)]
    later = torch.tensor(token_rows([4, 4, 4], seed=7)).repeat_interleave(repeats, dim=0)
    ids, mask = pad_left(rows, 0)
    found = {}
    for name, least in (("shared", 16), ("apart", 10**6)):
        monkeypatch.setattr(decoder_module, "_SHARED_TOKENS", least)
        decoder = prepare(model).decoder()
        logits = [decoder.prefill(ids, mask, repeats=repeats, room=4)]
        order = torch.arange(3 * repeats - 1, -1, -1)  # rows may leave, or change places, as ever
        decoder.keep(order)
        logits = [logits[0][order], *(decoder.step(later[:, t][order]) for t in range(4))]
        found[name] = torch.stack(logits, dim=1)
    torch.testing.assert_close(found["shared"], found["apart"], atol=2e-4, rtol=1e-4)
    plain = model(input_ids=torch.tensor([rows[1]])).logits[0, -1]
    torch.testing.assert_close(found["shared"][-1 - repeats, 0], plain, atol=2e-4, rtol=1e-4)


def test_where_prompts_begin_to_differ():
    shared = decoder_module.shared_beginning
    head = list(range(3, 23))
    assert shared(*pad_left([[*head, 1], [*head, 2, 3]], 0)) == 20
    assert shared(*pad_left([[*head, 1], head], 0)) == 19  # one token of each is left over
    assert shared(*pad_left([head, head], 0)) == 19
    assert shared(*pad_left([head], 0)) == 0  # nobody to share with
    assert shared(*pad_left([[9, *head], head], 0)) == 0
    assert shared(*pad_left([head[:8], head[:8]], 0)) == 0  # too short to pay
