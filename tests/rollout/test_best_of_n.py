"""Best of n: the winners, ties, and the estimate for every smaller n from the same pool."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import llama

from rlhf_lite.errors import RewardError
from rlhf_lite.rollout.best_of_n import BestOfN, best_of_n, choose_best
from rlhf_lite.rollout.rewards import Mixture, Part
from rlhf_lite.rollout.sampler import row_seeds, sample

IDS = torch.tensor([[0, 0, 5], [7, 8, 9]])
MASK = torch.tensor([[False, False, True], [True, True, True]])
OPTIONS = {"max_new_tokens": 5, "eos_token_id": 2, "pad_token_id": 0}


def token_sum(batch):
    return (batch.ids * batch.response_mask).sum(1).float()


def test_the_first_of_equals_wins():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0], [0.0, -1.0, -2.0, 0.5]])
    assert choose_best(scores).tolist() == [1, 0, 3]
    for wrong in (torch.zeros(3), torch.zeros(3, 0), torch.tensor([[0.0, float("nan")]])):
        with pytest.raises(ValueError):
            choose_best(wrong)


def test_winners_are_the_best_of_the_pool():
    model, n = llama(), 6
    seeds = row_seeds(3, rows=2 * n)
    found = best_of_n(model, IDS, MASK, n=n, reward=token_sum, seeds=seeds, **OPTIONS)
    pool = sample(model, IDS, MASK, repeats=n, seeds=seeds, **OPTIONS)
    sums = (pool.response_ids * pool.response_mask).sum(1).view(2, n).float()
    assert torch.equal(found.scores, sums)
    assert len(set(sums[0].tolist())) > 1
    for row in range(2):
        best = max(range(n), key=lambda k, row=row: sums[row, k].item())
        assert int(found.place[row]) == best
        place = row * n + best
        assert torch.equal(found.rollout.response_ids[row], pool.response_ids[place])
        assert torch.equal(found.rollout.response_mask[row], pool.response_mask[place])
        assert torch.equal(found.rollout.logps[row], pool.logps[place])
        assert found.rollout.ended[row] == pool.ended[place]
    assert torch.equal(found.rollout.prompt_ids, IDS)
    assert torch.equal(found.rollout.prompt_mask, MASK)


def test_one_of_one_is_a_plain_sample():
    seeds = row_seeds(0, rows=2)
    found = best_of_n(llama(), IDS, MASK, n=1, reward=token_sum, seeds=seeds, **OPTIONS)
    plain = sample(llama(), IDS, MASK, seeds=seeds, **OPTIONS)
    assert torch.equal(found.rollout.response_ids, plain.response_ids)


def test_a_mixture_chooses_by_its_scores_and_not_by_the_raw_sum():
    reward = Mixture({"less": Part(token_sum, weight=-1.0), "noise": Part(token_sum, clip=0.5)})
    found = best_of_n(llama(), IDS, MASK, n=6, reward=reward, seeds=row_seeds(3, rows=12), **OPTIONS)
    plain = best_of_n(llama(), IDS, MASK, n=6, reward=token_sum, seeds=row_seeds(3, rows=12), **OPTIONS)
    assert found.scores.tolist() == (0.5 - plain.scores).tolist()
    assert found.place.tolist() == plain.scores.argmin(1).tolist()


def test_without_an_end_token_every_row_is_full():
    options = OPTIONS | {"eos_token_id": None}
    found = best_of_n(llama(), IDS, MASK, n=3, reward=token_sum, seeds=row_seeds(0, rows=6), **options)
    assert found.rollout.response_mask.all() and not found.rollout.ended.any()


def test_every_smaller_n_is_estimated_from_the_pool():
    scores = torch.tensor([[3.0, 1.0, 4.0, 1.5], [2.0, 7.0, 1.0, 8.0]])
    gold = torch.tensor([[0.0, 1.0, 5.0, 2.0], [1.0, 0.0, 3.0, 2.0]])
    found = BestOfN(None, choose_best(scores), scores)
    for k in range(1, 5):
        own, other = [], []
        for row in range(2):  # all subsets of k, each equally likely
            for chosen in itertools.combinations(range(4), k):
                best = max(chosen, key=lambda place, row=row: scores[row, place].item())
                own.append(scores[row, best].item())
                other.append(gold[row, best].item())
        assert found.expected(k) == pytest.approx(sum(own) / len(own))
        assert found.expected(k, gold) == pytest.approx(sum(other) / len(other))
    assert found.expected(4) == pytest.approx((4.0 + 8.0) / 2)
    with pytest.raises(ValueError, match="n is 5"):
        found.expected(5)


def test_refusals():
    with pytest.raises(ValueError, match="n must be at least 1"):
        best_of_n(llama(), IDS, MASK, n=0, reward=token_sum, seeds=[], **OPTIONS)
    with pytest.raises(ValueError, match="seed"):
        best_of_n(llama(), IDS, MASK, n=2, reward=token_sum, seeds=[1, 2], **OPTIONS)
    with pytest.raises(RewardError, match="nan for row 0"):
        bad = {"reward": lambda batch: [float("nan")] * len(batch), "seeds": row_seeds(0, rows=4)}
        best_of_n(llama(), IDS, MASK, n=2, **bad, **OPTIONS)
