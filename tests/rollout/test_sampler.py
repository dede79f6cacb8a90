"""The sampling engine, against ``transformers.generate``, recomputed probabilities, and chi-square."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import VOCAB, gpt2, llama, naive_logps, qwen2, shake, token_rows

from rlhf_lite.data.collate import pad_left
from rlhf_lite.models.adapters import add_adapter, lora_config, merged
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.rollout.draw import draw
from rlhf_lite.rollout.sampler import join, row_seeds, sample

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
@pytest.mark.parametrize("ending", [False, True])
def test_greedy_equals_generate(kind, ending):
    model = KINDS[kind]()
    eos = frequent_token(model) if ending else -1
    rollout = run(model, eos=eos, temperature=0.0)
    generated = model.generate(
        input_ids=IDS,
        attention_mask=MASK.long(),
        do_sample=False,
        max_new_tokens=LENGTH,
        eos_token_id=eos,
        pad_token_id=PAD,
    )[:, IDS.shape[1] :]
    assert len(set(map(tuple, generated.tolist()))) > 2  # the prompts matter
    width = generated.shape[1]
    assert torch.equal(rollout.response_ids[:, :width], generated)
    assert (rollout.response_ids[:, width:] == PAD).all()
    for row, mask, ended in zip(rollout.response_ids, rollout.response_mask, rollout.ended, strict=True):
        length = row.tolist().index(eos) + 1 if eos in row.tolist() else LENGTH
        assert mask.tolist() == [True] * length + [False] * (LENGTH - length)
        assert bool(ended) == (eos in row.tolist())
    if ending:
        assert 0 < int(rollout.ended.sum()) < len(ROWS)


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


def test_row_seeds_never_repeat():
    seen = [
        seed
        for start in range(6)
        for step in (*range(60), 1_000_000)
        for seed in row_seeds(start, step, rows=48)
    ]
    assert len(set(seen)) == len(seen)
    assert row_seeds(0, 1, 2, rows=3) != row_seeds(0, 2, 1, rows=3)
    assert row_seeds(5, 1, rows=2) == row_seeds(5, 1, rows=9)[:2]
    assert all(0 <= seed < 2**63 for seed in seen)
    assert row_seeds(0, rows=0) == []


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_frequencies_match_the_softmax(temperature):
    model = llama(vocab=12, initializer_range=0.1)
    prompt, n = [3, 7, 4], 6000
    ids = torch.tensor([prompt] * n)
    rollout = run(
        model,
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        eos=-1,
        seeds=row_seeds(11, 5, rows=n),
        length=2,
        temperature=temperature,
    )
    first = (model(input_ids=ids[:1]).logits[0, -1] / temperature).softmax(-1)
    assert_chi_square(rollout.response_ids[:, 0], first)
    common = int(first.argmax())
    given = rollout.response_ids[rollout.response_ids[:, 0] == common, 1]
    second = (model(input_ids=torch.tensor([[*prompt, common]])).logits[0, -1] / temperature).softmax(-1)
    assert_chi_square(given, second)


def assert_chi_square(tokens: torch.Tensor, probs: torch.Tensor) -> None:
    """Seeds are fixed, so that this either always passes or never does."""
    counts, expected = tokens.bincount(minlength=len(probs)).double(), probs.double() * len(tokens)
    rare = expected < 5  # the chi-square approximation wants five
    seen = [*counts[~rare].tolist(), counts[rare].sum().item()]
    wanted = [*expected[~rare].tolist(), expected[rare].sum().item()]
    if wanted[-1] < 5:
        seen[-2:], wanted[-2:] = [sum(seen[-2:])], [sum(wanted[-2:])]
    assert len(seen) >= 3
    assert chisquare(seen, [w * sum(seen) / sum(wanted) for w in wanted]).pvalue > 1e-3


def test_draw_inverts_the_cumulative_distribution():
    # Probabilities 1/8, 2/8, 5/8: boundaries at 0.125 and 0.375
    uniforms = torch.tensor([0.0, 0.12, 0.13, 0.37, 0.38, 1 - 2**-24])
    logits = torch.tensor([1.0, 2.0, 5.0]).log().repeat(len(uniforms), 1)
    tokens, logps = draw(logits, uniforms)
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2]
    expected = torch.tensor([1 / 8, 1 / 8, 2 / 8, 2 / 8, 5 / 8, 5 / 8]).log()
    torch.testing.assert_close(logps, expected)


def test_impossible_tokens_are_never_drawn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 50, generator=generator)
    logits[:, 0] = logits[:, 17] = logits[:, 45:] = -float("inf")
    for edge in (0.0, 1 - 2**-24):
        tokens, logps = draw(logits, torch.full((400,), edge))
        assert torch.isfinite(logps).all()
        assert set(tokens.tolist()) <= set(range(1, 45)) - {17}


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
    with pytest.raises(ValueError, match=r"temperature.*-0\.5"):
        run(model, temperature=-0.5)
