"""The table of preference losses by name: what it calls, what it asks for, and finite results everywhere."""

from __future__ import annotations

import pytest
import torch

from rlhf_lite.functional import (
    PREFERENCE_LOSSES,
    PairLogps,
    apo_down_loss,
    apo_zero_loss,
    bco_loss,
    cpo_loss,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    nca_loss,
    orpo_loss,
    robust_dpo_loss,
    simpo_loss,
    sppo_loss,
)


def table_pairs(size: int = 3) -> PairLogps:
    columns = [-torch.arange(1.0, size + 1) * k for k in (1.0, 2.0, 1.5, 1.2)]
    lengths = (torch.arange(1, size + 1), torch.arange(2, size + 2))
    return PairLogps(*columns, *lengths)


def test_the_table_has_every_loss():
    names = "apo_down apo_zero bco cpo hinge ipo ipo_mean nca orpo robust sigmoid simpo sppo"
    assert " ".join(sorted(PREFERENCE_LOSSES)) == names


def test_the_table_calls_the_functions():
    pairs = table_pairs()
    four = (pairs.policy_chosen, pairs.policy_rejected, pairs.ref_chosen, pairs.ref_rejected)
    lengths = (pairs.chosen_lengths, pairs.rejected_lengths)
    expected = {
        "sigmoid": dpo_loss(*four, beta=0.3),
        "robust": robust_dpo_loss(*four, beta=0.3),
        "ipo": ipo_loss(*four, tau=0.3),
        "ipo_mean": ipo_loss(
            *four, tau=0.3, normalise="mean", chosen_lengths=lengths[0], rejected_lengths=lengths[1]
        ),
        "hinge": hinge_loss(*four, beta=0.3),
        "simpo": simpo_loss(*four[:2], *lengths, beta=0.3, gamma=0.5),
        "orpo": orpo_loss(*four[:2], *lengths, beta=0.3),
        "cpo": cpo_loss(*four[:2], lengths[0], beta=0.3),
        "apo_zero": apo_zero_loss(*four, beta=0.3),
        "apo_down": apo_down_loss(*four, beta=0.3),
        "bco": bco_loss(*four, beta=0.3),
        "nca": nca_loss(*four, beta=0.3),
        "sppo": sppo_loss(*four, beta=0.3),
    }
    for name, value in expected.items():
        torch.testing.assert_close(PREFERENCE_LOSSES[name](pairs, beta=0.3), value, msg=name)
        torch.testing.assert_close(PREFERENCE_LOSSES[name].fn(pairs, beta=0.3), value, msg=name)


def test_options_reach_the_function():
    pairs = table_pairs()
    four = (pairs.policy_chosen, pairs.policy_rejected, pairs.ref_chosen, pairs.ref_rejected)
    smooth = PREFERENCE_LOSSES["sigmoid"](pairs, beta=0.3, label_smoothing=0.2)
    torch.testing.assert_close(smooth, dpo_loss(*four, beta=0.3, label_smoothing=0.2))
    with pytest.raises(ValueError, match=r"unknown option \['gama'\].*gamma"):
        PREFERENCE_LOSSES["simpo"](pairs, beta=0.3, gama=1.0)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_what_the_table_says_a_loss_needs_is_what_it_needs(name):
    entry, pairs = PREFERENCE_LOSSES[name], table_pairs()
    bare = PairLogps(pairs.policy_chosen, pairs.policy_rejected)
    if entry.needs_reference or entry.needs_lengths:
        with pytest.raises(ValueError, match="this loss needs"):
            entry(bare, beta=0.3)
    enough = PairLogps(
        pairs.policy_chosen,
        pairs.policy_rejected,
        *((pairs.ref_chosen, pairs.ref_rejected) if entry.needs_reference else (None, None)),
        *((pairs.chosen_lengths, pairs.rejected_lengths) if entry.needs_lengths else (None, None)),
    )
    torch.testing.assert_close(entry(enough, beta=0.3), entry(pairs, beta=0.3))
    assert entry(pairs, beta=0.3).shape == (3,)
    assert entry.optimum.endswith(".")


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_extreme_inputs_stay_finite(name):
    extremes = torch.tensor([0.0, -1e4, -1e-30, -3e3])
    grid = torch.cartesian_prod(extremes, extremes, extremes, extremes)
    chosen, rejected = (grid[:, i].clone().requires_grad_() for i in (0, 1))
    lengths = torch.full((len(grid),), 3)
    pairs = PairLogps(chosen, rejected, grid[:, 2], grid[:, 3], lengths, lengths)
    loss = PREFERENCE_LOSSES[name](pairs, beta=0.5)
    loss.sum().backward()
    for x in (loss, chosen.grad, rejected.grad):
        assert bool(torch.isfinite(x).all())
