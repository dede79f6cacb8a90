"""Sharing a batch between processes, minibatches, and what a rollout says about itself."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import llama, token_rows

from rlhf_lite.errors import RewardError
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.rollout.rewards import Mixture, Part
from rlhf_lite.rollout.sampler import row_seeds
from rlhf_lite.training.batches import gather_rows, local_rows, micro_batches, minibatch_rows
from rlhf_lite.training.rollouts import PolicyGradientSetup, frozen_reference, roll_out

PROMPTS = token_rows([3, 1, 4, 2, 5], vocab=16, seed=1)


@dataclass
class Rank:
    """One of several processes; ``everyone`` holds what each of them would send."""

    process_index: int
    num_processes: int
    everyone: list[torch.Tensor] | None = None

    def gather(self, tensor):
        assert torch.equal(tensor, self.everyone[self.process_index])
        return torch.cat(self.everyone)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_shares_are_equally_long_and_hold_everything(n, world):
    shares = [local_rows(n, Rank(rank, world)) for rank in range(world)]
    assert {len(each) for each in shares} == {-(-n // world)}
    in_order = [each[k] for k in range(len(shares[0])) for each in shares]
    assert in_order[:n] == list(range(n))
    assert local_rows(n, None) == list(range(n))


@pytest.mark.parametrize("make", [
    lambda n: torch.arange(n * 6, dtype=torch.float32).view(n, 2, 3),
    lambda n: torch.arange(n * 3).view(n, 3),
    lambda n: torch.arange(n) % 2 == 0,
    lambda n: torch.arange(n * 4).view(n, 4).bfloat16(),
])  # fmt: skip
@pytest.mark.parametrize(("n", "repeats", "world"), [(5, 1, 2), (4, 3, 2), (3, 2, 4), (1, 2, 3), (6, 1, 3)])
def test_gathered_shares_are_the_whole_in_order(make, n, repeats, world):
    whole = make(n * repeats)
    groups = whole.view(n, repeats, *whole.shape[1:])
    parts = [groups[local_rows(n, Rank(rank, world))].flatten(0, 1) for rank in range(world)]
    each = -(-n // world)
    sent = [part.contiguous().view(each, -1).view(torch.uint8) for part in parts]
    for rank in range(world):
        found = gather_rows(parts[rank], n, Rank(rank, world, sent))
        assert found.dtype == whole.dtype and torch.equal(found, whole)


def test_micro_batches_of_all_processes_make_up_the_minibatch():
    index = torch.tensor([7, 3, 9, 1, 4])
    for world, size in ((1, None), (1, 2), (2, 2), (3, 1), (6, 1)):
        parts = [micro_batches(index, size=size, accelerator=Rank(r, world)) for r in range(world)]
        rows = sorted(int(row) for mine in parts for part in mine for row in part)
        assert rows == sorted(index.tolist())
        assert all(0 < len(part) <= (size or 5) for mine in parts for part in mine)
    assert micro_batches(index, size=1, accelerator=Rank(5, 6)) == []


def test_every_row_is_in_one_minibatch_of_each_epoch():
    parts = list(minibatch_rows(7, epochs=2, minibatches=3, seed=0))
    assert [len(part) for part in parts] == [3, 2, 2, 3, 2, 2]
    first, second = torch.cat(parts[:3]).tolist(), torch.cat(parts[3:]).tolist()
    assert sorted(first) == sorted(second) == list(range(7)) and first != second
    again = torch.cat(list(minibatch_rows(7, epochs=2, minibatches=3, seed=0))).tolist()
    assert again == first + second


def new_setup(reward=lambda batch: batch.response_ids.sum(1), **changes) -> PolicyGradientSetup:
    model = llama(vocab=16, initializer_range=0.1)
    parts = PolicyGradientSetup(
        scorer=PolicyScorer(model, top_layers=2),
        reference=frozen_reference(model),
        sampling=lambda: nullcontext(model),
        reward=reward,
        eos_token_id=2,
        pad_token_id=0,
    )
    return replace(parts, **changes)


OPTIONS = {"max_new_tokens": 6, "temperature": 1.0, "repeats": 2, "seeds": row_seeds(0, rows=10)}


@pytest.mark.parametrize("size", [1, 3])
def test_scoring_in_parts_gives_the_same_batch(size):
    whole, numbers = roll_out(new_setup(), PROMPTS, **OPTIONS)
    parts, again = roll_out(new_setup(), PROMPTS, micro_batch_size=size, **OPTIONS)
    for field in fields(whole):
        one, other = getattr(whole, field.name), getattr(parts, field.name)
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    for name, value in numbers.items():
        if not name.startswith("seconds/"):
            assert again[name] == pytest.approx(value, abs=1e-5)


def test_a_rollout_does_not_depend_on_its_neighbours_or_their_padding():
    whole, _ = roll_out(new_setup(), PROMPTS, **OPTIONS)
    # Every row has a seed of its own, also within a group.
    assert len({tuple(row.tolist()) for row in whole.ids}) == len(OPTIONS["seeds"])
    for row, prompt in enumerate(PROMPTS):
        alone, _ = roll_out(
            new_setup(), [prompt], **OPTIONS | {"seeds": OPTIONS["seeds"][2 * row : 2 * row + 2]}
        )
        for g in range(2):
            here, there = 2 * row + g, g
            for name in ("old_logps", "ref_logps", "entropies", "sampled_logps"):
                found = getattr(alone, name)[there][alone.response_mask[there]]
                wanted = getattr(whole, name)[here][whole.response_mask[here]]
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
            assert whole.ids[here][whole.mask[here]].tolist() == alone.ids[there][alone.mask[there]].tolist()
            assert float(whole.scores[here]) == float(alone.scores[there])


def test_columns_that_nobody_reached_are_left_out():
    free, _ = roll_out(new_setup(eos_token_id=None), PROMPTS, **OPTIONS)
    common = int(free.ids[free.response_mask].bincount().argmax())  # ends rows early
    batch, metrics = roll_out(new_setup(eos_token_id=common), PROMPTS, **OPTIONS | {"max_new_tokens": 60})
    assert batch.response_mask.any(0)[batch.response].all()
    assert batch.response_mask.sum(1).max() == batch.ids.shape[1] - max(map(len, PROMPTS)) < 60
    assert metrics["length/tokens"] == pytest.approx(batch.response_mask.sum(1).float().mean().item())


def test_the_parts_of_a_reward_are_in_the_log():
    reward = Mixture({"a": Part(lambda b: [1.0] * len(b), weight=2.0), "b": Part(lambda b: b.ended.float())})
    batch, metrics = roll_out(new_setup(reward), PROMPTS, **OPTIONS)
    assert batch.parts.shape == (10, 2)
    assert metrics["reward/part_a"] == 1.0
    assert metrics["reward/part_b"] == pytest.approx(metrics["ended/fraction"])
    assert metrics["reward/score"] == pytest.approx(2.0 + metrics["ended/fraction"])


def test_a_reward_that_reads_text_needs_a_tokenizer():
    with pytest.raises(RewardError, match="no tokenizer"):
        roll_out(new_setup(lambda batch: [len(text) for text in batch.completions]), PROMPTS, **OPTIONS)


def test_a_wrong_number_of_seeds_is_refused():
    with pytest.raises(ValueError, match="expected 5 x 2 seeds, got 5"):
        roll_out(new_setup(), PROMPTS, **OPTIONS | {"seeds": range(5)})
