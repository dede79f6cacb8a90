"""The two halves of a body together are the body."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import HIDDEN, LAYERS, family, llama, qwen2, token_rows

from rlhf_lite.data.collate import pad_left, pad_right
from rlhf_lite.models.trunk import positions, split_body

ROWS = token_rows([9, 4, 1, 7])


def whole_states(body, rows):
    """Last hidden states row by row, without padding."""
    return [body(input_ids=torch.tensor([row])).last_hidden_state[0] for row in rows]


@pytest.mark.parametrize("pad", [pad_left, pad_right])
@pytest.mark.parametrize("top_layers", [1, 2, 3, 4, None])
def test_halves_equal_the_unpadded_whole(pad, top_layers):
    body = llama().base_model
    split = split_body(body, top_layers)
    ids, mask = pad(ROWS, 0)
    states = split.top(split.trunk(ids, mask), mask)
    assert split.depth == LAYERS - (top_layers or LAYERS)
    for row, keep, expected in zip(states, mask, whole_states(body, ROWS), strict=True):
        torch.testing.assert_close(row[keep], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("top_layers", [1, 2, 3])
def test_layers_of_different_kinds_keep_their_kind(top_layers):
    # Layers 0 and 1 see everything, layers 2 and 3 the last three tokens.
    body = qwen2(use_sliding_window=True, sliding_window=3, max_window_layers=2).base_model
    assert body.config.layer_types == ["full_attention"] * 2 + ["sliding_attention"] * 2
    split = split_body(body, top_layers)
    ids, mask = pad_left(ROWS, 0)
    states = split.top(split.trunk(ids, mask), mask)
    for row, keep, expected in zip(states, mask, whole_states(body, ROWS), strict=True):
        torch.testing.assert_close(row[keep], expected, atol=1e-5, rtol=1e-5)


def test_an_upper_half_that_is_not_the_whole_matters():
    # If halves overlapped or were skipped, this test would have nothing to compare: the trunk must differ.
    split = split_body(llama().base_model, 2)
    ids, mask = pad_right(ROWS, 0)
    hidden = split.trunk(ids, mask)
    assert not torch.allclose(hidden, split.lower.embed_tokens(ids), atol=0.1)
    assert not torch.allclose(hidden, split.top(hidden, mask), atol=0.1)


def test_what_padding_holds_changes_nothing():
    split = split_body(llama().base_model, 2)
    ids, mask = pad_left(ROWS, 0)
    other = ids.masked_fill(~mask, 17)
    states, again = (split.top(split.trunk(x, mask), mask) for x in (ids, other))
    torch.testing.assert_close(states[mask], again[mask], atol=1e-5, rtol=1e-5)


def test_weights_are_shared_not_copied():
    body = llama().base_model
    split = split_body(body, 1)
    assert {id(p) for part in (split.lower, split.upper) for p in part.parameters()} == {
        id(p) for p in body.parameters()
    }
    assert len(body.layers) == LAYERS and not isinstance(body.norm, torch.nn.Identity)


def test_gradients_reach_the_top_and_nothing_below():
    body = llama().base_model.requires_grad_(True)
    split = split_body(body, 2)
    ids, mask = pad_right(ROWS, 0)
    hidden = split.trunk(ids, mask)
    assert not hidden.requires_grad
    split.top(hidden, mask).square().sum().backward()
    reached = [layer.self_attn.q_proj.weight.grad is not None for layer in body.layers]
    assert reached == [False, False, True, True]
    assert body.norm.weight.grad is not None and body.embed_tokens.weight.grad is None


def test_positions_count_real_tokens():
    mask = torch.tensor([[False, False, True, True, False], [True, True, True, False, False]])
    assert positions(mask)[0, 2:4].tolist() == [0, 1]
    assert positions(mask)[1, :3].tolist() == [0, 1, 2]
    assert (positions(mask) >= 0).all()


@pytest.mark.parametrize("wrong", [0, -1, 5])
def test_impossible_cuts_are_errors(wrong):
    with pytest.raises(ValueError, match=rf"between 1 and 4.*{wrong}"):
        split_body(llama().base_model, wrong)


FAMILIES = [
    "cohere", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "hyperclovax", "llama",
    "mistral", "phi", "phi3", "qwen2", "qwen3",
]  # fmt: skip


@pytest.mark.parametrize("kind", FAMILIES)
def test_halves_of_every_family_equal_the_whole_in_value_and_gradient(kind):
    """Also where the body scales its embeddings (Granite) or adds positions to them (GPT-2): once."""
    body = family(kind).base_model.requires_grad_(True)
    ids, mask = pad_left(ROWS, 0)
    weights = torch.randn(9, HIDDEN, generator=torch.Generator().manual_seed(3))
    expected = whole_states(body, ROWS)
    sum((states * weights[: len(states)]).sum() for states in expected).backward()
    for top_layers in (1, 3, None):
        split = split_body(body, top_layers)
        states = split.top(split.trunk(ids, mask), mask)
        for row, keep, wanted in zip(states, mask, expected, strict=True):
            torch.testing.assert_close(row[keep], wanted, atol=1e-5, rtol=1e-5)
        parameters = dict(split.upper.named_parameters())
        kept = [row[keep] for row, keep in zip(states, mask, strict=True)]
        loss = sum((row * weights[: len(row)]).sum() for row in kept)
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True):
            if name.split(".")[0] not in BELOW:
                torch.testing.assert_close(gradient, parameter.grad, atol=1e-3, rtol=1e-3, msg=name)


BELOW = {"embed_tokens", "embed_in", "wte", "wpe"}  # below the layers: no gradient from the top


@pytest.mark.parametrize(
    ("kind", "why"), [("recurrent_gemma", "no norm"), ("falcon_h1", "cannot be split")]
)
def test_other_bodies_are_refused(kind, why):
    with pytest.raises(ValueError, match=why):
        split_body(family(kind).base_model, 2)


def test_a_body_that_does_more_than_run_its_layers_is_refused():
    class Odd(type(llama().base_model)):
        def forward(self, *args, **options):
            found = super().forward(*args, **options)
            found.last_hidden_state = found.last_hidden_state * 1.5
            return found

    body = llama().base_model
    body.__class__ = Odd
    body.config.model_type = "odd"
    body.train()
    with pytest.raises(ValueError, match="Odd cannot be split"):
        split_body(body, 2)
    assert all(module.training for module in body.modules())


def test_the_upper_half_is_used_through_top_only():
    split = split_body(llama().base_model, 2)
    with pytest.raises(RuntimeError, match=r"SplitBody\.top"):
        split.upper(inputs_embeds=torch.zeros(1, 2, HIDDEN))


@pytest.mark.parametrize("top_layers", [2, None])
@pytest.mark.parametrize("training", [True, False])
def test_checkpointing_changes_memory_and_no_number(top_layers, training):
    body = qwen2(use_sliding_window=True, sliding_window=3, max_window_layers=3).base_model
    body.requires_grad_(True).train(training)
    split = split_body(body, top_layers)
    ids, mask = pad_left(ROWS, 0)
    hidden = split.trunk(ids, mask)
    parameters = [p for layer in body.layers[split.depth :] for p in layer.parameters()]

    def run():
        kept = []

        def keep(tensor):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            states = split.top(hidden, mask)
        loss = states[mask].square().sum()
        return loss, torch.autograd.grad(loss, parameters), sum(kept)

    loss, gradients, kept = run()
    split.checkpoint_top()
    split.checkpoint_top()  # twice is once
    again, same, less = run()
    assert torch.equal(again, loss) and all(map(torch.equal, same, gradients))
    assert less < kept / 3
    with torch.no_grad():
        assert torch.equal(split.top(hidden, mask)[mask].square().sum(), loss)
    assert all(type(layer).__name__ == "Qwen2DecoderLayer" for layer in body.layers)
    split.checkpoint_top(False)
    assert run()[2] == kept
