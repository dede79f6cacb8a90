"""Chapter 0 (quick start): accuracy of a reward model, KL per sequence, Bradley-Terry."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlhf_lite.teaching.exercises.loading import Mistakes

MISTAKES: Mistakes = {}


def pairwise_accuracy(chosen_scores: Tensor, rejected_scores: Tensor) -> float:
    """How often is a reward model right? A tie counts one half."""
    wins = (chosen_scores > rejected_scores).double()
    ties = (chosen_scores == rejected_scores).double()
    return float((wins + 0.5 * ties).mean())


MISTAKES["pairwise_accuracy"] = {
    "ties count as losses": lambda c, r: (c > r).double().mean(),
    "ties count as wins": lambda c, r: (c >= r).double().mean(),
    "chosen and rejected swapped": lambda c, r: pairwise_accuracy(r, c),
    "comparing the averages": lambda c, r: float(c.mean() > r.mean()),
    "every chosen with every rejected": lambda c, r: (c[:, None] > r[None, :]).double().mean(),
    "a score above zero": lambda c, r: (c > 0).double().mean(),
    "a count, not a fraction": lambda c, r: len(c) * pairwise_accuracy(c, r),
    "per cent": lambda c, r: 100 * pairwise_accuracy(c, r),
    "the mean margin": lambda c, r: (c - r).double().mean(),
}


def kl_per_sequence(logp: Tensor, ref_logp: Tensor, mask: Tensor) -> float:
    """The KL divergence of a policy from its reference, per sequence."""
    log_ratio = torch.where(mask, logp - ref_logp, 0.0)
    return float(log_ratio.sum(dim=1).mean())


MISTAKES["kl_per_sequence"] = {
    "multiplying by the mask": lambda p, q, m: ((p - q) * m).sum(1).mean(),
    "the sign swapped": lambda p, q, m: ((q - p) * m).sum(1).mean(),
    "a mean over tokens": lambda p, q, m: ((p - q) * m).sum() / m.sum(),
    "a mean within each sequence": lambda p, q, m: (((p - q) * m).sum(1) / m.sum(1)).mean(),
    "the mask forgotten": lambda p, q, m: (p - q).sum(1).mean(),
    "the mask inverted": lambda p, q, m: ((p - q) * ~m).sum(1).mean(),
    "a sum over sequences": lambda p, q, m: ((p - q) * m).sum(),
    "absolute values": lambda p, q, m: ((p - q) * m).abs().sum(1).mean(),
    "divided by the padded length": lambda p, q, m: ((p - q) * m).mean(),
    "empty answers dropped": lambda p, q, m: ((p - q) * m).sum(1)[m.any(1)].mean(),
}


def bradley_terry(score_a: float, score_b: float) -> float:
    """The probability that the first of two texts is preferred, from their scores."""
    difference = score_a - score_b
    if difference >= 0:
        return 1 / (1 + math.exp(-difference))
    return math.exp(difference) / (1 + math.exp(difference))


MISTAKES["bradley_terry"] = {
    "a and b swapped": lambda a, b: bradley_terry(b, a),
    "overflow in the logistic function": lambda a, b: 1 / (1 + math.exp(b - a)),
    "overflow in the softmax": lambda a, b: math.exp(a) / (math.exp(a) + math.exp(b)),
    "a ratio of the scores": lambda a, b: a / (a + b),
    "a hard decision": lambda a, b: 1.0 if a > b else 0.5 if a == b else 0.0,
    "one score only": lambda a, b: bradley_terry(a, 0.0),
    "chess ratings": lambda a, b: 1 / (1 + 10 ** ((b - a) / 400)),
    "the normal distribution": lambda a, b: 0.5 * (1 + math.erf((a - b) / math.sqrt(2))),
    "the log-probability": lambda a, b: -math.log1p(math.exp(b - a)) if a - b > -500 else a - b,
}
