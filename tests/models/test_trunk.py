"""The two halves of a body together are the body."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import LAYERS, gpt2, llama, qwen2, token_rows

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


def test_other_bodies_are_refused():
    with pytest.raises(ValueError, match="GPT2Model has no"):
        split_body(gpt2().base_model, 1)


def test_bodies_that_scale_their_input_are_right_or_refused():
    """Gemma multiplies its embeddings inside the body: halves that both did so would be silently wrong."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GemmaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    torch.manual_seed(0)
    body = transformers.GemmaForCausalLM(config).eval().requires_grad_(False).base_model
    try:
        split = split_body(body, 2)
    except ValueError:
        return
    ids, mask = pad_right(ROWS, 0)
    states = split.top(split.trunk(ids, mask), mask)
    for row, keep, expected in zip(states, mask, whole_states(body, ROWS), strict=True):
        torch.testing.assert_close(row[keep], expected, atol=1e-5, rtol=1e-5)
