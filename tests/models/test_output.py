"""Logits from hidden states: as the model computes them, or an error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import family, llama, naive_logps, save_base, shake, token_rows

from rlhf_lite.data.collate import pad_left
from rlhf_lite.models.adapters import add_adapter, lora_config
from rlhf_lite.models.output import check_output, final_logits, output_rule
from rlhf_lite.models.policy import PolicyScorer, load_policy

ROWS = token_rows([9, 4, 6])
FAMILIES = [
    "cohere", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "hyperclovax", "llama",
    "mistral", "phi3", "qwen2", "qwen3",
]  # fmt: skip


@pytest.mark.parametrize("kind", FAMILIES)
def test_scores_are_the_models_own_in_value_and_gradient(kind):
    model = family(kind)
    adapted = add_adapter(
        model, lora_config(model, rank=4, alpha=8.0, dropout=0.0, top_layers=2), "policy", seed=0
    )
    shake(adapted, "policy")
    check_output(adapted.eval())
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    ids, mask = pad_left(ROWS, 0)
    wanted = mask.clone()
    wanted[:, 0] = False
    wanted[:, 1:] &= mask[:, :-1]
    logps = PolicyScorer(adapted, top_layers=2).score(ids, mask, wanted, temperature=0.8).logps[wanted]
    expected = torch.cat(naive_logps(adapted, ROWS, temperature=0.8))
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(len(expected), generator=torch.Generator().manual_seed(4))
    ours = torch.autograd.grad((logps * weights).sum(), parameters)
    theirs = torch.autograd.grad((expected * weights).sum(), parameters)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_rules_by_hand():
    assert output_rule(family("gemma2").config) == (1.0, 5.0)  # 5 tanh(x / 5)
    assert output_rule(family("granite").config) == (0.25, None)  # divides by 4
    assert output_rule(family("cohere").config) == (0.25, None)  # multiplies by 1/4
    assert output_rule(family("hyperclovax").config) == (0.5, None)  # multiplies by 1/2
    assert output_rule(llama().config) == (1.0, None)


def test_the_cap_matters_and_logits_are_float32():
    model = family("gemma2").to(torch.bfloat16)
    states = torch.full((2, 32), 9.0, dtype=torch.bfloat16)
    logits = final_logits(model, states)
    raw = model.get_output_embeddings()(states).float()
    assert raw.abs().max() > 20 and logits.abs().max() <= 5.0 and logits.dtype == torch.float32
    torch.testing.assert_close(logits, 5 * torch.tanh(raw / 5))


class Odd(type(llama())):
    """Does something to its logits, or before its head, that no field of its configuration tells."""

    change = "logits"

    def forward(self, *args, **options):
        if self.change == "states":
            options.pop("labels", None)
            states = self.model(*args, **options).last_hidden_state
            found = super().forward(*args, **options)
            found.logits = self.lm_head(states / 2)
            return found
        found = super().forward(*args, **options)
        logits = found.logits
        found.logits = {"logits": 20 * torch.tanh(logits / 20), "width": logits[..., :-3]}[self.change]
        return found


@pytest.mark.parametrize("change", ["logits", "width", "states"])
def test_an_unknown_change_is_refused(change):
    model = llama()
    model.__class__ = Odd
    model.change = change
    model.config.model_type = "odd"
    model.train()
    with pytest.raises(ValueError, match=r"Odd changes its hidden states or logits"):
        check_output(model)
    assert all(module.training for module in model.modules())
    assert not model.lm_head._forward_hooks
    with pytest.raises(ValueError, match="Odd changes"):
        PolicyScorer(model, top_layers=2)
    model.__class__ = type(llama())
    check_output(model)


def test_loading_checks_the_output(tmp_path, monkeypatch):
    save_base(tmp_path)
    seen = []
    monkeypatch.setattr("rlhf_lite.models.policy.check_output", seen.append)
    model = load_policy(str(tmp_path), precision="fp32").model
    assert seen == [model]


@pytest.mark.parametrize("kind", ["rwkv", "mamba"])
def test_a_model_that_reads_otherwise_with_a_cache_is_refused(kind):
    with pytest.raises(ValueError, match=r"(predicts otherwise|cannot be sampled) .*key-value cache"):
        check_output(family(kind))


@pytest.mark.parametrize("kind", ["gemma", "gemma3_text", "gpt_neox", "phi"])
def test_families_that_are_tried_out_pass(kind):
    check_output(family(kind))
