"""Rules by hand; drawing against the cumulative distribution, and against exact distributions by chi-square.

Parity of the rules with transformers is in ``tests/parity/test_generate.py``.
"""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from rlhf_lite.rollout import draw as draw_module
from rlhf_lite.rollout.draw import (
    LogitRules,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    repetition_penalty,
    row_seeds,
    uniforms,
)

# Nearest numbers to 0 and 1 that torch.rand can give
LOW, HIGH = 0.0, 1 - 2**-24


def test_draw_inverts_the_cumulative_distribution():
    # Probabilities 1/8, 2/8, 5/8: boundaries at 0.125 and 0.375
    uniform = torch.tensor([LOW, 0.12, 0.13, 0.37, 0.38, HIGH])
    logits = torch.tensor([1.0, 2.0, 5.0]).log().repeat(len(uniform), 1)
    tokens, logps = draw(logits, uniform)
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2]
    expected = torch.tensor([1 / 8, 1 / 8, 2 / 8, 2 / 8, 5 / 8, 5 / 8]).log()
    torch.testing.assert_close(logps, expected)


@pytest.mark.parametrize("vocab", [1, 7, 127, 128, 129, 1000, 4096])
def test_two_levels_find_what_one_cumulative_sum_finds(vocab):
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(500, vocab, generator=generator) * 2 + 50
    uniform = torch.rand(500, generator=generator)
    tokens, logps = draw(logits, uniform)
    ends = logits.double().softmax(-1).cumsum(-1)
    expected = torch.searchsorted(ends, uniform.double().unsqueeze(-1), right=True).squeeze(-1)
    # A target that rounding moves across a boundary gives the neighbour.
    edge = (ends - uniform.double().unsqueeze(-1)).abs().amin(-1) < 1e-6
    assert int(edge.sum()) < 25 and torch.equal(tokens[~edge], expected[~edge])
    torch.testing.assert_close(logps, logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1))


def test_impossible_tokens_are_never_drawn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 300, generator=generator)
    logits[:, 0] = logits[:, 17] = logits[:, 140:] = -torch.inf
    for edge in (LOW, HIGH):
        tokens, logps = draw(logits, torch.full((400,), edge))
        assert torch.isfinite(logps).all()
        assert set(tokens.tolist()) <= set(range(1, 140)) - {17}
    logits[:, 1:139] = -torch.inf
    logits[:, 17] = -torch.inf  # one token is left, in a block of which most is impossible
    for edge in (LOW, 0.5, HIGH):
        tokens, logps = draw(logits, torch.full((400,), edge))
        assert (tokens == 139).all() and (logps == 0).all()


def test_extreme_logits():
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e30, -1e30, -1e30], [0.0, -90.0, -torch.inf]])
    tokens, logps = draw(logits, torch.tensor([HIGH, 0.5, HIGH]))
    assert tokens.tolist() == [0, 1, 0]
    torch.testing.assert_close(logps, torch.tensor([0.0, 1 / 3, 1.0]).log().nan_to_num(neginf=0.0))


RULES = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"repetition_penalty": 2.0},
]


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_frequencies_match_the_rules(rules):
    n, vocab = 4000, 200  # two blocks
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(1, vocab, generator=generator) * 2).expand(n, -1)
    seen = logits[:1].topk(3).indices.expand(n, -1)
    ruled = LogitRules(**rules).apply(logits, seen)
    uniform = uniforms(row_seeds(2, rows=n), 1)[:, 0]
    tokens, logps = draw(ruled, uniform)
    probs = ruled[0].softmax(-1)
    assert_chi_square(tokens, probs)
    torch.testing.assert_close(logps, probs[tokens].log(), atol=1e-5, rtol=1e-5)
    if rules:  # the test can fail: the plain softmax is another distribution
        with pytest.raises(AssertionError):
            assert_chi_square(tokens, logits[0].softmax(-1))


def assert_chi_square(tokens: torch.Tensor, probs: torch.Tensor) -> None:
    """Seeds are fixed, so that this either always passes or never does."""
    counts, expected = tokens.bincount(minlength=len(probs)).double(), probs.double() * len(tokens)
    assert (counts[expected == 0] == 0).all()
    rare = expected < 5  # the chi-square approximation wants five
    seen = [*counts[~rare].tolist(), counts[rare].sum().item()]
    wanted = [*expected[~rare].tolist(), expected[rare].sum().item()]
    if wanted[-1] < 5:
        seen[-2:], wanted[-2:] = [sum(seen[-2:])], [sum(wanted[-2:])]
    assert len(seen) >= 3
    assert chisquare(seen, [w * sum(seen) / sum(wanted) for w in wanted]).pvalue > 1e-3


def test_uniforms_of_a_row_depend_on_its_seed_only():
    seeds = row_seeds(0, 1, rows=5)
    table = uniforms(seeds, 8)
    assert table.shape == (5, 8) and (table >= 0).all() and (table < 1).all()
    assert torch.equal(uniforms(seeds[3:4], 8)[0], table[3])
    assert torch.equal(uniforms(seeds, 5), table[:, :5])  # a longer limit does not change what came before
    assert len(set(table.flatten().tolist())) == 40
    assert uniforms([], 4).shape == (0, 4)


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


# Probabilities 0.5, 0.25, 0.125, 0.125
LOGITS = torch.tensor([[0.125, 0.5, 0.25, 0.125]]).log()


def kept(logits: torch.Tensor) -> list[int]:
    return logits[0].isfinite().nonzero().squeeze(-1).tolist()


def test_top_k_by_hand():
    assert kept(keep_top_k(LOGITS, 1)) == [1]
    assert kept(keep_top_k(LOGITS, 2)) == [1, 2]
    assert kept(keep_top_k(LOGITS, 3)) == [0, 1, 2, 3]  # a tie for the third place
    assert kept(keep_top_k(LOGITS, 99)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("p", "count"), [(0.01, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (0.9, 4), (1.0, 4)]
)
def test_top_p_by_hand(p, count):
    found = kept(keep_top_p(LOGITS, p))
    assert len(found) == count and 1 in found and (count == 1 or 2 in found)


def test_min_p_by_hand():
    assert kept(keep_min_p(LOGITS, 0.2)) == [0, 1, 2, 3]  # 0.125 >= 0.2 * 0.5
    assert kept(keep_min_p(LOGITS, 0.3)) == [1, 2]
    assert kept(keep_min_p(LOGITS, 0.6)) == [1]
    assert kept(keep_min_p(LOGITS, 1.0)) == [1]


def test_repetition_penalty_by_hand():
    logits = torch.tensor([[2.0, -2.0, 3.0, -3.0], [2.0, -2.0, 3.0, -3.0]])
    seen = torch.tensor([[0, 1, 0], [3, 3, 3]])  # once is enough
    expected = [[1.0, -4.0, 3.0, -3.0], [2.0, -2.0, 3.0, -6.0]]
    assert repetition_penalty(logits, seen, 2.0).tolist() == expected


def test_top_p_sorts_everything_only_when_it_must(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 400, generator=generator)
    whole = [keep_top_p(logits, p) for p in (0.1, 0.5, 0.95)]
    monkeypatch.setattr(draw_module, "_CANDIDATES", 16)
    for p, expected in zip((0.1, 0.5, 0.95), whole, strict=True):
        assert torch.equal(keep_top_p(logits, p), expected)


def test_what_is_kept_keeps_its_proportions():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 50, generator=generator)
    law = LogitRules(top_k=20, top_p=0.9, min_p=0.01).apply(logits)
    inside = law.isfinite()
    assert 1 < int(inside.sum()) < inside.numel()
    assert torch.equal(law[inside], logits[inside])


def test_temperature_comes_before_truncation_and_after_the_penalty():
    # At temperature 2 the probabilities are proportional to square roots: 0.369, 0.261, 0.185, 0.185.
    assert kept(LogitRules(temperature=2.0, top_p=0.6).apply(LOGITS)) == [1, 2]
    assert kept(LogitRules(temperature=1.0, top_p=0.45).apply(LOGITS)) == [1]
    assert kept(LogitRules(temperature=2.0, top_p=0.45).apply(LOGITS)) == [1, 2]
    logits = torch.tensor([[4.0, 3.0]])
    got = LogitRules(temperature=0.5, repetition_penalty=2.0).apply(logits, torch.tensor([[0]]))
    assert got.tolist() == [[4.0, 6.0]]


def test_greedy_needs_no_truncation_but_minds_repetition():
    rules = LogitRules(temperature=0.0, top_k=1, repetition_penalty=2.0)
    got = rules.apply(torch.tensor([[4.0, 3.0]]), torch.tensor([[0]]))
    assert rules.greedy and got.tolist() == [[2.0, 3.0]]


def test_the_rules_give_float32():
    assert LogitRules().apply(torch.zeros(1, 3, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.5}, r"temperature must not be negative .* got -0\.5"),
        ({"temperature": float("nan")}, "temperature .* got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be above 0 .* got 0\.0"),
        ({"top_p": 1.5}, r"top_p .* got 1\.5"),
        ({"min_p": -0.1}, r"min_p must be between 0 .* got -0\.1"),
        ({"min_p": 1.1}, r"min_p .* got 1\.1"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty must be above 0 .* got 0\.0"),
    ],
)
def test_numbers_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        LogitRules(**options)


def test_the_penalty_without_tokens_is_an_error():
    with pytest.raises(ValueError, match="give `seen`"):
        LogitRules(repetition_penalty=1.2).apply(LOGITS)
