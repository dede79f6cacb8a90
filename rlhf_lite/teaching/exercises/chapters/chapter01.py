"""Chapter 1: the shift, masks, sequence log-probability, temperature, KL and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_lite.teaching.exercises.loading import Mistakes

MISTAKES: Mistakes = {}


def _pick(logp: Tensor, ids: Tensor) -> Tensor:
    """The entries of the tokens that stand there: [..., V] and [...] to [...]."""
    return logp.gather(-1, ids[..., None]).squeeze(-1)


def shifted_logps(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of the tokens that stand in a text, with the one-token shift."""
    return _pick(logits[:, :-1].log_softmax(-1), ids[:, 1:])


MISTAKES["shifted_logps"] = {
    "no shift": lambda z, i: _pick(z.log_softmax(-1), i),
    "no shift, cut to the right shape": lambda z, i: _pick(z.log_softmax(-1), i)[:, 1:],
    "the shift the wrong way": lambda z, i: _pick(z[:, 1:].log_softmax(-1), i[:, :-1]),
    "labels rolled around": lambda z, i: _pick(z.log_softmax(-1), i.roll(-1, 1)),
    "probabilities": lambda z, i: shifted_logps(z, i).exp(),
    "raw logits": lambda z, i: _pick(z[:, :-1], i[:, 1:]),
    "a loss": lambda z, i: -shifted_logps(z, i),
    "softmax over the positions": lambda z, i: _pick(z[:, :-1].log_softmax(1), i[:, 1:]),
    "logarithm of a softmax": lambda z, i: _pick(z[:, :-1].softmax(-1).log(), i[:, 1:]),
    "the most likely token": lambda z, i: z[:, :-1].log_softmax(-1).max(-1).values,
}


def _place(real: Tensor) -> Tensor:
    """The number of each token within its own text, from 0, wherever the padding is."""
    return real.long().cumsum(1) - 1


def response_mask(ids: Tensor, real: Tensor, prompt_lengths: Tensor) -> Tensor:
    """Which positions of a padded batch belong to the response?"""
    return real & (_place(real) >= prompt_lengths[:, None])


MISTAKES["response_mask"] = {
    "the prompt counts": lambda i, r, n: r,
    "columns counted, not tokens": lambda i, r, n: r & (torch.arange(i.shape[1]) >= n[:, None]),
    "padding counts": lambda i, r, n: _place(r) >= n[:, None],
    "the end token masked": lambda i, r, n: response_mask(i, r, n) & (i != 0),
    "one too late": lambda i, r, n: r & (_place(r) > n[:, None]),
    "one too early": lambda i, r, n: r & (_place(r) >= n[:, None] - 1),
    "the positions that predict": lambda i, r, n: pad(response_mask(i, r, n)[:, 1:], (0, 1)),
    "inverted": lambda i, r, n: ~response_mask(i, r, n),
    "one length for all rows": lambda i, r, n: r & (_place(r) >= n[0]),
}


def sequence_logp(logits: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    """The log-probability of each response, with shift and mask together."""
    return torch.where(counts[:, 1:], shifted_logps(logits, ids), 0.0).sum(1)


def two_token_logits(ones: Tensor, ids: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of ``sequence_logp``; ``ones[b, t]`` is the probability that position t gives to token 1."""
    return torch.stack([(1 - ones).log(), ones.log()], -1), ids, counts


MISTAKES["sequence_logp"] = {
    "the mask not shifted": lambda z, i, c: torch.where(c[:, :-1], shifted_logps(z, i), 0.0).sum(1),
    "no shift at all": lambda z, i, c: torch.where(c, _pick(z.log_softmax(-1), i), 0.0).sum(1),
    "everything counts": lambda z, i, c: shifted_logps(z, i).sum(1),
    "multiplying by the mask": lambda z, i, c: (shifted_logps(z, i) * c[:, 1:]).sum(1),
    "a mean over tokens": lambda z, i, c: sequence_logp(z, i, c) / c.sum(1),
    "a sum over the batch": lambda z, i, c: sequence_logp(z, i, c).sum(),
    "one number per token": lambda z, i, c: torch.where(c[:, 1:], shifted_logps(z, i), 0.0),
    "the probability": lambda z, i, c: sequence_logp(z, i, c).exp(),
    "a loss": lambda z, i, c: -sequence_logp(z, i, c),
}


def tempered_logps(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """The log-probability of a token that was drawn at a temperature."""
    return _pick((logits / temperature).log_softmax(-1), tokens)


MISTAKES["tempered_logps"] = {
    "temperature ignored": lambda z, i, t: _pick(z.log_softmax(-1), i),
    "multiplied": lambda z, i, t: _pick((z * t).log_softmax(-1), i),
    "the log-probability divided": lambda z, i, t: _pick(z.log_softmax(-1), i) / t,
    "only the numerator": lambda z, i, t: _pick(z / t - z.logsumexp(-1, keepdim=True), i),
    "temperature after the softmax": lambda z, i, t: _pick((z.softmax(-1) / t).log_softmax(-1), i),
    "not normalised": lambda z, i, t: _pick(z / t, i),
    "a probability": lambda z, i, t: tempered_logps(z, i, t).exp(),
    "overflow": lambda z, i, t: _pick((z / t).exp() / (z / t).exp().sum(-1, keepdim=True), i).log(),
}


def kl_estimates(logp: Tensor, ref_logp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three estimators of a KL divergence, with the right signs."""
    d = logp - ref_logp
    return d.mean(), (d**2 / 2).mean(), ((-d).exp() - 1 + d).mean()


def _with_k2(logp: Tensor, ref_logp: Tensor, k2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    k1, _, k3 = kl_estimates(logp, ref_logp)
    return k1, k2, k3


MISTAKES["kl_estimates"] = {
    "the sign of k1 and k3 turned": lambda p, q: kl_estimates(q, p),
    "the sign of k1 turned": lambda p, q: (kl_estimates(q, p)[0], *kl_estimates(p, q)[1:]),
    "k3 with the ratio upside down": lambda p, q: (*kl_estimates(p, q)[:2], kl_estimates(q, p)[2]),
    "k2 without the half": lambda p, q: _with_k2(p, q, ((p - q) ** 2).mean()),
    "k2 squares the mean": lambda p, q: _with_k2(p, q, (p - q).mean() ** 2 / 2),
    "k3 without its correction": lambda p, q: (*kl_estimates(p, q)[:2], ((q - p).exp() - 1).mean()),
    "k3 without minus one": lambda p, q: (*kl_estimates(p, q)[:2], ((q - p).exp() + p - q).mean()),
    "absolute values in k1": lambda p, q: ((p - q).abs().mean(), *kl_estimates(p, q)[1:]),
    "sums instead of means": lambda p, q: tuple(k * p.numel() for k in kl_estimates(p, q)),
}


def kl_gradient(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """The gradient that a KL penalty should have."""
    return logits.softmax(-1) * _centred(logits, ref_logits)


def _log_ratio(logits: Tensor, ref_logits: Tensor) -> Tensor:
    return logits.log_softmax(-1) - ref_logits.log_softmax(-1)


def _centred(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """The log-ratio of each token, minus its mean under the policy, which is the KL."""
    d = _log_ratio(logits, ref_logits)
    return d - (logits.softmax(-1) * d).sum()


MISTAKES["kl_gradient"] = {
    "zero": lambda z, r: z * 0.0,
    "p minus q": lambda z, r: z.softmax(-1) - r.softmax(-1),
    "not centred": lambda z, r: z.softmax(-1) * _log_ratio(z, r),
    "not weighted": _centred,
    "weighted by the reference": lambda z, r: r.softmax(-1) * _centred(z, r),
    "the sign turned": lambda z, r: -kl_gradient(z, r),
    "with respect to the probabilities": lambda z, r: _log_ratio(z, r) + 1,
    "the KL itself": lambda z, r: (z.softmax(-1) * _log_ratio(z, r)).sum(),
}
