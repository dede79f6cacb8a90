"""Preference losses: the same values and gradients as TRL 1.16's own code, run on a stand-in trainer.

Where TRL has no such loss the docstring of the function says so, and nothing is compared here: conservative
DPO (TRL's ``sigmoid`` ignores the smoothing), BCO with δ (its trainer is gone), soft SPPO, IPO on sums.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from trl_stub import Self, assert_same, leaf, trl_class

from rlhf_lite.functional import (
    PREFERENCE_LOSSES,
    PairLogps,
    cpo_loss,
    kto_baseline,
    kto_loss,
    orpo_loss,
    simpo_loss,
)

PAIRS, TOKENS = 5, 6


def completions(rows: int) -> torch.Tensor:
    """``[rows, 1 + TOKENS]``: one prompt token, then completions of different lengths, then padding."""
    lengths = 1 + torch.arange(rows) % TOKENS
    counts = torch.arange(TOKENS)[None, :] < lengths[:, None]
    return torch.cat([torch.zeros(rows, 1, dtype=torch.bool), counts], dim=1).long()


def outputs(log_probs: torch.Tensor) -> SimpleNamespace:
    """What TRL's fused head returns; the fields for metrics are zeros."""
    zeros = torch.zeros_like(log_probs)
    return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def trl_dpo(loss_type: str, token_logps: torch.Tensor, mask: torch.Tensor, ref: torch.Tensor, **settings):
    """TRL's scalar loss for ``[2P, T]`` token log-probabilities, chosen rows first."""
    trainer = trl_class("trainer.dpo_trainer", "DPOTrainer")
    this = Self(
        loss_types=[loss_type],
        loss_weights=[1.0],
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        label_smoothing=settings.get("label_smoothing", 0.0),
        beta=settings["beta"],
    )
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": ref[:PAIRS],
        "ref_rejected_logps": ref[PAIRS:],
    }
    kept = token_logps * mask[:, 1:]  # TRL's head gives 0 where the label is -100
    return trainer._compute_loss(this, lambda **_: outputs(kept), inputs, False)


CASES = [  # our name, TRL's name, settings
    ("sigmoid", "sigmoid", {"beta": 0.3}),
    ("robust", "robust", {"beta": 0.3, "label_smoothing": 0.2}),
    ("ipo_mean", "ipo", {"beta": 0.4}),
    ("hinge", "hinge", {"beta": 0.3}),
    ("apo_zero", "apo_zero", {"beta": 0.7}),
    ("apo_down", "apo_down", {"beta": 0.7}),
    ("bco", "bco_pair", {"beta": 0.3}),
    ("nca", "nca_pair", {"beta": 0.3}),
    ("sppo", "sppo_hard", {"beta": 0.6}),
]


@pytest.mark.parametrize(("ours", "theirs", "options"), CASES, ids=[case[0] for case in CASES])
def test_dpo_trainer(ours, theirs, options):
    mask = completions(2 * PAIRS)
    tokens, ref = leaf(2 * PAIRS, TOKENS, seed=1), leaf(2 * PAIRS, seed=2, scale=4.0).detach()
    expected = trl_dpo(theirs, tokens, mask, ref, **options)

    sums, lengths = (tokens * mask[:, 1:]).sum(1), mask.sum(1)
    pairs = PairLogps(sums[:PAIRS], sums[PAIRS:], ref[:PAIRS], ref[PAIRS:], lengths[:PAIRS], lengths[PAIRS:])
    loss = PREFERENCE_LOSSES[ours](pairs, **options)
    assert_same(loss.mean(), expected, [tokens])


def test_trls_sigmoid_ignores_label_smoothing():
    """The one DPO form that TRL does not have: said in ``dpo_loss``, so it must stay true."""
    mask = completions(2 * PAIRS)
    tokens, ref = leaf(2 * PAIRS, TOKENS, seed=1), leaf(2 * PAIRS, seed=2, scale=4.0).detach()
    plain, smooth = (
        trl_dpo("sigmoid", tokens, mask, ref, beta=0.3, label_smoothing=share) for share in (0.0, 0.2)
    )
    assert torch.equal(plain, smooth)


@pytest.mark.parametrize("kl_shift", [2.0, -9.0], ids=["kl_positive", "kl_clamped"])
def test_kto_trainer(kl_shift):
    trainer = trl_class("trainer.kto_trainer", "KTOTrainer")
    rows = 6
    mask = completions(rows)
    tokens, ref = leaf(rows, TOKENS, seed=3), leaf(rows, seed=4, scale=4.0).detach()
    mismatched = leaf(rows, TOKENS, seed=5).detach()
    ref_mismatched = mismatched.sum(1) - kl_shift
    desirable = torch.tensor([1, 0, 0, 1, 1, 0], dtype=torch.bool)
    settings = {"desirable_weight": 1.3, "undesirable_weight": 0.8}
    this = Self(beta=0.4, loss_type="kto", calculate_KL=True, precompute_ref_logps=True, **settings)
    this._compute_kl_logps = functools.partial(trainer._compute_kl_logps, this)
    ids, kl_ids = torch.ones_like(mask), torch.full_like(mask, 2)

    def model(input_ids, **_):
        return outputs(mismatched if input_ids is kl_ids else tokens * mask[:, 1:])

    batch = {
        "input_ids": ids,
        "attention_mask": ids,
        "completion_mask": mask,
        "label": desirable,
        "ref_logps": ref,
        "KL_input_ids": kl_ids,
        "KL_attention_mask": kl_ids,
        "KL_completion_mask": mask,
        "ref_KL_logps": ref_mismatched,
    }
    expected = trainer._compute_loss(this, model, batch, False)
    kl = kto_baseline(mismatched.sum(1), ref_mismatched)
    assert kl.item() == pytest.approx(max(kl_shift, 0.0), rel=1e-5)
    loss = kto_loss((tokens * mask[:, 1:]).sum(1), ref, desirable, beta=0.4, kl=kl, **settings)
    assert_same(loss.mean(), expected, [tokens])


def trl_cpo(loss_type: str, chosen: torch.Tensor, rejected: torch.Tensor, **settings) -> torch.Tensor:
    trainer = trl_class("experimental.cpo.cpo_trainer", "CPOTrainer")
    this = Self(loss_type=loss_type, alpha=0.0, **settings)
    return trainer.cpo_loss(this, chosen, rejected)[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cpo_trainer(smoothing):
    chosen, rejected = leaf(PAIRS, seed=6, scale=9.0), leaf(PAIRS, seed=7, scale=9.0)
    expected = trl_cpo("sigmoid", chosen, rejected, beta=0.4, label_smoothing=smoothing)
    lengths = torch.arange(1, PAIRS + 1)
    # TRL adds the imitation term outside, as a mean over all tokens of the batch; ours is per pair.
    loss = cpo_loss(chosen, rejected, lengths, beta=0.4, label_smoothing=smoothing, nll_weight=0.0)
    torch.testing.assert_close(loss, expected)
    assert_same(loss.sum(), expected.sum(), [chosen, rejected])


def test_simpo_in_cpo_trainer():
    chosen, rejected = leaf(PAIRS, seed=6, scale=9.0), leaf(PAIRS, seed=7, scale=9.0)
    lengths = (torch.arange(1, PAIRS + 1), torch.arange(2, PAIRS + 2))
    means = (chosen / lengths[0], rejected / lengths[1])
    expected = trl_cpo("simpo", *means, beta=2.0, simpo_gamma=0.7, label_smoothing=0.0)
    loss = simpo_loss(chosen, rejected, *lengths, beta=2.0, gamma=0.7)
    torch.testing.assert_close(loss, expected)
    assert_same(loss.sum(), expected.sum(), [chosen, rejected])


def test_orpo_trainer():
    trainer = trl_class("experimental.orpo.orpo_trainer", "ORPOTrainer")
    chosen, rejected = leaf(PAIRS, seed=8, scale=9.0), leaf(PAIRS, seed=9, scale=9.0)
    lengths = (torch.arange(1, PAIRS + 1), torch.arange(2, PAIRS + 2))
    means = (chosen / lengths[0], rejected / lengths[1])
    log_sigmoid = trainer.odds_ratio_loss(Self(beta=0.25), *means)[0]
    # The trainer subtracts it from the negative log-likelihood, which it averages over all tokens.
    loss = orpo_loss(chosen, rejected, *lengths, beta=0.25, nll_weight=0.0)
    torch.testing.assert_close(loss, -log_sigmoid)
    assert_same(loss.sum(), -log_sigmoid.sum(), [chosen, rejected])


def test_trls_orpo_is_nan_at_certainty_and_ours_is_not():
    """What ``orpo_loss`` says about TRL, so it must stay true."""
    trainer = trl_class("experimental.orpo.orpo_trainer", "ORPOTrainer")
    for certain in (torch.zeros(1, requires_grad=True),):
        other = torch.full((1,), -1.0)
        theirs = trainer.odds_ratio_loss(Self(beta=1.0), certain, other)[0].sum()
        assert torch.autograd.grad(theirs, certain)[0].isnan().all()
        one = torch.ones(1, dtype=torch.long)
        ours = orpo_loss(certain, other, one, one, beta=1.0).sum()
        assert torch.autograd.grad(ours, certain)[0].isfinite().all()
