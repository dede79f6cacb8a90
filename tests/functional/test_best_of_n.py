"""Best-of-n: its distribution and its estimator against brute force over every tuple and every pool."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lite.functional import best_of_n_estimate, best_of_n_kl_bound, best_of_n_probs


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def brute_force_probs(probs: list[float], rewards: list[float], n: int) -> list[float]:
    """Sum over every n-tuple of draws; the first draw with the highest reward wins."""
    best = [0.0] * len(probs)
    for draws in itertools.product(range(len(probs)), repeat=n):
        winner = max(draws, key=lambda y: rewards[y])  # max keeps the first of equals
        best[winner] += math.prod(probs[y] for y in draws)
    return best


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return torch.special.xlogy(p, p / q).sum().item()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("rewards", [(3.0, 1.0, 2.0, 0.0), (1.0, 5.0, 1.0, 5.0), (2.0, 2.0, 2.0, 2.0)])
def test_probabilities_equals_brute_force(n, rewards):
    probs = [0.4, 0.3, 0.2, 0.1]
    best = best_of_n_probs(t(*probs), t(*rewards), n)
    assert best.tolist() == pytest.approx(brute_force_probs(probs, list(rewards), n), abs=1e-12)


def test_ties_are_split_by_the_reference_not_by_the_index():
    # Two draws, all rewards equal: the winner is a plain sample.
    assert best_of_n_probs(t(0.9, 0.1), t(1, 1), 2).tolist() == pytest.approx([0.9, 0.1])


@given(
    weights=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    levels=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    n=st.integers(1, 4),
)
@settings(max_examples=25, deadline=None)
def test_probabilities_properties(weights, levels, n):
    probs = t(*weights) / sum(weights)
    rewards = t(*levels[: len(weights)])
    best = best_of_n_probs(probs, rewards, n)
    assert best.tolist() == pytest.approx(brute_force_probs(probs.tolist(), rewards.tolist(), n), abs=1e-12)
    assert best.sum().item() == pytest.approx(1.0)
    assert (best * rewards).sum() >= (probs * rewards).sum() - 1e-12
    assert kl(best, probs) <= best_of_n_kl_bound(n) + 1e-12
    torch.testing.assert_close(best_of_n_probs(probs, 3 * rewards - 7, n), best)  # only the order matters


def test_published_figures():
    # Reference .4/.3/.2/.1, the rarest answer is the best: the exact KL against the bound, with atoms
    probs, rewards = t(0.4, 0.3, 0.2, 0.1), t(0, 1, 2, 3)
    for n, exact, bound in ((16, 1.677, 1.835), (256, 2.303, 4.549)):
        assert kl(best_of_n_probs(probs, rewards, n), probs) == pytest.approx(exact, abs=5e-4)
        assert best_of_n_kl_bound(n) == pytest.approx(bound, abs=5e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 100, 10_000, 10**7])
def test_the_kl_never_exceeds_the_bound(n):
    generator = torch.Generator().manual_seed(n)
    for size in (2, 50, 3000):
        probs = torch.softmax(3 * torch.randn(size, generator=generator, dtype=torch.float64), 0)
        best = best_of_n_probs(probs, torch.randn(size, generator=generator), n)
        assert best.sum().item() == pytest.approx(1.0, abs=1e-9)
        assert bool((best >= 0).all())
        assert -1e-9 <= kl(best, probs) <= best_of_n_kl_bound(n) + 1e-9


def test_the_bound_is_reached_with_very_many_equally_likely_answers():
    size = 100_000
    best = best_of_n_probs(torch.full((size,), 1 / size).double(), torch.arange(size).double(), 8)
    assert kl(best, torch.full((size,), 1 / size).double()) == pytest.approx(best_of_n_kl_bound(8), abs=1e-3)
    assert best_of_n_kl_bound(8) == pytest.approx(math.log(8) - 7 / 8)
    assert best_of_n_kl_bound(1) == 0.0


def test_rare_and_impossible_answers():
    # The best answer has probability 1e-15: among a million it wins with probability 1e-9.
    best = best_of_n_probs(t(1 - 1e-15, 1e-15, 0.0), t(0, 1, 2), 10**6)
    assert best[1].item() == pytest.approx(1e-9, rel=0.2)  # 1 - 1e-15 itself is only good to a tenth of 1e-15
    assert best[2].item() == 0.0
    assert best_of_n_probs(t(0.0, 1.0), t(0, 1), 5).tolist() == [0.0, 1.0]
    assert best_of_n_probs(t(1.0, 0.0), t(0, 1), 5).tolist() == [1.0, 0.0]


def test_a_batch_of_prompts_is_one_row_each():
    probs = torch.softmax(torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)), -1)
    rewards = torch.randint(0, 3, (2, 3, 5), generator=torch.Generator().manual_seed(1)).float()
    best = best_of_n_probs(probs, rewards, 3)
    for i, j in itertools.product(range(2), range(3)):
        torch.testing.assert_close(best[i, j], best_of_n_probs(probs[i, j], rewards[i, j], 3))


# --- The estimator


def brute_estimate(scores: list[float], values: list[float], n: int) -> float:
    """Mean over all subsets of the pool; tied winners share."""
    totals = []
    for subset in itertools.combinations(range(len(scores)), n):
        best = max(scores[i] for i in subset)
        totals.append(statistics.mean(values[i] for i in subset if scores[i] == best))
    return statistics.mean(totals)


@given(
    pool=st.lists(st.tuples(st.integers(0, 3), st.integers(-9, 9)), min_size=1, max_size=6),
    n=st.integers(1, 6),
)
@settings(max_examples=40, deadline=None)
def test_estimate_equals_the_mean_over_subsets(pool, n):
    n = min(n, len(pool))
    scores, values = ([float(pair[i]) for pair in pool] for i in (0, 1))
    expected = brute_estimate(scores, values, n)
    assert best_of_n_estimate(t(*scores), t(*values), n=n).item() == pytest.approx(expected, abs=1e-9)
    own = best_of_n_estimate(t(*scores), n=n).item()
    assert own == pytest.approx(brute_estimate(scores, scores, n), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_estimate_is_unbiased(n):
    # Every pool of four samples from three answers, two of them tied, weighted by its probability
    probs, scores, values = [0.5, 0.2, 0.3], [1.0, 1.0, 2.0], [5.0, -1.0, 3.0]
    mean = 0.0
    for draws in itertools.product(range(3), repeat=4):
        weight = math.prod(probs[y] for y in draws)
        estimate = best_of_n_estimate(t(*(scores[y] for y in draws)), t(*(values[y] for y in draws)), n=n)
        mean += weight * estimate.item()
    exact = (best_of_n_probs(t(*probs), t(*scores), n) * t(*values)).sum().item()
    assert mean == pytest.approx(exact, abs=1e-12)


def test_estimate_by_hand():
    # Pairs of 1, 2, 3: the best are 2, 3, 3
    assert best_of_n_estimate(t(3, 1, 2), n=2).item() == pytest.approx(8 / 3)
    assert best_of_n_estimate(t(3, 1, 2), t(0, 9, 6), n=2).item() == pytest.approx(2.0)
    assert best_of_n_estimate(t(3, 1, 2), n=3).item() == pytest.approx(3.0)
    assert best_of_n_estimate(t(3, 1, 2), n=1).item() == pytest.approx(2.0)


def test_large_pools_keep_their_digits():
    scores = torch.arange(5000).double()
    # The mean of the maximum of n out of 0 ... M-1 is n (M + 1) / (n + 1) - 1.
    for n in (1, 2, 100, 1000, 4999, 5000):
        expected = n * 5001 / (n + 1) - 1
        assert best_of_n_estimate(scores, n=n).item() == pytest.approx(expected, rel=1e-7)


def test_wrong_input_is_an_error():
    for call in (
        lambda: best_of_n_kl_bound(0),
        lambda: best_of_n_probs(t(1), t(1), 0),
        lambda: best_of_n_estimate(t(1), n=0),
    ):
        with pytest.raises(ValueError, match="n must be at least 1, got 0"):
            call()
    with pytest.raises(ValueError, match=r"n is 3, but the pool has only 2"):
        best_of_n_estimate(t(1, 2), n=3)
    with pytest.raises(ValueError, match="sum to 1"):
        best_of_n_probs(t(0.5, 0.4), t(1, 2), 2)
    with pytest.raises(ValueError, match="non-negative"):
        best_of_n_probs(t(1.5, -0.5), t(1, 2), 2)
    with pytest.raises(ValueError, match="one shape"):
        best_of_n_probs(t(0.5, 0.5), t(1), 2)
    with pytest.raises(ValueError, match="one shape"):
        best_of_n_estimate(t(1, 2), t(1), n=1)
    with pytest.raises(ValueError, match="1 dim"):
        best_of_n_estimate(torch.zeros(2, 2), n=1)
