"""The sampling loop: seeds, groups, ends, retirement, and the probabilities it reports."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import VOCAB, gpt2, llama, naive_logps, qwen2, shake, token_rows

from rlhf_lite.data.collate import pad_left
from rlhf_lite.models.adapters import add_adapter, lora_config, merged
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.rollout.draw import LogitRules
from rlhf_lite.rollout.sampler import decode, join, row_seeds, sample

PAD = 0
ROWS = token_rows([6, 1, 3, 5, 2, 4, 6, 3])
IDS, MASK = pad_left(ROWS, PAD)
KINDS = {"llama": llama, "gpt2": gpt2, "qwen2": qwen2}
LENGTH = 14


def run(model, ids=IDS, mask=MASK, *, eos=2, seeds=None, length=LENGTH, **options):
    seeds = row_seeds(0, 7, rows=len(ids)) if seeds is None else seeds
    return sample(
        model,
        ids,
        mask,
        max_new_tokens=length,
        eos_token_id=eos,
        pad_token_id=PAD,
        seeds=seeds,
        **options,
    )


def tokens_of(rollout) -> list[list[int]]:
    return [r[m].tolist() for r, m in zip(rollout.response_ids, rollout.response_mask, strict=True)]


def frequent_token(model) -> int:
    """A token that greedy decoding meets in some rows early, in some late, in some never."""
    rows = tokens_of(run(model, eos=-1, temperature=0.0))
    hits = {token: sum(token in row for row in rows) for row in rows for token in row}
    return min(hits, key=lambda token: (abs(hits[token] - len(rows) // 2), token))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logps_are_those_of_the_sampling_distribution(kind, temperature):
    model = KINDS[kind]()
    rollout = run(model, temperature=temperature, eos=5)
    full = [prompt + tail for prompt, tail in zip(ROWS, tokens_of(rollout), strict=True)]
    for prompt, expected, logps, mask in zip(
        ROWS,
        naive_logps(model, full, temperature=temperature),
        rollout.logps,
        rollout.response_mask,
        strict=True,
    ):
        torch.testing.assert_close(logps[mask], expected[len(prompt) - 1 :], atol=1e-4, rtol=1e-4)
        assert (logps[~mask] == 0).all()


def test_logps_agree_with_the_scorer_under_a_merged_adapter():
    base = llama()
    shape = lora_config(base, rank=4, alpha=8.0, dropout=0.0, top_layers=2)
    model = add_adapter(base, shape, "policy", seed=0).eval()
    shake(model, "policy")
    with merged(model, "policy"):
        rollout = run(model.get_base_model(), temperature=0.7, eos=5)
    ids, mask, wanted = join(rollout)
    scores = PolicyScorer(model, top_layers=2).score(ids, mask, wanted, temperature=0.7)
    got = scores.logps[:, IDS.shape[1] :]
    torch.testing.assert_close(got, rollout.logps, atol=1e-4, rtol=1e-4)


def test_join():
    rollout = run(llama(), eos=5)
    ids, mask, wanted = join(rollout)
    assert ids.shape == mask.shape == wanted.shape == (len(ROWS), IDS.shape[1] + LENGTH)
    assert torch.equal(ids[:, : IDS.shape[1]], IDS) and torch.equal(mask[:, : IDS.shape[1]], MASK)
    assert not wanted[:, : IDS.shape[1]].any()
    assert torch.equal(wanted[:, IDS.shape[1] :], rollout.response_mask)
    assert torch.equal(mask & wanted, wanted)


def test_a_rows_sample_does_not_depend_on_its_neighbours():
    model = llama()
    seeds = row_seeds(3, 1, rows=len(ROWS))
    together = tokens_of(run(model, seeds=seeds))
    order = [5, 2, 7, 0, 1, 3, 6, 4]
    shuffled = tokens_of(run(model, IDS[order], MASK[order], seeds=[seeds[i] for i in order]))
    assert shuffled == [together[i] for i in order]
    for i, row in enumerate(ROWS):
        ids = torch.tensor([row])  # alone, and so without padding
        alone = run(model, ids, torch.ones_like(ids, dtype=torch.bool), seeds=[seeds[i]])
        assert tokens_of(alone) == [together[i]]


def test_retiring_rows_changes_nothing():
    model = llama()
    seeds = row_seeds(4, rows=len(ROWS))
    free = tokens_of(run(model, eos=-1, seeds=seeds))
    counts = torch.tensor([token for row in free for token in row]).bincount(minlength=VOCAB)
    for eos in counts.topk(4).indices.tolist():
        expected = [row[: row.index(eos) + 1] if eos in row else row for row in free]
        assert len({len(row) for row in expected}) > 1
        calls: list[int] = []
        assert tokens_of(run(model, eos=eos, seeds=seeds, on_token=calls.append)) == expected
        assert calls == list(range(1, max(map(len, expected)) + 1))  # stops when the last row has ended


def test_retired_rows_are_not_computed():
    model = llama()
    eos = frequent_token(model)
    sizes: list[int] = []
    handle = model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    run(model, eos=eos, temperature=0.0)
    handle.remove()
    assert sizes[0] == len(ROWS) and sizes[-1] < len(ROWS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_retirement_at_any_moment_gives_the_same(kind):
    model = KINDS[kind]()
    eos = frequent_token(model)
    options = dict(max_new_tokens=LENGTH, eos_token_id=eos, seeds=row_seeds(5, rows=len(ROWS)))
    found = []
    for idle in (0.0, 0.3, 1.0):
        rules = LogitRules(temperature=0.8, repetition_penalty=1.1)
        steps = list(decode(model, IDS, MASK, rules=rules, idle=idle, **options))
        found.append([(s.position, row, token) for s in steps for row, token in _rows(s)])
    assert found[0] == found[1] == found[2]
    assert len(found[0]) < LENGTH * len(ROWS)


def _rows(step):
    return sorted(zip(step.rows.tolist(), step.tokens.tolist(), strict=True))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_group_reads_its_prompt_once_and_is_the_same_as_repeated_prompts(kind):
    model = KINDS[kind]()
    seeds = row_seeds(6, rows=3 * len(ROWS))
    by_hand = run(
        model, IDS.repeat_interleave(3, 0), MASK.repeat_interleave(3, 0), eos=5, seeds=seeds, min_p=0.01
    )
    group = run(model, eos=5, seeds=seeds, repeats=3, min_p=0.01)
    for name in ("prompt_ids", "prompt_mask", "response_ids", "response_mask", "ended"):
        assert torch.equal(getattr(group, name), getattr(by_hand, name)), name
    torch.testing.assert_close(group.logps, by_hand.logps, atol=1e-5, rtol=1e-4)
    assert len({tuple(row) for row in tokens_of(group)[:3]}) > 1


def test_the_prompts_of_groups_are_prefilled_once():
    model, sizes = llama(), []
    handle = model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    run(model, eos=(), seeds=row_seeds(0, rows=4 * len(ROWS)), repeats=4, length=2)
    handle.remove()
    assert sizes == [tuple(IDS.shape), (4 * len(ROWS), 1)]


def test_several_end_tokens():
    model, seeds = llama(), row_seeds(8, rows=len(ROWS))
    free = tokens_of(run(model, eos=(), seeds=seeds))
    common = torch.tensor([token for row in free for token in row]).bincount(minlength=VOCAB)
    ends = common.topk(2).indices.tolist()
    rollout = run(model, eos=ends, seeds=seeds)
    for row, got, ended in zip(free, tokens_of(rollout), rollout.ended.tolist(), strict=True):
        places = [i for i, token in enumerate(row) if token in ends]
        assert got == (row[: places[0] + 1] if places else row) and ended == bool(places)
    assert int(rollout.ended.sum()) > 0


@pytest.mark.parametrize(
    "rule",
    [{"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.2}, {"repetition_penalty": 1.5}, {"top_k": 9, "top_p": 0.8}],
    ids=str,
)
def test_logps_are_those_of_the_law_after_truncation(rule):
    model = llama()
    rollout = run(model, temperature=0.9, eos=5, **rule)
    rules = LogitRules(temperature=0.9, **rule)
    for prompt, tail, logps in zip(ROWS, tokens_of(rollout), rollout.logps, strict=True):
        for t, token in enumerate(tail):
            so_far = torch.tensor([prompt + tail[:t]])
            law = rules.apply(model(input_ids=so_far).logits[:, -1], so_far).log_softmax(-1)[0]
            assert float(logps[t]) == pytest.approx(float(law[token]), abs=2e-4)
    if "top_k" in rule:
        assert (
            len({row[0] for row in tokens_of(run(model, IDS[:1], MASK[:1], seeds=[1], **rule))})
            <= rule["top_k"]
        )


def test_greedy_logps_are_those_of_a_point_mass():
    rollout = run(llama(), temperature=0.0)
    assert (rollout.logps == 0).all() and rollout.response_mask.any()


def test_seeds_reproduce_and_differ():
    model = llama()
    first, again = (run(model, seeds=row_seeds(1, 2, rows=len(ROWS))) for _ in range(2))
    assert torch.equal(first.response_ids, again.response_ids) and torch.equal(first.logps, again.logps)
    other = run(model, seeds=row_seeds(1, 3, rows=len(ROWS)))
    assert not torch.equal(first.response_ids, other.response_ids)
    same = torch.tensor([ROWS[0]] * 6)  # one prompt, many continuations
    many = run(model, same, torch.ones_like(same, dtype=torch.bool), seeds=row_seeds(1, rows=6))
    assert len(set(map(tuple, tokens_of(many)))) > 1


def test_the_global_generator_is_neither_used_nor_moved():
    model = llama()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run(model)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(run(model).response_ids, first.response_ids)


def test_one_token_and_one_row():
    ids = torch.tensor([[5]])
    rollout = run(llama(), ids, torch.ones_like(ids, dtype=torch.bool), length=1, eos=-1)
    assert rollout.response_ids.shape == (1, 1) and rollout.response_mask.all()


def test_wrong_input_is_an_error():
    model = llama()
    with pytest.raises(ValueError, match="7 seeds for 8 prompts"):
        run(model, seeds=row_seeds(0, rows=7))
    with pytest.raises(ValueError, match="padded on the left"):
        run(model, IDS.flip(1), MASK.flip(1))
    with pytest.raises(ValueError, match="padded on the left"):
        hole = MASK.clone()
        hole[0, -2] = False
        run(model, mask=hole)
    with pytest.raises(ValueError, match="bool with the shape"):
        run(model, mask=MASK.long())
    with pytest.raises(ValueError, match=r"temperature.*-0\.5"):
        run(model, temperature=-0.5)
    with pytest.raises(ValueError, match=r"8 seeds for 8 prompts x 2 repeats"):
        run(model, repeats=2)
    with pytest.raises(ValueError, match="at least 1, got 0 and 14"):
        run(model, repeats=0, seeds=[])
    with pytest.raises(ValueError, match="give the tokenizer"):
        run(model, stop=["x"])
