"""KTO: the loss and its baseline by hand, and where the mismatched answers come from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from runners import PAIRS, assert_same_run, bare, new_scorer, run_dpo, sequence_sums, shake

from rlhf_lite.training.pairs import JudgedAnswer, judged_from_pairs, mismatched

ANSWERS = judged_from_pairs(PAIRS)


def kto_scorer():
    """A policy whose baseline is above zero, where the clamp would hide mistakes."""
    scorer = new_scorer()
    shake(scorer.model, "policy", seed=1, scale=0.1)
    return scorer


def test_kto_by_hand():
    scorer = kto_scorer()
    others = mismatched(ANSWERS, seed=0)
    own_rows = [(a.prompt_ids, a.completion_ids) for a in ANSWERS]
    other_rows = [(e.prompt, e.completion) for e in others]
    with torch.no_grad():
        policy, z_policy = sequence_sums(scorer.model, own_rows), sequence_sums(scorer.model, other_rows)
        with bare(scorer)():
            ref, z_ref = sequence_sums(scorer.model, own_rows), sequence_sums(scorer.model, other_rows)
    z = (z_policy - z_ref).mean().item()
    assert z > 0.05
    ratio = policy - ref
    liked = torch.tensor([a.desirable for a in ANSWERS])
    losses = torch.where(
        liked, 1.5 * (1 - torch.sigmoid(0.5 * (ratio - z))), 1 - torch.sigmoid(0.5 * (z - ratio))
    )
    line = run_dpo(
        scorer, ANSWERS, steps=1, batch_size=16, loss="kto", loss_options={"desirable_weight": 1.5}
    ).lines[0]
    assert line["loss/per_answer"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert line["kl/baseline_nats_per_seq"] == pytest.approx(z, abs=1e-5)
    assert line["reward/implicit_desirable"] == pytest.approx(0.5 * ratio[liked].mean().item(), rel=1e-4)
    assert line["reward/implicit_undesirable"] == pytest.approx(0.5 * ratio[~liked].mean().item(), rel=1e-4)


def test_the_kto_baseline_is_that_of_the_whole_batch():
    options = {"loss": "kto", "batch_size": 8, "steps": 3, "learning_rate": 1e-3}
    expected = run_dpo(kto_scorer(), **options).lines
    assert all(line["kl/baseline_nats_per_seq"] > 0.01 for line in expected[:1])
    got = run_dpo(kto_scorer(), accumulation=3, **options).lines
    assert_same_run(got, expected, rel=1e-4, abs=1e-5)


def test_the_kto_baseline_is_never_negative():
    scorer = new_scorer()
    shake(scorer.model, "policy", seed=2, scale=0.1)
    line = run_dpo(scorer, ANSWERS, steps=1, batch_size=16, loss="kto").lines[0]
    assert line["kl/baseline_nats_per_seq"] == 0.0


def test_kto_takes_pairs_as_two_answers():
    pairs = run_dpo(new_scorer(), PAIRS, loss="kto").lines
    assert pairs == run_dpo(new_scorer(), ANSWERS, loss="kto").lines
    assert pairs[0]["loss/per_answer"] == pytest.approx(0.5, abs=1e-6)


def test_a_batch_of_liked_answers_only_has_no_metric_of_the_others():
    line = run_dpo(new_scorer(), [a for a in ANSWERS if a.desirable], loss="kto", steps=1).lines[0]
    assert "reward/implicit_desirable" in line and "reward/implicit_undesirable" not in line


def test_mismatched_completions_belong_to_other_prompts():
    found = mismatched(ANSWERS, seed=3)
    assert [e.prompt for e in found] == [
        a.prompt_ids[-len(e.prompt) :] for a, e in zip(ANSWERS, found, strict=True)
    ]
    own = {tuple(a.prompt_ids): [] for a in ANSWERS}
    for a in ANSWERS:
        own[tuple(a.prompt_ids)].append(a.completion_ids)
    assert all(e.completion not in own[tuple(a.prompt_ids)] for a, e in zip(ANSWERS, found, strict=True))
    longest = max(len(a.prompt_ids) + len(a.completion_ids) for a in ANSWERS)
    assert max(len(e.prompt) + len(e.completion) for e in found) <= longest
    assert [e.completion for e in found] != [e.completion for e in mismatched(ANSWERS, seed=4)]
    same = [JudgedAnswer([5], [6], True), JudgedAnswer([5], [7], False)]  # nothing to choose from
    assert [e.completion for e in mismatched(same, seed=0)] == [[7], [6]]
