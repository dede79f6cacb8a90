"""Chapter 12: the DPO loss, a policy read as a reward model, two slopes, a diagnosis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lite.teaching.exercises.loading import Mistakes

MISTAKES: Mistakes = {}


def dpo_batch_loss(policy: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The DPO loss of a batch, from the log-probabilities of its tokens."""
    return -logsigmoid(beta * _gaps(_log_ratios(policy, ref, mask)))


def _log_ratios(policy: Tensor, ref: Tensor, mask: Tensor) -> Tensor:
    """Log π/π_ref of each answer, summed over its tokens."""
    return torch.where(mask, policy - ref, 0.0).sum(1)


def _gaps(log_ratios: Tensor) -> Tensor:
    """Chosen, the first half, minus rejected, the second half."""
    chosen, rejected = log_ratios.chunk(2)
    return chosen - rejected


MISTAKES["dpo_batch_loss"] = {
    "the mean over tokens": lambda p, q, m, b: -logsigmoid(b * _gaps(_log_ratios(p, q, m) / m.sum(1))),
    "the mask forgotten": lambda p, q, m, b: -logsigmoid(b * _gaps((p - q).sum(1))),
    "chosen and rejected exchanged": lambda p, q, m, b: dpo_batch_loss(q, p, m, b),
    "neighbours taken for pairs": lambda p, q, m, b:
        -logsigmoid(-b * _log_ratios(p, q, m).view(-1, 2).diff().squeeze(1)),
    "the reference forgotten": lambda p, q, m, b: dpo_batch_loss(p, 0 * q, m, b),
    "beta forgotten": lambda p, q, m, b: dpo_batch_loss(p, q, m, 1.0),
    "beta outside": lambda p, q, m, b: b * dpo_batch_loss(p, q, m, 1.0),
    "the logarithm of the sigmoid": lambda p, q, m, b: -(b * _gaps(_log_ratios(p, q, m))).sigmoid().log(),
    "one number for the batch": lambda p, q, m, b: dpo_batch_loss(p, q, m, b).mean(),
}


def implicit_preference(pw: Tensor, pl: Tensor, qw: Tensor, ql: Tensor, beta: float) -> Tensor:
    """A policy read as a reward model, and its forecast for a pair."""
    return (beta * _margin(pw, pl, qw, ql)).sigmoid()


def _margin(pw: Any, pl: Any, qw: Any, ql: Any) -> Any:
    """How far the policy tells the two answers apart beyond the reference: of tensors, or of numbers."""
    return (pw - qw) - (pl - ql)


MISTAKES["implicit_preference"] = {
    "the policy alone": lambda pw, pl, qw, ql, b: (b * (pw - pl)).sigmoid(),
    "the ratio of probabilities": lambda pw, pl, qw, ql, b: (pw - pl).sigmoid(),
    "the sign": lambda pw, pl, qw, ql, b: implicit_preference(pw, pl, qw, ql, -b),
    "beta forgotten": lambda pw, pl, qw, ql, b: implicit_preference(pw, pl, qw, ql, 1.0),
    "divided by beta": lambda pw, pl, qw, ql, b: implicit_preference(pw, pl, qw, ql, 1 / b),
    "yes or no": lambda pw, pl, qw, ql, b: (_margin(pw, pl, qw, ql) > 0).double(),
    "the loss": lambda pw, pl, qw, ql, b: -implicit_preference(pw, pl, qw, ql, b).log(),
}


def dpo_gradient(pw: float, pl: float, qw: float, ql: float, beta: float) -> list[float]:
    """How strongly does a pair push its two answers?"""
    return _pushes(beta * _sigmoid(-beta * _margin(pw, pl, qw, ql)))


def _sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z))


def _pushes(weight: float) -> list[float]:
    return [-weight, weight]


MISTAKES["dpo_gradient"] = {
    "the weight upside down": lambda pw, pl, qw, ql, b: _pushes(b * _sigmoid(b * _margin(pw, pl, qw, ql))),
    "beta forgotten in front": lambda pw, pl, qw, ql, b: _pushes(_sigmoid(-b * _margin(pw, pl, qw, ql))),
    "beta forgotten inside": lambda pw, pl, qw, ql, b: _pushes(b * _sigmoid(-_margin(pw, pl, qw, ql))),
    "the signs exchanged": lambda pw, pl, qw, ql, b: dpo_gradient(pw, pl, qw, ql, b)[::-1],
    "each answer on its own": lambda pw, pl, qw, ql, b:
        [-b * _sigmoid(-b * (pw - qw)), b * _sigmoid(b * (pl - ql))],
    "the rejected answer forgotten": lambda pw, pl, qw, ql, b: [dpo_gradient(pw, pl, qw, ql, b)[0], 0.0],
    "the reference forgotten": lambda pw, pl, qw, ql, b: dpo_gradient(pw, pl, 0.0, 0.0, b),
    "always half": lambda pw, pl, qw, ql, b: _pushes(b / 2),
}

Question = tuple[Callable[[float, float, float], bool], str]
LN2 = math.log(2.0)
WRONG, FOLLOWS, SWAPPED = "wrong reference", "reference follows", "labels swapped"
OFF: Question = (lambda loss, margin, accuracy: abs(loss - LN2) > 0.01, WRONG)
STILL: Question = (lambda loss, margin, accuracy: abs(margin) < 1e-6, FOLLOWS)
BACKWARDS: Question = (lambda loss, margin, accuracy: accuracy < 0.4, SWAPPED)


def diagnose_dpo(first_loss: float, last_margin: float, accuracy: float) -> str:
    """What is wrong with this DPO run?"""
    return _ask(OFF, STILL, BACKWARDS)(first_loss, last_margin, accuracy)


def _ask(*questions: Question) -> Callable[[float, float, float], str]:
    """The answer of the first question that is answered with yes."""
    return lambda *log: next((name for holds, name in questions if holds(*log)), "none of these")


_HIGH_LOSS: Question = (lambda loss, margin, accuracy: loss > LN2 + 0.01, WRONG)
_OFF_IN_BITS: Question = (lambda loss, margin, accuracy: abs(loss - 1.0) > 0.01, WRONG)
_SMALL_MARGIN: Question = (lambda loss, margin, accuracy: margin < 0.05, FOLLOWS)
_BELOW_HALF: Question = (lambda loss, margin, accuracy: accuracy < 0.5, SWAPPED)

MISTAKES["diagnose_dpo"] = {
    "only a high first loss": _ask(_HIGH_LOSS, STILL, BACKWARDS),
    "bits for nats": _ask(_OFF_IN_BITS, STILL, BACKWARDS),
    "a small margin taken for none": _ask(OFF, _SMALL_MARGIN, BACKWARDS),
    "every accuracy below one half": _ask(OFF, STILL, _BELOW_HALF),
    "the accuracy first": _ask(BACKWARDS, OFF, STILL),
    "the follower forgotten": _ask(OFF, BACKWARDS),
    "the first loss forgotten": _ask(STILL, BACKWARDS),
}
