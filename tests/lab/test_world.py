"""Worlds: the enumeration, rewards by hand, probabilities that sum to one, one seed one world."""

from __future__ import annotations

import itertools

import pytest
import torch

from rlhf_lite.lab import REWARDS, World, all_sequences, exact_kl, make_world
from rlhf_lite.lab.rewards import deceptive, dense, length, order, sparse, table, trap

GENERATOR = torch.Generator()
# Two prompts with different tastes over four tokens: favourite, second, third.
ORDERS = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])


def test_sequences_are_every_word_in_alphabetical_order() -> None:
    got = all_sequences(3, 4)
    assert got.tolist() == [list(word) for word in itertools.product(range(3), repeat=4)]
    assert all_sequences(8, 4).shape == (4096, 4)


@pytest.mark.parametrize(
    ("builder", "words", "expected"),
    [
        (dense, ["0010", "3333"], [[0.75, 0.0], [0.0, 1.0]]),
        # 0<1<2<3 has three pairs in order; 3,1 / 1,2 / 2,0 has one; for the other prompt it is reversed.
        (order, ["0123", "3120"], [[1.0, 1 / 3], [0.0, 2 / 3]]),
        (sparse, ["0231", "0210", "3002", "1231"], [[1, 0, 0, 0], [0, 0, 1, 0]]),
        # The first prompt's bait is 2: it spoils 0..1. The second prompt's bait is 1.
        (deceptive, ["0331", "0231", "2222", "3002"], [[1, 0.15, 0.6, 0.15], [0.15, 0.15, 0, 1]]),
        (trap, ["0231", "0230", "2000", "1111", "3002"], [[1, 0, 0.4, 0, 0], [0, 0, 0, 0.4, 1]]),
        (length, ["1230", "0123", "1111"], [[0.75, 0.0, 1.0], [0.5, 0.75, 1.0]]),
    ],
)  # fmt: skip
def test_rewards_by_hand(builder, words, expected) -> None:
    sequences = torch.tensor([[int(letter) for letter in word] for word in words])
    got = builder(sequences, ORDERS, GENERATOR)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_the_table_is_standard_normal_noise() -> None:
    got = table(all_sequences(8, 4), ORDERS, torch.Generator().manual_seed(0))
    assert got.shape == (2, 4096)
    assert abs(got.mean().item()) < 0.05 and got.std().item() == pytest.approx(1.0, abs=0.05)
    assert abs(torch.corrcoef(got)[0, 1].item()) < 0.05


@pytest.mark.parametrize("name", REWARDS)
def test_every_world_is_a_proper_problem(name: str) -> None:
    world = make_world(name)
    assert (len(world.prompts), world.rewards.shape) == (4, (4, 4096))
    assert {len(prompt) for prompt in world.prompts} == {1, 2, 3}
    assert all(0 <= token < 8 for prompt in world.prompts for token in prompt)
    torch.testing.assert_close(world.reference.sum(-1), torch.ones(4, dtype=torch.float64))
    assert bool((world.reference > 0).all())
    if name != "table":
        assert world.rewards.min().item() == 0.0 and world.rewards.max().item() == 1.0
    # The prompts differ in what they want: one prompt's best policy is bad for another.
    crossed = world.evaluate(world.optimum.roll(1, 0)).fraction
    assert crossed < 0.8
    start, end = world.evaluate(world.reference), world.evaluate(world.optimum)
    assert start.fraction == pytest.approx(0.0, abs=1e-9) and start.kl_to_reference == pytest.approx(0.0)
    assert end.fraction == pytest.approx(1.0) and end.kl_to_optimum == pytest.approx(0.0, abs=1e-9)
    assert end.kl_to_reference > 0.5  # the optimum is far enough away to be worth finding
    assert start.objective == start.expected_reward == pytest.approx(start.reference_objective)


def test_the_same_seed_gives_the_same_world() -> None:
    first, again, other = make_world("table"), make_world("table"), make_world("table", seed=1)
    assert first.prompts == again.prompts
    assert torch.equal(first.reference, again.reference) and torch.equal(first.rewards, again.rewards)
    assert not torch.equal(first.reference, other.reference)
    assert not torch.equal(first.rewards, other.rewards)


def test_the_reference_is_a_markov_chain() -> None:
    """The next token depends on the last one and the prompt, and on nothing before."""
    world = make_world(tokens=4, length=3, prompts=2)
    joint = world.reference.unflatten(1, (4, 4, 4))
    given_two = joint / joint.sum(-1, keepdim=True)
    for first in range(1, 4):
        torch.testing.assert_close(given_two[:, first], given_two[:, 0])
    assert not torch.allclose(given_two[0], given_two[1])


def test_the_trap_is_one() -> None:
    """Under the reference the lure is worth more than the door; at the optimum nobody takes the lure."""
    world = make_world("trap")
    prize, lure = world.rewards == 1.0, world.rewards == 0.4
    for p in range(4):
        door = world.sequences[prize[p]][0, 0]
        behind = world.sequences[:, 0] == door
        value = world.reference[p][prize[p]].sum() / world.reference[p][behind].sum()
        assert value < 0.3, f"prompt {p}: the door is worth {value:.2f}, the lure 0.4"
    assert world.optimum[prize].sum() > 10 * world.optimum[lure].sum()


def test_index_and_reward_of() -> None:
    world = make_world("table", tokens=3, length=3, prompts=2)
    assert world.index(world.sequences).tolist() == list(range(27))
    got = world.reward_of(torch.tensor([1, 0]), torch.tensor([[0, 1, 2], [2, 2, 2]]))
    assert got.tolist() == [world.rewards[1, 5].item(), world.rewards[0, 26].item()]
    with pytest.raises(ValueError, match=r"must be \[B, 3\], got \(2, 2\)"):
        world.index(torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"0 ... 2, got \[0, 3\]"):
        world.index(torch.tensor([[0, 3, 0]]))


def test_another_reference_gives_another_optimum() -> None:
    world = make_world("dense", tokens=4, length=3, prompts=2)
    uniform = world.with_reference(torch.full_like(world.reference, 1 / 64))
    assert torch.equal(uniform.rewards, world.rewards)
    tilt = (world.rewards / world.beta).softmax(-1)
    torch.testing.assert_close(uniform.optimum, tilt)
    assert exact_kl(uniform.optimum, world.optimum).min() > 0.1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: make_world("nonsense"), "no world 'nonsense'; choose one of dense, order"),
        (lambda: make_world(tokens=2), "at least 3 tokens"),
        (lambda: make_world(prompts=9), "between 1 and tokens = 8, got 9"),
        (lambda: all_sequences(10, 9), "1,000,000,000 sequences"),
        (lambda: all_sequences(1, 3), "at least 2 tokens"),
        (lambda: make_world(beta=-0.1), "beta must be positive"),
        (lambda: make_world().with_reference(torch.ones(4, 4096)), "reference must sum to one"),
        (lambda: make_world().with_reference(torch.ones(1, 4)), r"\[P, N\] = \(4, 4096\), got \(1, 4\)"),
        (lambda: make_world().evaluate(torch.ones(4, 4096)), "must sum to one"),
    ],
)
def test_errors_name_the_thing(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_prompts_must_differ() -> None:
    probs = torch.full((2, 9), 1 / 9)
    with pytest.raises(ValueError, match="prompts must differ"):
        World("x", 3, 2, ((0,), (0,)), probs, probs, 1.0)
