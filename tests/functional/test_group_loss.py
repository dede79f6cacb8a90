"""GRPO's token loss and the rules that turn token losses into one number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lite.functional import (
    aggregate_tokens,
    aggregation_weights,
    grpo_loss,
    kl_estimate,
    ppo_policy_loss,
    reinforce_loss,
)

RULES = ("grpo", "dapo", "bnpo", "dr_grpo")
each_rule = pytest.mark.parametrize("rule", RULES)


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# --- Per token

# ρ, A -> loss, dloss/dlogp with ε = 0.2 and ε_high = 0.5
CASES = [
    (1.0, 2.0, -2.0, -2.0),
    (1.4, 2.0, -2.8, -2.8),  # beyond 1.2, still inside 1.5
    (1.6, 2.0, -3.0, 0.0),
    (1.6, -2.0, 3.2, 3.2),
    (0.7, -2.0, 1.6, 0.0),
    (0.7, 2.0, -1.4, -1.4),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "slope"), CASES)
def test_two_sided_clip_by_hand(ratio, advantage, loss, slope):
    logp = t(math.log(ratio) - 3).unsqueeze(0).requires_grad_()
    got = grpo_loss(logp, t(-3).unsqueeze(0), t(advantage).unsqueeze(0), clip=0.2, clip_high=0.5)
    got.sum().backward()
    assert got.item() == pytest.approx(loss)
    assert logp.grad.item() == pytest.approx(slope, abs=0.0 if slope == 0.0 else 1e-9)


def test_without_extras_it_is_ppos_loss():
    logp, old, advantages = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = ppo_policy_loss(logp, old, advantages, clip=0.2)
    assert torch.equal(grpo_loss(logp, old, advantages, clip=0.2), expected)
    assert torch.equal(grpo_loss(logp, old, advantages, clip=0.2, ref_logp=old), expected)


def test_the_penalty_is_k3_to_the_reference_not_to_the_old_policy():
    logp, old, ref = t(-1, -2).unsqueeze(0), t(-1.1, -2.2).unsqueeze(0), t(-3, -1).unsqueeze(0)
    loss = grpo_loss(logp, old, torch.zeros(1, 2).double(), clip=0.2, ref_logp=ref, kl_coef=0.5)
    # d = 2 and -1: exp(-d) - 1 + d
    expected = [0.5 * (math.exp(-2) + 1), 0.5 * (math.e - 2)]
    assert loss[0].tolist() == pytest.approx(expected)


def test_constants_receive_no_gradient_and_an_alias_of_logp_does_not_silence_the_loss():
    logp = t(-1, -2).unsqueeze(0).requires_grad_()
    others = [t(-1, -2).unsqueeze(0).requires_grad_() for _ in range(3)]
    old, advantages, ref = others
    grpo_loss(logp, old, advantages, clip=0.2, ref_logp=ref, kl_coef=0.1).sum().backward()
    assert all(x.grad is None or bool((x.grad == 0).all()) for x in others)
    for loss in (
        grpo_loss(logp, logp, t(1, 3).unsqueeze(0), clip=0.2),
        ppo_policy_loss(logp, logp, t(1, 3).unsqueeze(0), clip=0.2),
        reinforce_loss(logp, t(1, 3).unsqueeze(0)),
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), logp)
        assert gradient.tolist() == [[-1, -3]]
    live = t(1, 3).unsqueeze(0).requires_grad_()
    reinforce_loss(logp, live).sum().backward()
    assert live.grad is None


def test_gradient():
    logp = t(-1, -2.3, -0.2).unsqueeze(0).requires_grad_()
    old, ref = t(-1.1, -2, -0.9).unsqueeze(0), t(-0.4, -3, -0.2).unsqueeze(0)
    advantages = t(1.5, -0.7, -1).unsqueeze(0)
    assert torch.autograd.gradcheck(
        lambda x: grpo_loss(x, old, advantages, clip=0.2, clip_high=0.3, ref_logp=ref, kl_coef=0.3), logp
    )


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("gap", [-1e4, -90.0, 90.0, 1e4])
def test_broken_samples_give_a_finite_loss(gap, advantage):
    logp = torch.full((1, 1), gap, requires_grad=True)
    zero = torch.zeros(1, 1)
    loss = grpo_loss(logp, zero, torch.full((1, 1), advantage), clip=0.2, ref_logp=zero, kl_coef=0.1)
    loss = loss + ppo_policy_loss(logp, zero, torch.full((1, 1), advantage), clip=0.2)
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all()) and bool(torch.isfinite(logp.grad).all())


def test_expected_gradient_of_k3_is_that_of_the_other_kl():
    # KL as a loss on the policy's own samples: k2 has the gradient of KL(π || ref), k3 that of KL(ref || π),
    # and k1 none at all.
    ref = torch.log_softmax(t(1.0, -0.5, 0.2), 0)
    logits = t(0.3, -0.8, 1.1).requires_grad_()
    logp = torch.log_softmax(logits, 0)
    p = logp.detach().exp()

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    reverse = gradient((logp.exp() * (logp - ref)).sum())  # KL(π || ref)
    forward = gradient((ref.exp() * (ref - logp)).sum())  # KL(ref || π)
    close = {"atol": 1e-12, "rtol": 0}
    torch.testing.assert_close(gradient((p * kl_estimate(logp, ref, kind="k1")).sum()), 0 * p, **close)
    torch.testing.assert_close(gradient((p * kl_estimate(logp, ref, kind="k2")).sum()), reverse, **close)
    torch.testing.assert_close(gradient((p * kl_estimate(logp, ref, kind="k3")).sum()), forward, **close)
    rows = (x.unsqueeze(1) for x in (logp, logp.detach(), torch.zeros(3).double()))
    penalty = grpo_loss(*rows, clip=0.2, ref_logp=ref.unsqueeze(1), kl_coef=1.0).squeeze(1)
    torch.testing.assert_close(gradient((p * penalty).sum()), forward, **close)


# --- Aggregation


def test_golden():
    # The same case in TRL's _compute_loss: per token 1 1 1 1 | 3, at most four tokens
    losses = t(1, 1, 1, 1, 3, math.nan, math.nan, math.nan).view(2, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
    expected = {"grpo": 2.0, "dapo": 1.4, "bnpo": 1.4, "dr_grpo": 0.875}
    for rule, value in expected.items():
        got = aggregate_tokens(losses, mask, aggregation=rule, max_tokens=4)
        assert got.item() == pytest.approx(value, rel=1e-6), rule
    assert aggregate_tokens(losses, mask, aggregation="dr_grpo", max_tokens=8).item() == pytest.approx(7 / 16)


@each_rule
def test_masked_places_get_no_weight_and_no_gradient(rule):
    losses = t(1, 2, math.nan, 5, math.inf, -math.inf).view(2, 3).requires_grad_()
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    aggregate_tokens(losses, mask, aggregation=rule, max_tokens=3).backward()
    weights = aggregation_weights(mask, aggregation=rule, max_tokens=3)
    torch.testing.assert_close(losses.grad, weights.double())
    assert (weights[~mask] == 0).all() and (weights[mask] > 0).all()


masks = st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any)


@given(lengths=masks, rule=st.sampled_from(RULES), extra=st.integers(0, 3), cut=st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_padding_and_splitting_change_nothing(lengths, rule, extra, cut):
    rows, width = len(lengths), max(lengths)
    mask = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]
    losses = torch.arange(1.0, rows * width + 1).view(rows, width)
    whole = aggregate_tokens(losses, mask, aggregation=rule, max_tokens=9)
    wide = (torch.nn.functional.pad(x, (extra, extra)) for x in (losses, mask))
    torch.testing.assert_close(aggregate_tokens(*wide, aggregation=rule, max_tokens=9), whole)
    weights = aggregation_weights(mask, aggregation=rule, max_tokens=9)
    parts = [(weights[s] * losses[s]).sum() for s in (slice(0, cut), slice(cut, None))]
    torch.testing.assert_close(sum(parts), whole)


@given(lengths=masks)
@settings(max_examples=20, deadline=None)
def test_total_weights(lengths):
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    rows, counted = len(lengths), sum(lengths)
    total = {rule: aggregation_weights(mask, aggregation=rule, max_tokens=10).sum().item() for rule in RULES}
    filled = sum(length > 0 for length in lengths)
    assert total["grpo"] == pytest.approx(filled / rows)  # an empty row is still a row
    assert total["dapo"] == total["bnpo"] == pytest.approx(1.0)
    assert total["dr_grpo"] == pytest.approx(counted / (rows * 10))


# Seven answers over the tokens 0, 1 and 2 = end, of at most two tokens: 2 and 00, 01, 02, 10, 11, 12
ANSWERS = [(2,), *((a, b) for a in (0, 1) for b in (0, 1, 2))]


def expected_descent(rule: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Minus the expected gradient of one sampled answer's loss, and the exact gradient of the mean reward."""
    root, after = (
        t(0.2, -0.4, 0.6).requires_grad_(),
        t(0.5, 0, -1, 0.3, 0.9, -0.2).view(2, 3).requires_grad_(),
    )
    rewards = t(1.0, 2.0, -1.0, 0.5, 3.0, -2.0, 0.0)
    loss = value = torch.zeros((), dtype=torch.float64)
    for answer, reward in zip(ANSWERS, rewards, strict=True):
        logp = torch.log_softmax(root, 0)[answer[0]].unsqueeze(0)
        if len(answer) == 2:
            logp = torch.cat([logp, torch.log_softmax(after[answer[0]], 0)[list(answer[1:])]])
        logp = torch.nn.functional.pad(logp, (0, 2 - len(answer)), value=math.nan).unsqueeze(0)
        mask = torch.tensor([[True, len(answer) == 2]])
        per_token = reinforce_loss(logp, reward.expand(1, 2))
        probability = torch.where(mask, logp, 0.0).sum().exp()
        one = aggregate_tokens(per_token, mask, aggregation=rule, max_tokens=2)
        loss = loss + probability.detach() * one
        value = value + probability * reward
    gradients = [torch.autograd.grad(x, (root, after), retain_graph=True) for x in (-loss, value)]
    descent, exact = (torch.cat([part.flatten() for part in parts]) for parts in gradients)
    return descent, exact


def test_a_constant_divisor_keeps_the_direction_of_the_policy_gradient():
    descent, exact = expected_descent("dr_grpo")
    torch.testing.assert_close(2 * descent, exact, atol=1e-12, rtol=0)  # max_tokens = 2


@pytest.mark.parametrize("rule", ["grpo", "dapo"])
def test_dividing_by_the_answers_own_length_bends_it(rule):
    # With one answer in the batch the token mean is the row mean; in a large batch dapo's divisor is nearly
    # constant, so its bias fades and grpo's stays.
    descent, exact = expected_descent(rule)
    assert torch.cosine_similarity(descent, exact, dim=0).item() < 0.99


def test_wrong_input_is_an_error():
    b, bt, mask = torch.zeros(2), torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="logp must have 2 dim"):
        grpo_loss(b, b, b, clip=0.2)
    with pytest.raises(ValueError, match="one shape"):
        grpo_loss(bt, bt, torch.zeros(2, 1), clip=0.2)  # advantages of sequences, not repeated over tokens
    with pytest.raises(ValueError, match="one shape"):
        grpo_loss(bt, bt, bt, clip=0.2, ref_logp=torch.zeros(2, 1), kl_coef=0.1)
    with pytest.raises(ValueError, match=r"kl_coef is 0\.1, which needs ref_logp"):
        grpo_loss(bt, bt, bt, clip=0.2, kl_coef=0.1)
    with pytest.raises(ValueError, match=r"clip must be positive, got 0\.0"):
        grpo_loss(bt, bt, bt, clip=0.0)
    with pytest.raises(ValueError, match=r"clip_high must be positive, got -1"):
        grpo_loss(bt, bt, bt, clip=0.2, clip_high=-1)
    with pytest.raises(ValueError, match="one shape"):
        reinforce_loss(bt, b)
    with pytest.raises(ValueError, match=r"aggregation must be one of .*'mean'"):
        aggregation_weights(mask, aggregation="mean")
    with pytest.raises(ValueError, match="mask is empty"):
        aggregation_weights(~mask, aggregation="grpo")
    with pytest.raises(ValueError, match="needs max_tokens"):
        aggregation_weights(mask, aggregation="dr_grpo")
    with pytest.raises(ValueError, match=r"3 counted tokens, more than max_tokens=2"):
        aggregation_weights(mask, aggregation="dr_grpo", max_tokens=2)
    with pytest.raises(TypeError, match="bool"):
        aggregation_weights(mask.long(), aggregation="grpo")
    with pytest.raises(ValueError, match="one shape"):
        aggregate_tokens(b, mask, aggregation="grpo")
