"""Chapter 9: token rewards, critic, KL controller, diagnosis, a fair control."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rlhf_lite.teaching.exercises.loading import Mistakes

MISTAKES: Mistakes = {}


def ppo_token_rewards(logp: Tensor, ref_logp: Tensor, score: Tensor, mask: Tensor, beta: float) -> Tensor:
    """From log-probabilities and one score per text to a reward for each token."""
    return _with_score(_penalty(logp, ref_logp, mask, beta), _last(mask), score)


def _penalty(logp: Tensor, ref_logp: Tensor, mask: Tensor, beta: float) -> Tensor:
    return torch.where(mask, -beta * (logp - ref_logp), 0.0)


def _last(mask: Tensor) -> Tensor:
    """Column of the last counted token of each row."""
    return mask.shape[1] - 1 - mask.long().flip(1).argmax(1)


def _with_score(rewards: Tensor, column: Tensor | int, score: Tensor) -> Tensor:
    rewards = rewards.clone()
    rewards[torch.arange(len(rewards)), column] += score
    return rewards


MISTAKES["ppo_token_rewards"] = {
    "the score in the last column": lambda p, q, s, m, b: _with_score(_penalty(p, q, m, b), -1, s),
    "the number of tokens as a place": lambda p, q, s, m, b: _with_score(
        _penalty(p, q, m, b), m.sum(1) - 1, s
    ),
    "the score on every token": lambda p, q, s, m, b: _penalty(p, q, m, b) + m * s[:, None],
    "the score spread over the tokens": lambda p, q, s, m, b:
        _penalty(p, q, m, b) + m * (s / m.sum(1))[:, None],
    "the sign of the penalty": lambda p, q, s, m, b: ppo_token_rewards(p, q, s, m, -b),
    "the mask forgotten": lambda p, q, s, m, b: _with_score(-b * (p - q), _last(m), s),
    "the whole KL on the last token": lambda p, q, s, m, b: _with_score(
        0 * p, _last(m), s + _penalty(p, q, m, b).sum(1)
    ),
    "the score priced too": lambda p, q, s, m, b: ppo_token_rewards(p, q, b * s, m, b),
}


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """How much of the returns does the critic predict?"""
    return float(1 - _unexplained(values, returns, mask))


def _unexplained(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    return (returns - values)[mask].var() / returns[mask].var()


MISTAKES["explained_variance"] = {
    "the mean square for the variance": lambda v, r, m: 1 - ((r - v)[m] ** 2).mean() / r[m].var(correction=0),
    "the squared correlation": lambda v, r, m:
        torch.corrcoef(torch.stack([v[m], r[m]]))[0, 1].nan_to_num(0.0) ** 2,
    "the variance of the values": lambda v, r, m: v[m].var() / r[m].var(),
    "the mask forgotten": lambda v, r, m: 1 - (r - v).var() / r.var(),
    "standard deviations": lambda v, r, m: 1 - _unexplained(v, r, m).sqrt(),
    "what is left, not what is explained": _unexplained,
    "cut off at zero": lambda v, r, m: max(0.0, explained_variance(v, r, m)),
    "relative to the values": lambda v, r, m: 1 - (r - v)[m].var() / v[m].var(),
}


def adaptive_kl_step(beta: float, kl: float, target: float, n: int, horizon: float) -> float:
    """One step of the controller that holds the KL near a target."""
    return beta * (1 + _clip(kl / target - 1) * n / horizon)


def _clip(x: float) -> float:
    return max(-0.2, min(0.2, x))


MISTAKES["adaptive_kl_step"] = {
    "no clip": lambda b, kl, t, n, h: b * (1 + (kl / t - 1) * n / h),
    "the direction reversed": lambda b, kl, t, n, h: b * (1 - _clip(kl / t - 1) * n / h),
    "target over KL": lambda b, kl, t, n, h: b * (1 + _clip(1 - t / kl) * n / h),
    "an absolute error": lambda b, kl, t, n, h: b * (1 + _clip(kl - t) * n / h),
    "an additive step": lambda b, kl, t, n, h: b + _clip(kl / t - 1) * n / h,
    "the number of texts forgotten": lambda b, kl, t, n, h: b * (1 + _clip(kl / t - 1) / h),
    "the horizon forgotten": lambda b, kl, t, n, h: b * (1 + _clip(kl / t - 1)),
    "the clip after the scaling": lambda b, kl, t, n, h: b * (1 + _clip((kl / t - 1) * n / h)),
}

Dashboard = dict[str, float]
Rule = tuple[Callable[[Dashboard], bool], str]
BUG: Rule = (lambda d: d["first_error"] > 0.05, "bug")
STEPS: Rule = (lambda d: d["clip"] > 0.3, "steps too large")
SMALL: Rule = (lambda d: d["kl"] > 15, "beta too small")
LARGE: Rule = (lambda d: d["kl"] < 0.5 and d["reward_gain"] < 0.2, "beta too large")
CRITIC: Rule = (lambda d: d["explained_variance"] < -0.2, "critic")


def diagnose_dashboard(dashboard: Dashboard) -> str:
    """Which dial is wrong? A diagnosis from five numbers of a dashboard."""
    return _first_that_holds(BUG, STEPS, SMALL, LARGE, CRITIC)(dashboard)


def _first_that_holds(*rules: Rule) -> Callable[[Dashboard], str]:
    return lambda dashboard: next((name for holds, name in rules if holds(dashboard)), "healthy")


_NO_GAIN: Rule = (lambda d: d["reward_gain"] < 0.2, "beta too large")
_NO_KL: Rule = (lambda d: d["kl"] < 0.5, "beta too large")

MISTAKES["diagnose_dashboard"] = {
    "only the reward": _first_that_holds(_NO_GAIN),
    "a high KL always means a small beta": _first_that_holds(BUG, SMALL, STEPS, LARGE, CRITIC),
    "the check comes last": _first_that_holds(STEPS, SMALL, LARGE, CRITIC, BUG),
    "the check forgotten": _first_that_holds(STEPS, SMALL, LARGE, CRITIC),
    "a small KL is always an illness": _first_that_holds(BUG, STEPS, SMALL, _NO_KL, CRITIC),
    "the critic before the drift": _first_that_holds(BUG, CRITIC, STEPS, SMALL, LARGE),
    "the critic forgotten": _first_that_holds(BUG, STEPS, SMALL, LARGE),
}


def kl_matched_n(kl: float) -> int:
    """Which best-of-n is a fair control for a policy with a given KL?"""
    below = _last_below(kl)
    return below if kl - _bound(below) <= _bound(below + 1) - kl else below + 1


def _bound(n: int) -> float:
    return math.log(n) - (n - 1) / n


def _last_below(kl: float) -> int:
    n = 1
    while _bound(n + 1) <= kl:
        n += 1
    return n


def _first_above(kl: float) -> int:
    n = 1
    while _bound(n) < kl:
        n += 1
    return n


MISTAKES["kl_matched_n"] = {
    "log n alone": lambda kl: max(1, round(math.exp(kl))),
    "the limit for large n": lambda kl: max(1, round(math.exp(kl + 1))),
    "the first n above": _first_above,
    "the last n below": _last_below,
    "bits for nats": lambda kl: max(1, round(2**kl)),
    "powers of two only": lambda kl: min((2**k for k in range(20)), key=lambda n: abs(_bound(n) - kl)),
}
