"""Chapter 8, from the policy gradient to PPO: weights, clipping, advantages, token rewards, a diagnosis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_lite.teaching.exercises.loading import Mistakes

MISTAKES: Mistakes = {}


def reinforce_weights(scores: Tensor, logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    """The number that each sample's gradient is multiplied by."""
    returns = scores - beta * (logps - ref_logps)
    return returns - _mean_of_others(returns)


def _mean_of_others(returns: Tensor) -> Tensor:
    return (returns.sum() - returns) / (len(returns) - 1)


def _with_weights(weights_of: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A wrong answer that differs in what is done with the returns."""
    return lambda scores, logps, ref_logps, beta: weights_of(scores - beta * (logps - ref_logps))


MISTAKES["reinforce_weights"] = {
    "no baseline": _with_weights(lambda r: r),
    "the own return in the mean": _with_weights(lambda r: r - r.mean()),
    "the penalty left out": lambda s, p, q, b: reinforce_weights(s, p, q, 0.0),
    "the penalty as a bonus": lambda s, p, q, b: reinforce_weights(s, p, q, -b),
    "beta left out": lambda s, p, q, b: reinforce_weights(s, p, q, 1.0),
    "divided by the spread": _with_weights(lambda r: (r - _mean_of_others(r)) / (r.std() + 1e-4)),
    "the sign of the loss": _with_weights(lambda r: _mean_of_others(r) - r),
    "the best of the others": _with_weights(lambda r: r - r.max()),
    "a mean over the batch": _with_weights(lambda r: (r - _mean_of_others(r)) / len(r)),
}


def clipped_loss(logp: Tensor, old_logp: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's clipped loss, token by token."""
    ratio = torch.exp(logp - old_logp)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def _of_ratios(formula: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A wrong answer from a formula in ratio, clipped ratio and advantage."""

    def loss(logp: Tensor, old_logp: Tensor, advantages: Tensor, clip: float) -> Tensor:
        ratio = torch.exp(logp - old_logp)
        return formula(ratio, ratio.clamp(1 - clip, 1 + clip), advantages)

    return loss


MISTAKES["clipped_loss"] = {
    "no minus": _of_ratios(lambda r, c, a: torch.minimum(r * a, c * a)),
    "maximum instead of minimum": _of_ratios(lambda r, c, a: -torch.maximum(r * a, c * a)),
    "always clipped": _of_ratios(lambda r, c, a: -c * a),
    "never clipped": _of_ratios(lambda r, c, a: -r * a),
    "the log-ratio clipped": lambda logp, old, a, clip:
        -torch.minimum((logp - old).exp() * a, (logp - old).clamp(-clip, clip).exp() * a),
    "the ratio upside down": lambda logp, old, a, clip: clipped_loss(old, logp, a, clip),
    "the product clipped": lambda logp, old, a, clip:
        -torch.minimum((logp - old).exp() * a, ((logp - old).exp() * a).clamp(1 - clip, 1 + clip)),
    "no ratio at all": lambda logp, old, a, clip: -logp * a,
    "one number": lambda logp, old, a, clip: clipped_loss(logp, old, a, clip).mean(),
}


def gae_by_hand(rewards: Tensor, values: Tensor, mask: Tensor, lam: float) -> Tensor:
    """Generalised advantage estimates of rows of different length."""
    return _walk(rewards, values, mask, lam)[1]


def _walk(rewards: Tensor, values: Tensor, mask: Tensor, lam: float, *, masked: bool = True,
          after: str = "zero") -> tuple[Tensor, Tensor]:
    """Errors and advantages from the last token to the first; ``masked`` and ``after`` allow mistakes."""
    counts = mask.to(rewards.dtype) if masked else torch.ones_like(rewards)
    errors, advantages = torch.zeros_like(rewards), torch.zeros_like(rewards)
    next_advantage = torch.zeros_like(rewards[:, 0])
    next_value = values[:, -1] if after == "itself" else torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        errors[:, t] = (rewards[:, t] + next_value - values[:, t]) * counts[:, t]
        advantages[:, t] = errors[:, t] + lam * next_advantage * counts[:, t]
        next_value, next_advantage = values[:, t] * counts[:, t], advantages[:, t]
    return errors * mask, advantages * mask


def _forwards(rewards: Tensor, values: Tensor, mask: Tensor, lam: float) -> Tensor:
    errors, _ = _walk(rewards, values, mask, lam)
    advantages = [errors[:, 0]]
    for t in range(1, rewards.shape[1]):
        advantages.append(errors[:, t] + lam * advantages[-1])
    return torch.stack(advantages, dim=1) * mask


MISTAKES["gae_by_hand"] = {
    "values of the padding used": lambda r, v, m, lam: _walk(r, v, m, lam, masked=False)[1],
    "lambda forgotten": lambda r, v, m, lam: gae_by_hand(r, v, m, 1.0),
    "one step only": lambda r, v, m, lam: gae_by_hand(r, v, m, 0.0),
    "returns instead of advantages": lambda r, v, m, lam: gae_by_hand(r, v, m, lam) + v * m,
    "from the first token to the last": _forwards,
    "the last value counted twice": lambda r, v, m, lam: _walk(r, v, m, lam, after="itself")[1],
    "no values": lambda r, v, m, lam: gae_by_hand(r, 0 * v, m, lam),
    "the next value subtracted": lambda r, v, m, lam: gae_by_hand(r, -v, m, lam),
}


def kl_rewards(logps: Tensor, ref_logps: Tensor, scores: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The reward of each token, from a penalty on every token and a score at the end."""
    penalty = beta * (logps - ref_logps)
    return torch.where(mask, -penalty, 0.0) + torch.where(_last(mask), scores[:, None], 0.0)


def _last(mask: Tensor) -> Tensor:
    """True at the last counted token of each row."""
    return mask & ~pad(mask[:, 1:], (0, 1))


MISTAKES["kl_rewards"] = {
    "the score in the last column": lambda p, q, s, m, b:
        -b * (p - q) * m + pad(s[:, None], (m.shape[1] - 1, 0)),
    "the score on every token": lambda p, q, s, m, b: (s[:, None] - b * (p - q)) * m,
    "the score shared out": lambda p, q, s, m, b: (s[:, None] / m.sum(1, keepdim=True) - b * (p - q)) * m,
    "a bonus for drift": lambda p, q, s, m, b: b * (p - q) * m + _last(m) * s[:, None],
    "beta forgotten": lambda p, q, s, m, b: kl_rewards(p, q, s, m, 1.0),
    "no penalty where the score is": lambda p, q, s, m, b:
        -b * (p - q) * (m & ~_last(m)) + _last(m) * s[:, None],
    "the penalty all at the end": lambda p, q, s, m, b:
        _last(m) * (s[:, None] - b * ((p - q) * m).sum(1, keepdim=True)),
    "padding pays too": lambda p, q, s, m, b: -b * (p - q) + _last(m) * s[:, None],
    "the score at the first token": lambda p, q, s, m, b:
        -b * (p - q) * m + (m.cumsum(1) == 1) * m * s[:, None],
}


def whiten_advantages(x: Tensor, mask: Tensor) -> Tensor:
    """Mean zero and standard deviation one, over the tokens that count."""
    return torch.where(mask, (x - x[mask].mean()) / _spread(x[mask].var()), 0.0)


def _spread(variance: Tensor) -> Tensor:
    return (variance + 1e-8).sqrt()


MISTAKES["whiten_advantages"] = {
    "padding in the mean": lambda x, m: whiten_advantages(x * m, torch.ones_like(m)) * m,
    "the mask ignored": lambda x, m: whiten_advantages(x, torch.ones_like(m)),
    "padding not set to zero": lambda x, m: (x - x[m].mean()) / _spread(x[m].var()),
    "divided by the variance": lambda x, m: whiten_advantages(x, m) / _spread(x[m].var()),
    "not centred": lambda x, m: torch.where(m, x / _spread(x[m].var()), 0.0),
    "not scaled": lambda x, m: torch.where(m, x - x[m].mean(), 0.0),
    "the mean added back": lambda x, m: torch.where(m, whiten_advantages(x, m) + x[m].mean(), 0.0),
    "row by row": lambda x, m: torch.stack([*map(whiten_advantages, x, m)]),
    "divided by n": lambda x, m: torch.where(m, (x - x[m].mean()) / _spread(x[m].var(correction=0)), 0.0),
}

Log = dict[str, float]
HEALTHY, SIGN, RECOMPUTED = "healthy", "sign of the loss", "old log-probabilities recomputed"
RETURNS, ENDS = "returns from whitened advantages", "end token masked out"


def diagnose_ppo(log: Log) -> str:
    """Which bug does a log show?"""
    if log["end tokens counted"] < log["texts that ended"]:
        return ENDS
    if log["largest ratio error"] == 0:
        return RECOMPUTED
    if _reward_fell(log):
        return SIGN
    if abs(log["mean return"] - log["mean reward"]) > 0.1:
        return RETURNS
    return HEALTHY


def _reward_fell(log: Log) -> bool:
    return log["reward at the end"] < log["reward at the start"]


def _if_healthy(log: Log, suspicious: bool, instead: str) -> str:
    """The right diagnosis, but another one for a healthy log that looks suspicious."""
    diagnosis = diagnose_ppo(log)
    return instead if suspicious and diagnosis == HEALTHY else diagnosis


def _blind_to(log: Log, bug: str) -> str:
    """The right diagnosis, but one bug goes unnoticed."""
    diagnosis = diagnose_ppo(log)
    return HEALTHY if diagnosis == bug else diagnosis


MISTAKES["diagnose_ppo"] = {
    "looking at the reward only": lambda log: SIGN if _reward_fell(log) else HEALTHY,
    "always healthy": lambda log: HEALTHY,
    "a negative reward is an error": lambda log: _if_healthy(log, log["reward at the end"] < 0, SIGN),
    "a small ratio is an error": lambda log: _if_healthy(log, log["largest ratio error"] < 0.1, RECOMPUTED),
    "the reward before the ratio": lambda log: SIGN if _reward_fell(log) else diagnose_ppo(log),
    "only if no end counts": lambda log: ENDS if log["end tokens counted"] == 0 else _blind_to(log, ENDS),
    "the returns not looked at": lambda log: _blind_to(log, RETURNS),
}
