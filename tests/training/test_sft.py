"""Supervised fine-tuning: the loss is that of the completion, however the batch is cut."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer, llama, shake, token_rows

from rlhf_lite.models.adapters import add_adapter, lora_config
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.training.sft import Example, collate_examples, completion_loss, encode_examples, train_sft
from rlhf_lite.training.step import Hooks, Resume

ACCELERATOR = Accelerator(cpu=True)
PROMPTS = token_rows([3, 1, 4, 2, 6, 2, 3, 5], seed=1)
COMPLETIONS = token_rows([5, 7, 1, 3, 2, 6, 4, 8], seed=2)
EXAMPLES = [Example(p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]


def scorer(dropout: float = 0.0) -> PolicyScorer:
    model = llama()
    shape = lora_config(model, rank=4, alpha=8.0, dropout=dropout, top_layers=2)
    return PolicyScorer(add_adapter(model, shape, "policy", seed=0), top_layers=2)


def train(policy: PolicyScorer, examples=EXAMPLES, *, save=None, resume=None, fail_at=None, **changes):
    lines: list[dict[str, float]] = []

    def on_step(step: int, metrics) -> None:
        assert step == (resume.step if resume else 0) + len(lines) + 1
        lines.append(dict(metrics))
        if step == fail_at:
            raise KeyboardInterrupt

    options = {
        "validation": [],
        "pad_token_id": 0,
        "steps": 4,
        "batch_size": 4,
        "accumulation": 1,
        "learning_rate": 0.01,
        "warmup_steps": 1,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "validate_every": 2,
        "seed": 0,
    }
    hooks = Hooks(on_step, save, 2)
    train_sft(policy, examples, accelerator=ACCELERATOR, hooks=hooks, resume=resume, **options | changes)
    return lines


def weights(policy: PolicyScorer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}


def cross_entropy(policy: PolicyScorer, examples) -> torch.Tensor:
    """The usual way: labels of -100 on the prompt, and transformers' own shift."""
    total, count = 0.0, 0
    for example in examples:
        ids = torch.tensor([example.prompt + example.completion])
        labels = ids.clone()
        labels[0, : len(example.prompt)] = -100
        total += policy.model(input_ids=ids, labels=labels).loss * len(example.completion)
        count += len(example.completion)
    return total / count


def test_loss_is_cross_entropy_on_the_completion():
    policy = scorer()
    with torch.no_grad():
        expected = cross_entropy(policy, EXAMPLES).item()
    for size in (3, 32):
        measured = completion_loss(policy, EXAMPLES, pad_token_id=0, batch_size=size)
        assert measured == pytest.approx(expected, rel=1e-5)
    first = train(policy, batch_size=8, steps=1)[0]
    assert first["loss/nats_per_token"] == pytest.approx(expected, rel=1e-5)


def test_one_step_is_the_step_of_that_gradient():
    policy = scorer()
    named = [(n, p) for n, p in policy.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(cross_entropy(policy, EXAMPLES), [p for _, p in named])
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    before = weights(policy)
    line = train(policy, batch_size=8, steps=1, warmup_steps=0, max_grad_norm=1e9)[0]
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
    for (name, parameter), gradient in zip(named, gradients, strict=True):
        clear = gradient.abs() > 1e-4  # where Adam's first step is lr * sign(gradient)
        moved = parameter.detach() - before[name]
        torch.testing.assert_close(moved[clear], -0.01 * gradient[clear].sign(), atol=2e-4, rtol=0)


def test_collate_marks_the_completion():
    ids, mask, wanted = collate_examples([Example([5, 6], [7]), Example([8], [9, 10, 11])], 0)
    assert ids.tolist() == [[5, 6, 7, 0], [8, 9, 10, 11]]
    assert mask.tolist() == [[True, True, True, False], [True] * 4]
    assert wanted.tolist() == [[False, False, True, False], [False, True, True, True]]


@pytest.mark.parametrize("accumulation", [2, 3, 8])
def test_accumulation_changes_nothing(accumulation):
    whole, parts = scorer(), scorer()
    first = train(whole, batch_size=8)
    second = train(parts, batch_size=8, accumulation=accumulation)
    for a, b in zip(first, second, strict=True):
        assert b == pytest.approx(a, rel=1e-4)
    expected = weights(whole)
    for name, weight in weights(parts).items():
        torch.testing.assert_close(weight, expected[name], atol=1e-4, rtol=1e-3)


def test_the_loss_falls_and_validation_is_measured_when_asked():
    policy = scorer()
    lines = train(policy, steps=30, batch_size=8, learning_rate=0.05, validation=EXAMPLES, validate_every=12)
    losses = [line["loss/nats_per_token"] for line in lines]
    assert losses[-1] < 0.5 * losses[0]
    measured = {i + 1: line["val_loss/nats_per_token"] for i, line in enumerate(lines) if len(line) > 3}
    assert sorted(measured) == [12, 24, 30]
    assert measured[30] == pytest.approx(completion_loss(policy, EXAMPLES, pad_token_id=0), rel=1e-5)
    assert lines[0]["learning_rate"] == pytest.approx(0.05)


def resumed(dropout: float) -> tuple[list, list, PolicyScorer, PolicyScorer]:
    expected_policy = scorer(dropout)
    torch.manual_seed(0)
    expected = train(expected_policy, steps=6)
    saved: dict[int, dict[str, torch.Tensor]] = {}

    def save(step, tensors, numbers) -> None:
        saved[step] = {name: tensor.clone() for name, tensor in tensors.items()}

    with pytest.raises(KeyboardInterrupt):
        torch.manual_seed(0)
        train(scorer(dropout), steps=6, save=save, fail_at=5)
    assert sorted(saved) == [2, 4]
    policy = scorer(dropout)
    torch.manual_seed(123)  # another process
    return expected, train(policy, steps=6, resume=Resume(4, saved[4], {})), expected_policy, policy


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_interrupted_run_ends_where_the_other_ends(dropout):
    expected, got, expected_policy, policy = resumed(dropout)
    assert got == expected[4:]
    wanted = weights(expected_policy)
    for name, weight in weights(policy).items():
        assert torch.equal(weight, wanted[name]), name


def test_validation_is_measured_without_dropout():
    policy = scorer(dropout=0.5)
    shake(policy.model, "policy")
    first, again = (completion_loss(policy, EXAMPLES, pad_token_id=0) for _ in range(2))
    assert first == again
    with torch.no_grad():
        policy.model.eval()
        assert first == pytest.approx(cross_entropy(policy, EXAMPLES).item(), rel=1e-5)


def test_encode_examples():
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token_id
    texts = [("ab", " cd"), ("", "x"), ("abcdef", "gh"), ("abcdefgh", "z"), ("abc", "defg")]
    found = encode_examples(tokenizer, texts, max_tokens=7)
    decoded = [(tokenizer.decode(e.prompt), tokenizer.decode(e.completion)) for e in found]
    # The second has no prompt, the fourth no room; the third and the last are cut, and do not end there.
    assert decoded == [("ab", " cd<end>"), ("abcdef", "g"), ("abc", "defg")]
    assert [e.completion[-1] == end for e in found] == [True, False, False]
    assert encode_examples(tokenizer, texts[:1], max_tokens=7, end=False)[0].completion[-1] != end
