"""Log-probabilities of tokens and sequences, and entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lite.functional.checks import require_mask, require_same_shape
from rlhf_lite.functional.masking import masked_mean, masked_sum


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each label under its own row of logits.

    The one-token shift is the caller's: ``logits[..., t, :]`` must be the prediction *for*
    ``labels[..., t]``, which a causal model makes at position ``t - 1``.

    Args:
        logits: ``[..., V]``, any floating type; the sum over the vocabulary is taken in float32 or better.
        labels: ``[...]``, integer token ids.

    Returns:
        ``[...]`` in nats, float32 or better.

    Raises:
        ValueError: if the leading shapes differ.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} must be labels "
                         f"{tuple(labels.shape)} plus a vocabulary dimension")
    # bfloat16 keeps eight bits: a log-sum over 49,152 tokens is off by whole percents in it.
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    # Cross-entropy of one label is minus its log-probability, and its backward pass is a single kernel.
    rows = wide.reshape(-1, wide.shape[-1])
    flat = torch.nn.functional.cross_entropy(rows, labels.flatten(), reduction="none")
    return -flat.view(labels.shape)


def sequence_logps(logps: Tensor, mask: Tensor, *, average: bool = False) -> Tensor:
    """Log-probability of each sequence: the sum over the tokens that count.

    Args:
        logps: ``[B, T]`` token log-probabilities in nats.
        mask: bool ``[B, T]``; True counts.
        average: divide by the number of counted tokens. That is *not* a sequence log-probability; SimPO and
            ORPO ask for it.

    Returns:
        ``[B]``.
    """
    require_same_shape(logps=logps, mask=mask)
    require_mask(mask)
    return masked_mean(logps, mask, dim=-1) if average else masked_sum(logps, mask, dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each row of logits in nats: H = log Z - sum_v p_v * logit_v.

    Args:
        logits: ``[..., V]``; entries of minus infinity have probability zero and add nothing.

    Returns:
        ``[...]``.
    """
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    probs = torch.softmax(wide, dim=-1)
    weighted = torch.where(probs > 0, probs * wide, torch.zeros((), dtype=wide.dtype, device=wide.device))
    return torch.logsumexp(wide, dim=-1) - weighted.sum(-1)
