"""Scoring tokens: the same numbers as the plain full computation, whatever the padding."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Categorical

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import HIDDEN, llama, naive_logps, save_base, shake, token_rows

from rlhf_lite.data.collate import pad_left, pad_right
from rlhf_lite.errors import PhaseError
from rlhf_lite.models import policy as policy_module
from rlhf_lite.models.adapters import adapter_parameters, add_adapter, lora_config, using_adapter
from rlhf_lite.models.policy import (
    PolicyScorer,
    ValueHead,
    load_policy,
    pick_dtype,
    resolve_precision,
)
from rlhf_lite.models.runtime import has_bfloat16

ROWS = token_rows([9, 4, 2, 7])


def adapted():
    model = llama()
    shape = lora_config(model, rank=4, alpha=8.0, dropout=0.0, top_layers=2)
    peft_model = add_adapter(model, shape, "policy", seed=0)
    shake(peft_model, "policy")
    return peft_model.eval()


def all_but_first(mask: torch.Tensor) -> torch.Tensor:
    """Every token that has a predecessor in its row."""
    wanted = mask.clone()
    wanted[:, 0] = False
    wanted[:, 1:] &= mask[:, :-1]
    return wanted


@pytest.mark.parametrize("pad", [pad_left, pad_right])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logps_and_gradients_equal_the_naive_computation(pad, temperature):
    model = adapted()
    scorer = PolicyScorer(model, top_layers=2)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ids, mask = pad(ROWS, 0)
    wanted = all_but_first(mask)
    logps = scorer.score(ids, mask, wanted, temperature=temperature).logps
    expected = torch.cat(naive_logps(model, ROWS, temperature=temperature))
    torch.testing.assert_close(logps[wanted], expected, atol=1e-5, rtol=1e-5)
    assert (logps[~wanted] == 0).all()
    weights = torch.randn(len(expected), generator=torch.Generator().manual_seed(4))
    ours = torch.autograd.grad((logps[wanted] * weights).sum(), parameters)
    theirs = torch.autograd.grad((expected * weights).sum(), parameters)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_only_what_is_wanted_is_scored_and_more_padding_changes_nothing():
    model = adapted()
    scorer = PolicyScorer(model, top_layers=2, value_head=ValueHead(HIDDEN))
    torch.nn.init.normal_(scorer.value_head.linear.weight)
    ids, mask = pad_right(ROWS, 0)
    wanted = all_but_first(mask)
    wanted[0] = False
    wanted[1, 2] = False
    narrow = scorer.score(ids, mask, wanted, with_entropy=True)
    assert (narrow.logps[~wanted] == 0).all() and (narrow.logps[wanted] < 0).all()
    assert (narrow.values[~wanted] == 0).all() and (narrow.entropies[~wanted] == 0).all()
    left, right = 3, 2
    wide = [torch.nn.functional.pad(x, (left, right)) for x in (ids, mask, wanted)]
    wide[0] = wide[0].masked_fill(~wide[1], 33)
    padded = scorer.score(*wide, with_entropy=True)
    for name in ("logps", "values", "entropies"):
        cropped = getattr(padded, name)[:, left:-right]
        torch.testing.assert_close(cropped, getattr(narrow, name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_entropies_belong_to_the_state_before_the_token(temperature):
    model = adapted()
    head = ValueHead(HIDDEN)
    torch.nn.init.normal_(head.linear.weight)
    scorer = PolicyScorer(model, top_layers=2, value_head=head)
    row = ROWS[0]
    ids, mask = pad_left([row, ROWS[1]], 0)
    wanted = all_but_first(mask)
    scores = scorer.score(ids, mask, wanted, temperature=temperature, with_entropy=True)
    body = model.get_base_model().model
    states = body(input_ids=torch.tensor([row])).last_hidden_state[0]
    expected = states @ head.linear.weight[0] + head.linear.bias
    torch.testing.assert_close(scores.values[0, 1:], expected[:-1], atol=1e-4, rtol=1e-4)
    logits = model(input_ids=torch.tensor([row])).logits[0, :-1] / temperature
    uncertainty = Categorical(logits=logits).entropy()
    torch.testing.assert_close(scores.entropies[0, 1:], uncertainty, atol=1e-4, rtol=1e-4)
    assert not scores.entropies.requires_grad and scores.values.requires_grad


def test_without_head_or_request_there_are_no_values_or_entropies():
    ids, mask = pad_right(ROWS, 0)
    scores = PolicyScorer(adapted(), top_layers=2).score(ids, mask, all_but_first(mask))
    assert scores.values is None and scores.entropies is None


def test_the_first_token_has_no_probability():
    scorer = PolicyScorer(adapted(), top_layers=2)
    ids, mask = pad_right(ROWS, 0)
    with pytest.raises(ValueError, match="first token"):
        scorer.score(ids, mask, mask)


def test_nothing_wanted_gives_zeros():
    scorer = PolicyScorer(adapted(), top_layers=2)
    ids, mask = pad_right(ROWS, 0)
    assert (scorer.score(ids, mask, torch.zeros_like(mask)).logps == 0).all()


def test_every_parameter_is_registered_once():
    model = adapted()
    scorer = PolicyScorer(model, top_layers=2, value_head=ValueHead(HIDDEN))
    trainable = [p for p in scorer.parameters() if p.requires_grad]
    assert len(trainable) == len({id(p) for p in trainable})
    assert len(trainable) == sum(p.requires_grad for p in model.parameters()) + 2
    assert len(list(scorer.parameters())) == len(list(model.parameters())) + 2


def test_value_head_starts_at_zero_and_learns():
    head = ValueHead(HIDDEN)
    hidden = torch.randn(2, 3, HIDDEN, dtype=torch.bfloat16)
    values = head(hidden)
    assert values.shape == (2, 3) and values.dtype == torch.float32
    assert (values == 0).all()
    values.sum().backward()
    torch.testing.assert_close(head.linear.weight.grad[0], hidden.float().sum((0, 1)))


def test_load_policy(tmp_path):
    save_base(tmp_path)
    model, tokenizer, name = load_policy(str(tmp_path), precision="fp32")
    assert name == str(tmp_path) and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert tokenizer.pad_token_id == tokenizer.eos_token_id  # it had none
    assert tokenizer.decode(tokenizer("naïve — text")["input_ids"]) == "naïve — text"
    assert next(model.parameters()).dtype == torch.float32
    half = load_policy(str(tmp_path), precision="bf16").model
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(PhaseError, match=r"nowhere is not there; a model is a folder"):
        load_policy(str(tmp_path / "nowhere"))
    with pytest.raises(PhaseError, match=r"cannot be loaded as a model \("):
        load_policy(str(tmp_path))


def test_pick_dtype(monkeypatch):
    assert pick_dtype("fp32") == torch.float32
    assert pick_dtype("bf16") == torch.bfloat16
    for there, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(policy_module, "has_bfloat16", lambda there=there: there)
        assert pick_dtype("auto") == expected
        assert resolve_precision("auto") == ("bf16" if there else "fp32")
    assert (resolve_precision("fp32"), resolve_precision("bf16")) == ("fp32", "bf16")
    with pytest.raises(ValueError, match="auto, fp32 or bf16, got 'int8'"):
        pick_dtype("int8")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True, "avx512_bf16": False}, True),
     ({"architecture": "aarch64", "bf16": True}, True), ({"avx512_f": True, "avx512_bf16": False}, False)],
)
def test_auto_is_what_the_processor_has(monkeypatch, flags, expected):
    """The clock has no say: a busy machine computes as an idle one does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert has_bfloat16() == expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_bfloat16()  # as on macOS: nothing in torch would use the instructions


def test_auto_asks_the_gpu_where_there_is_one(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.append(how) or False)
    assert not has_bfloat16() and asked == [{"including_emulation": False}]


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="the kernel's own list is Linux's")
def test_an_older_torch_and_the_kernel_say_the_same(monkeypatch):
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch cannot be asked")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = has_bfloat16()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert has_bfloat16() == told


def with_critic(value_head=None, **changes):
    """A policy adapter that is being trained and a critic with an adapter of its own."""
    model = adapted()
    shape = lora_config(model.get_base_model(), rank=4, alpha=8.0, dropout=0.0, top_layers=2)
    add_adapter(model, shape, "critic", seed=5)
    shake(model, "critic", seed=6)
    head = ValueHead(HIDDEN) if value_head is None else value_head
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(1))
    return PolicyScorer(model, top_layers=2, value_head=head, **changes)


def of(scorer, name: str) -> list[torch.Tensor]:
    return adapter_parameters(scorer.model, name)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_critic_of_its_own_reads_its_adapters_states(checkpointing):
    scorer, shared = with_critic(values_from="critic"), with_critic()
    scorer.body.checkpoint_top(checkpointing)
    ids, mask = pad_left(ROWS, 0)
    wanted = all_but_first(mask)
    scores = scorer.score(ids, mask, wanted)
    torch.testing.assert_close(scores.logps, shared.score(ids, mask, wanted).logps)
    with using_adapter(shared.model, "critic"):
        expected = shared.score(ids, mask, wanted).values
        torch.testing.assert_close(scores.values, expected)
        inputs = [*of(shared, "critic"), shared.value_head.linear.weight]
        theirs = torch.autograd.grad(expected.square().sum(), inputs)
    policy, critic = of(scorer, "policy"), of(scorer, "critic")
    inputs = [*policy, *critic, scorer.value_head.linear.weight]
    ours = torch.autograd.grad(scores.values.square().sum(), inputs, allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in ours[: len(policy)])  # the value loss leaves the policy alone
    for mine, other in zip(ours[len(policy) :], theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    back = torch.autograd.grad(scores.logps.sum(), [*policy, *critic], allow_unused=True)
    assert [g is None for g in back] == [False] * len(policy) + [True] * len(critic)
    assert scorer.model.active_adapter == "policy"
    assert all(p.requires_grad for p in inputs)


def test_a_critic_of_its_own_is_registered_once_and_checked():
    scorer = with_critic(values_from="critic")
    trainable = {id(p) for p in scorer.parameters() if p.requires_grad}
    wanted = {id(p) for p in [*of(scorer, "policy"), *of(scorer, "critic"), *scorer.value_head.parameters()]}
    assert trainable == wanted and len(wanted) == 2 * 28 + 2  # A, B of 7 layers in 2 blocks; the head
    with pytest.raises(ValueError, match=r"no adapter 'other'; there are \['critic', 'policy'\]"):
        with_critic(values_from="other")
    with pytest.raises(ValueError, match="values_from='policy' needs a value_head"):
        PolicyScorer(adapted(), top_layers=2, values_from="policy")
    with pytest.raises(ValueError, match="no adapter 'x'"):
        PolicyScorer(llama(), top_layers=2, value_head=ValueHead(HIDDEN), values_from="x")


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_checkpointing_gives_the_same_loss_and_gradient(dropout):
    model = llama()
    shape = lora_config(model, rank=4, alpha=8.0, dropout=dropout, top_layers=2)
    model = add_adapter(model, shape, "policy", seed=0)
    shake(model, "policy")
    scorer = PolicyScorer(model.train(), top_layers=2, value_head=ValueHead(HIDDEN))
    torch.nn.init.normal_(scorer.value_head.linear.weight, generator=torch.Generator().manual_seed(1))
    parameters = [p for p in scorer.parameters() if p.requires_grad]
    ids, mask = pad_left(ROWS, 0)
    hidden, wanted = scorer.body.trunk(ids, mask), all_but_first(mask)
    found = []
    for on in (False, True, False):
        scorer.body.checkpoint_top(on)
        torch.manual_seed(3)
        scores = scorer(hidden, ids, mask, wanted)
        loss = scores.logps.sum() + scores.values.square().sum()
        found.append((loss, torch.autograd.grad(loss, parameters)))
    for loss, gradients in found[1:]:
        assert torch.equal(loss, found[0][0])
        assert all(map(torch.equal, gradients, found[0][1]))
