"""Policies: probabilities by brute force, gradient by finite differences, and the way to the optimum."""

from __future__ import annotations

import pytest
import torch

from rlhf_lite.lab import (
    TabularPolicy,
    TransformerPolicy,
    chain,
    exact_gradient,
    exact_kl,
    make_world,
    next_token_logps,
    objective,
    pretrain,
    pretrained_world,
    sequence_log_probs,
    sequence_probs,
    tiny_transformer,
)

SMALL = make_world("order", tokens=3, length=3, prompts=2, seed=1)


def shaken(policy: torch.nn.Module, *, scale: float = 0.5) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * scale
    return policy


def test_chain_by_hand() -> None:
    first = torch.tensor([[[0.25, 0.75]]]).log()
    second = torch.tensor([[[0.5, 0.5], [0.1, 0.9]]]).log()
    assert chain([first, second]).exp()[0].tolist() == pytest.approx([0.125, 0.125, 0.075, 0.675])
    with pytest.raises(ValueError, match="step 1 must have 2 prefixes"):
        chain([first, first])


def test_next_token_logps_are_the_inverse() -> None:
    steps = next_token_logps(SMALL.optimum, tokens=3, length=3)
    assert [tuple(step.shape) for step in steps] == [(2, 1, 3), (2, 3, 3), (2, 9, 3)]
    for step in steps:
        torch.testing.assert_close(step.exp().sum(-1), torch.ones(step.shape[:2], dtype=torch.float64))
    torch.testing.assert_close(chain(steps).exp(), SMALL.optimum)
    joint = SMALL.optimum.unflatten(1, (3, 3, 3))
    torch.testing.assert_close(steps[0].exp()[:, 0], joint.sum((2, 3)))
    with pytest.raises(ValueError, match="must be positive"):
        next_token_logps(torch.eye(2, 27), tokens=3, length=3)


def test_the_table_starts_at_the_reference_and_is_a_distribution_everywhere() -> None:
    policy = TabularPolicy(SMALL)
    torch.testing.assert_close(policy.log_probs().exp(), SMALL.reference)
    assert sum(p.numel() for p in policy.parameters()) == 2 * (3 + 9 + 27)
    shaken(policy)
    probs = policy.log_probs().exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, dtype=torch.float64))
    assert bool((exact_kl(probs, SMALL.reference) > 0.01).all())


def test_the_transformers_distribution_equals_brute_force() -> None:
    """One sequence at a time, the whole text, no cache and no shared prefixes."""
    model = shaken(tiny_transformer(SMALL, hidden=16, heads=2), scale=0.1)
    got = sequence_log_probs(model, SMALL)
    for p, prompt in enumerate(SMALL.prompts):
        for n, sequence in enumerate(SMALL.sequences.tolist()):
            ids = torch.tensor([[*prompt, *sequence]])
            with torch.no_grad():
                logps = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
            expected = logps[torch.arange(3), torch.tensor(sequence)].sum()
            assert got[p, n].item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(2, dtype=torch.float64))
    # It reads its prompt and its own words.
    assert exact_kl(got[:1].exp(), got[1:].exp()).item() > 1e-3


@pytest.mark.parametrize("kind", ["table", "transformer"])
def test_the_exact_gradient_equals_finite_differences(kind: str) -> None:
    if kind == "table":
        policy, step, tolerance = shaken(TabularPolicy(SMALL)), 1e-5, 1e-6
    else:
        model = tiny_transformer(SMALL, hidden=8, heads=2, layers=1).double()
        policy, step = TransformerPolicy(shaken(model, scale=0.1), SMALL), 1e-3
        tolerance = 2e-3  # the norms of a Llama compute in float32, whatever its weights are
    gradient = exact_gradient(policy, SMALL)
    assert set(gradient) == {name for name, _ in policy.named_parameters()}
    generator = torch.Generator().manual_seed(1)

    def value() -> float:
        with torch.no_grad():
            probs = policy.log_probs().exp()
        return objective(probs, SMALL.reference, SMALL.rewards, beta=SMALL.beta).mean().item()

    checked = 0
    for name, parameter in policy.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        expected = (gradient[name] * direction).sum().item()
        ends = []
        for sign in (1, -1):
            parameter.data += sign * step * direction
            ends.append(value())
            parameter.data -= sign * step * direction
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(expected, abs=tolerance / 100, rel=tolerance), name
        checked += abs(expected) > 1e-4
    assert checked >= 2
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_the_gradient_is_zero_at_the_optimum_only() -> None:
    policy = TabularPolicy(SMALL)
    assert max(g.abs().max().item() for g in exact_gradient(policy, SMALL).values()) > 1e-3
    best = next_token_logps(SMALL.optimum, tokens=3, length=3)
    for parameter, step in zip(policy.logits, best, strict=True):
        parameter.data.copy_(step)
    assert max(g.abs().max().item() for g in exact_gradient(policy, SMALL).values()) < 1e-12


@pytest.mark.parametrize("name", ["dense", "sparse", "deceptive", "trap", "table"])
def test_exact_ascent_reaches_the_optimum(name: str) -> None:
    """Also where the reward deceives: with every sequence in view there is nothing to explore."""
    world = make_world(name, tokens=6, length=3, prompts=2)
    policy = TabularPolicy(world)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    fractions = []
    for _ in range(400):
        for name_, gradient in exact_gradient(policy, world).items():
            policy.get_parameter(name_).grad = -gradient
        optimizer.step()
        fractions.append(world.evaluate(policy.log_probs().exp().detach()).fraction)
    assert fractions[-1] > 0.999
    assert max(fractions) <= 1 + 1e-9


def test_pre_training_learns_the_corpus() -> None:
    """The cross-entropy of the corpus that it is trained on falls towards its own entropy."""
    model = tiny_transformer(SMALL, hidden=16, heads=2)
    before = exact_kl(SMALL.reference, sequence_probs(model, SMALL)).mean()
    pretrain(model, SMALL, steps=60, batch_size=64, learning_rate=1e-2)
    after = exact_kl(SMALL.reference, sequence_probs(model, SMALL)).mean()
    assert after < 0.2 * before
    assert after < 0.15


def test_a_pretrained_world_refers_to_the_network_itself() -> None:
    corpus = make_world("dense", tokens=3, length=2, prompts=2)
    state = torch.get_rng_state()
    model, world = pretrained_world(corpus, steps=10)
    assert torch.equal(torch.get_rng_state(), state), "the global random state is not ours to use"
    assert world.evaluate(sequence_probs(model, world)).fraction == pytest.approx(0.0, abs=1e-9)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not torch.equal(world.reference, corpus.reference)
    # Each call gives weights of the caller's own, all from the same training.
    shaken(model)
    again, same = pretrained_world(make_world("sparse", tokens=3, length=2, prompts=2), steps=10)
    assert not torch.equal(same.rewards, world.rewards)
    other, _ = pretrained_world(corpus, steps=10)
    assert torch.equal(sequence_probs(other, corpus), world.reference)
    assert not torch.equal(sequence_probs(model, corpus), world.reference)
    different, _ = pretrained_world(corpus, steps=10, seed=1)
    assert not torch.equal(sequence_probs(different, corpus), world.reference)
