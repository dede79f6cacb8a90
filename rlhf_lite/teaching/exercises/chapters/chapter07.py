"""Chapter 7: the best policy, its value, the fraction reached, best-of-n, the implied reward."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import one_hot

from rlhf_lite.teaching.exercises.loading import Mistakes

MISTAKES: Mistakes = {}


def tilted_law(ref_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """The distribution that maximises reward minus β times KL, without overflow."""
    return (ref_probs.log() + rewards / beta).softmax(-1)


MISTAKES["tilted_law"] = {
    "overflow": lambda q, r, beta: q * (r / beta).exp() / (q * (r / beta).exp()).sum(-1, keepdim=True),
    "the reference forgotten": lambda q, r, beta: (r / beta).softmax(-1),
    "beta multiplied": lambda q, r, beta: (q.log() + r * beta).softmax(-1),
    "the reference tempered too": lambda q, r, beta: ((q.log() + r) / beta).softmax(-1),
    "a probability added to a logarithm": lambda q, r, beta: (q + r / beta).softmax(-1),
    "the sign of the reward": lambda q, r, beta: (q.log() - r / beta).softmax(-1),
    "not normalised": lambda q, r, beta: (q.log() + r / beta - (r / beta).amax(-1, keepdim=True)).exp(),
    "normalised over all prompts": lambda q, r, beta:
        (q.log() + r / beta).flatten().softmax(-1).reshape(q.shape),
    "normalised along the wrong axis": lambda q, r, beta: (q.log() + r / beta).softmax(0),
    "a small number under the logarithm": lambda q, r, beta: ((q + 1e-8).log() + r / beta).softmax(-1),
    "the best text only": lambda q, r, beta: one_hot(r.argmax(-1), r.shape[-1]).double(),
}


def best_value(ref_probs: Tensor, rewards: Tensor, beta: float) -> float:
    """The highest value of the objective that any policy can reach."""
    return float(beta * (ref_probs.log() + rewards / beta).logsumexp(-1))


def _kl(p: Tensor, q: Tensor) -> float:
    possible = p > 0
    return float((p[possible] * (p[possible].log() - q[possible].log())).sum())


MISTAKES["best_value"] = {
    "beta missing outside": lambda q, r, beta: (q.log() + r / beta).logsumexp(-1),
    "the reward of the best policy": lambda q, r, beta: (tilted_law(q, r, beta) * r).sum(),
    "the price missing before the KL": lambda q, r, beta:
        (tilted_law(q, r, beta) * r).sum() - _kl(tilted_law(q, r, beta), q),
    "the highest reward": lambda q, r, beta: r.max(),
    "the reference's reward": lambda q, r, beta: (q * r).sum(),
    "the reference forgotten": lambda q, r, beta: beta * (r / beta).logsumexp(-1),
    "all texts equally likely": lambda q, r, beta: beta * ((r / beta).logsumexp(-1) - math.log(len(r))),
    "overflow": lambda q, r, beta: beta * (q * (r / beta).exp()).sum().log(),
    "beta the wrong way round": lambda q, r, beta: best_value(q, r, 1 / beta),
    "the logarithm forgotten": lambda q, r, beta: beta * (q.log() + r / beta).logsumexp(-1).exp(),
}


def share_reached(probs: Tensor, ref_probs: Tensor, rewards: Tensor, beta: float) -> float:
    """Which fraction of the possible improvement did a policy make?"""
    return _share_of_gain(_objective(probs, ref_probs, rewards, beta), ref_probs, rewards, beta)


def _objective(p: Tensor, q: Tensor, r: Tensor, beta: float) -> float:
    return float((p * r).sum()) - beta * _kl(p, q)


def _share_of_gain(value: float, q: Tensor, r: Tensor, beta: float) -> float:
    start = float((q * r).sum())
    return (value - start) / (best_value(q, r, beta) - start)


MISTAKES["share_reached"] = {
    "a plain ratio": lambda p, q, r, beta: _objective(p, q, r, beta) / best_value(q, r, beta),
    "the KL forgotten": lambda p, q, r, beta: _share_of_gain(float((p * r).sum()), q, r, beta),
    "the share of the highest reward": lambda p, q, r, beta: ((p - q) * r).sum() / (r.max() - (q * r).sum()),
    "the share of the optimum's reward": lambda p, q, r, beta:
        ((p - q) * r).sum() / ((tilted_law(q, r, beta) - q) * r).sum(),
    "a price of 1": lambda p, q, r, beta: share_reached(p, q, r, 1.0),
    "clipped to between 0 and 1": lambda p, q, r, beta: min(1.0, max(0.0, share_reached(p, q, r, beta))),
    "NaN from zero probabilities": lambda p, q, r, beta: _share_of_gain(
        float((p * r).sum() - beta * (p * (p.log() - q.log())).sum()), q, r, beta
    ),
    "the KL the other way round": lambda p, q, r, beta: _share_of_gain(
        float((p * r).sum()) - beta * _kl(q, p), q, r, beta
    ),
    "one minus the KL to the optimum": lambda p, q, r, beta: 1 - _kl(p, tilted_law(q, r, beta)),
}


def winner_kl(probs: Tensor, rewards: Tensor, n: int) -> float:
    """The exact KL of best-of-n from the reference, when all rewards differ."""
    return _kl(_winner_probs(probs, rewards, n), probs)


def _winner_probs(probs: Tensor, rewards: Tensor, n: int) -> Tensor:
    order = rewards.argsort()
    at_most = probs[order].cumsum(0)
    winner = probs.new_empty(len(probs))
    winner[order] = at_most**n - (at_most - probs[order]).clamp(min=0) ** n
    return winner


MISTAKES["winner_kl"] = {
    "the well-known bound": lambda p, r, n: math.log(n) - (n - 1) / n,
    "the logarithm of n": lambda p, r, n: math.log(n),
    "the KL the other way round": lambda p, r, n: (p * (p / _winner_probs(p, r, n)).log()).nansum(),
    "not sorted": lambda p, r, n: winner_kl(p, r.sort().values, n),
    "the worst of n": lambda p, r, n: winner_kl(p, -r, n),
    "NaN from zero probabilities": lambda p, r, n: (
        _winner_probs(p, r, n) * (_winner_probs(p, r, n) / p).log()
    ).sum(),
    "the chance to be among the draws": lambda p, r, n: _kl((1 - (1 - p) ** n) / (1 - (1 - p) ** n).sum(), p),
    "all draws the same text": lambda p, r, n: _kl((n * p.log()).softmax(-1), p),
}


def implied_reward(logp: Tensor, ref_logp: Tensor, beta: float) -> Tensor:
    """Which reward makes this policy the best one? The first text of each prompt has the reward zero."""
    return _from_first(beta * (logp - ref_logp))


def _from_first(rewards: Tensor) -> Tensor:
    return rewards - rewards[..., :1]


MISTAKES["implied_reward"] = {
    "the ratio upside down": lambda p, q, beta: implied_reward(q, p, beta),
    "divided by beta": lambda p, q, beta: implied_reward(p, q, 1 / beta),
    "the reference forgotten": lambda p, q, beta: _from_first(beta * p),
    "beta forgotten": lambda p, q, beta: implied_reward(p, q, 1.0),
    "no zero chosen": lambda p, q, beta: beta * (p - q),
    "mean zero": lambda p, q, beta: beta * (p - q - (p - q).mean(-1, keepdim=True)),
    "one zero for all prompts": lambda p, q, beta: beta * (p - q - (p - q).flatten()[0]),
    "through probabilities": lambda p, q, beta: _from_first(beta * (p.exp() / q.exp()).log()),
    "the ratio itself": lambda p, q, beta: _from_first(beta * (p - q).exp()),
}
