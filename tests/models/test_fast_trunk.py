"""The frozen trunk is read in the arrangement for CPUs, and never with weights that are gone."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import gpt2, llama, qwen2, shake, token_rows

from rlhf_lite.data.collate import pad_left, pad_right
from rlhf_lite.models.adapters import add_adapter, lora_config, using_adapter
from rlhf_lite.models.trunk import positions, split_body

ROWS = token_rows([6, 1, 3, 5])


def own(body, ids, mask):
    """The lower half's states by the model's own forward pass."""
    return body.lower(
        input_ids=ids, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False
    ).last_hidden_state


@pytest.mark.parametrize("pad", [pad_left, pad_right])
@pytest.mark.parametrize("make", [llama, qwen2])
def test_the_fast_trunk_gives_what_the_model_gives(make, pad):
    body = split_body(make().model, 1)
    ids, mask = pad(ROWS, 0)
    assert body._reader() is not None
    got = body.trunk(ids, mask)
    torch.testing.assert_close(got[mask], own(body, ids, mask)[mask], atol=1e-4, rtol=1e-4)
    assert not got.is_inference()  # the top's backward pass keeps them
    assert (got[~mask] == 0).all()


@pytest.mark.parametrize("make", [llama, qwen2])
def test_in_bfloat16_it_is_as_near_to_the_truth_as_the_model_is(make):
    model = make().bfloat16()
    body, exact = split_body(model.model, 1), split_body(copy.deepcopy(model).float().model, 1)
    ids, mask = pad_right(ROWS, 0)
    truth = own(exact, ids, mask)[mask]
    got, theirs = ((x[mask].float() - truth).norm() for x in (body.trunk(ids, mask), own(body, ids, mask)))
    assert body._reader() is not None
    assert got < 1.5 * theirs < 0.1 * truth.norm()


@pytest.mark.parametrize("change", ["in place", "data"])
def test_changed_weights_are_noticed(change):
    body = split_body(llama().model, 1)
    ids, mask = pad_right(ROWS, 0)
    before = body.trunk(ids, mask)
    weight = body.lower.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        if change == "in place":
            weight.mul_(2.0)
        else:
            weight.data = 2.0 * weight.data
    after = body.trunk(ids, mask)
    assert not torch.allclose(before[mask], after[mask])
    torch.testing.assert_close(after[mask], own(body, ids, mask)[mask], atol=1e-4, rtol=1e-4)


def test_a_trunk_with_adapters_is_read_by_the_model_itself():
    model = llama()
    body = split_body(model.model, 1)
    ids, mask = pad_right(ROWS, 0)
    bare = body.trunk(ids, mask)
    shape = lora_config(model, rank=4, alpha=8.0, dropout=0.0, top_layers=None)
    adapted = add_adapter(model, shape, "policy", seed=0).eval()
    shake(adapted, "policy")
    with torch.no_grad():
        assert not torch.allclose(body.trunk(ids, mask)[mask], bare[mask])
        with using_adapter(adapted, None):
            torch.testing.assert_close(body.trunk(ids, mask)[mask], bare[mask], atol=1e-4, rtol=1e-4)


def test_other_architectures_take_their_own_way():
    body = split_body(gpt2().transformer, 1)
    ids, mask = pad_right(ROWS, 0)
    assert body._reader() is None
    assert body.trunk(ids, mask).shape[:2] == ids.shape
