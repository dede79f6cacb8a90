"""The rules by hand; parity with transformers is in ``tests/parity/test_generate.py``."""

from __future__ import annotations

import pytest
import torch

from rlhf_lite.rollout import draw as draw_module
from rlhf_lite.rollout.draw import LogitRules, keep_min_p, keep_top_k, keep_top_p, repetition_penalty

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


def test_the_law_is_float32():
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
