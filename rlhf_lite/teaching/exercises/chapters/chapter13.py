"""Chapter 13: noisy labels, IPO's two forms, KTO, SimPO, and losses known by their slopes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lite.teaching.exercises.loading import Mistakes

MISTAKES: Mistakes = {}


def robust_loss(gap: Tensor, beta: float, flip_rate: float) -> Tensor:
    """The loss that undoes a known share of flipped labels."""
    clean, flipped = -logsigmoid(beta * gap), -logsigmoid(-beta * gap)
    return ((1 - flip_rate) * clean - flip_rate * flipped) / (1 - 2 * flip_rate)


def _conservative_loss(gap: Tensor, beta: float, flip_rate: float) -> Tensor:
    return -(1 - flip_rate) * logsigmoid(beta * gap) - flip_rate * logsigmoid(-beta * gap)


MISTAKES["robust_loss"] = {
    "conservative DPO": _conservative_loss,
    "no divisor": lambda h, b, e: robust_loss(h, b, e) * (1 - 2 * e),
    "added and divided": lambda h, b, e: _conservative_loss(h, b, e) / (1 - 2 * e),
    "the roles of the rates exchanged": lambda h, b, e: -robust_loss(h, b, 1 - e),
    "flips ignored": lambda h, b, e: -logsigmoid(b * h),
    "beta in front": lambda h, b, e: b * robust_loss(h, 1.0, e),
    "the mean over the batch": lambda h, b, e: robust_loss(h, b, e).mean(),
    "overflow": lambda h, b, e:
        (e * (-b * h).sigmoid().log() - (1 - e) * (b * h).sigmoid().log()) / (1 - 2 * e),
}


def ipo_target_gap(tau: float, win_rate: float, tokens: int, form: str) -> float:
    """How far apart does IPO want two texts, in each of its two forms?"""
    return (win_rate - 0.5) / tau * _length(tokens, form)


def _length(tokens: int, form: str) -> int:
    return tokens if form == "mean" else 1


MISTAKES["ipo_target_gap"] = {
    "the win rate ignored": lambda tau, p, n, form: 0.5 / tau * _length(n, form),
    "DPO's target": lambda tau, p, n, form:
        math.log(p / (1 - p)) / tau * _length(n, form) if 0 < p < 1 else math.inf,
    "lengths forgotten": lambda tau, p, n, form: (p - 0.5) / tau,
    "divided by the length": lambda tau, p, n, form: (p - 0.5) / tau / _length(n, form),
    "tau multiplied": lambda tau, p, n, form: (p - 0.5) * tau * _length(n, form),
    "the forms exchanged": lambda tau, p, n, form: (p - 0.5) / tau * (n if form == "sum" else 1),
    "the factor two forgotten": lambda tau, p, n, form: (2 * p - 1) / tau * _length(n, form),
}

GAPS = (-60.0, -30.0, 0.0, 30.0, 60.0)


def slopes_at_gaps(loss: str, parameters: list[float]) -> tuple[list[float]]:
    """The argument of ``which_loss``: the slope of a loss at each of the gaps."""
    return ([_SLOPES[loss](gap, *parameters) for gap in GAPS],)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _robust_slope(h: float, beta: float, eps: float) -> float:
    return -beta * ((1 - eps) * _sigmoid(-beta * h) + eps * _sigmoid(beta * h)) / (1 - 2 * eps)


_SLOPES = {
    "dpo": lambda h, beta: -beta * _sigmoid(-beta * h),
    "conservative": lambda h, beta, eps: beta * (_sigmoid(beta * h) - (1 - eps)),
    "robust": _robust_slope,
    "hinge": lambda h, beta: -beta if beta * h < 1 else 0.0,
    "ipo": lambda h, tau: 2 * (h - 0.5 / tau),
}


def which_loss(slopes: list[float]) -> str:
    """Which loss is it, seen by its slope against the gap?"""
    first, second, middle, _, last = slopes
    if last > 0:  # pulls back from a gap that is too wide: conservative DPO and IPO
        return "ipo" if math.isclose(middle - second, second - first) else "conservative"
    if last == 0:
        return "hinge"
    return "dpo" if abs(last) < 0.01 * abs(first) else "robust"


def _mixed_up(slopes: list[float], instead: dict[str, str]) -> str:
    """The right loss, but under another name if ``instead`` has one."""
    return instead.get(which_loss(slopes), which_loss(slopes))


MISTAKES["which_loss"] = {
    "always DPO": lambda slopes: "dpo",
    "the last sign only": lambda slopes: "conservative" if slopes[-1] > 0 else "dpo",
    "IPO and conservative DPO mixed up": lambda slopes: _mixed_up(
        slopes, {"ipo": "conservative", "conservative": "ipo"}
    ),
    "robust and conservative mixed up": lambda slopes: _mixed_up(
        slopes, {"robust": "conservative", "conservative": "robust"}
    ),
    "robust taken for DPO": lambda slopes: _mixed_up(slopes, {"robust": "dpo"}),
    "the hinge taken for DPO": lambda slopes: _mixed_up(slopes, {"hinge": "dpo"}),
    "tiny taken for zero": lambda slopes: "hinge" if abs(slopes[-1]) < 1e-6 else which_loss(slopes),
}


def kto_batch_loss(ratio: Tensor, liked: Tensor, mismatched: Tensor, beta: float) -> Tensor:
    """KTO's loss of a batch, with its reference point."""
    return _kto(liked, ratio - _reference_point(mismatched), beta)


def _kto(liked: Tensor, gain: Tensor, beta: float) -> Tensor:
    return torch.where(liked, torch.sigmoid(-beta * gain), torch.sigmoid(beta * gain))


def _reference_point(ratios: Tensor) -> Tensor:
    return ratios.mean().clamp(min=0.0)


MISTAKES["kto_batch_loss"] = {
    "each mismatched ratio cut off": lambda r, up, m, b: kto_batch_loss(r, up, m.clamp(min=0.0), b),
    "not cut off": lambda r, up, m, b: _kto(up, r - m.mean(), b),
    "no reference point": lambda r, up, m, b: _kto(up, r, b),
    "the batch's own mean": lambda r, up, m, b: kto_batch_loss(r, up, r, b),
    "beta on the ratio only": lambda r, up, m, b: _kto(up, r - _reference_point(m) / b, b),
    "z with the wrong sign for disliked answers": lambda r, up, m, b: _kto(
        up, r + _reference_point(m) * (1 - 2 * up.double()), b
    ),
    "kinds exchanged": lambda r, up, m, b: kto_batch_loss(r, ~up, m, b),
    "a logarithm": lambda r, up, m, b: -(1 - kto_batch_loss(r, up, m, b)).log(),
}


def simpo_pair_loss(chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor,
                    beta: float, gamma: float) -> Tensor:
    """SimPO, with means per token and its target margin."""
    return -logsigmoid(beta * (chosen / chosen_lengths - rejected / rejected_lengths) - gamma)


MISTAKES["simpo_pair_loss"] = {
    "sums instead of means": lambda w, x, nw, nx, b, g: -logsigmoid(b * (w - x) - g),
    "one length for both": lambda w, x, nw, nx, b, g: simpo_pair_loss(w, x, nw, nw, b, g),
    "gamma inside beta": lambda w, x, nw, nx, b, g: simpo_pair_loss(w, x, nw, nx, b, b * g),
    "gamma added": lambda w, x, nw, nx, b, g: simpo_pair_loss(w, x, nw, nx, b, -g),
    "gamma forgotten": lambda w, x, nw, nx, b, g: simpo_pair_loss(w, x, nw, nx, b, 0.0),
    "lengths exchanged": lambda w, x, nw, nx, b, g: simpo_pair_loss(w, x, nx, nw, b, g),
    "chosen and rejected exchanged": lambda w, x, nw, nx, b, g: simpo_pair_loss(x, w, nx, nw, b, g),
    "overflow": lambda w, x, nw, nx, b, g: -(b * (w / nw - x / nx) - g).sigmoid().log(),
}
