"""A policy with one number for every decision, and exactly what any left-to-right policy says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from rlhf_lite.lab.exact import policy_objective, require_probs
from rlhf_lite.lab.world import World


class ExactPolicy(Protocol):
    """A module that knows its own distribution."""

    def log_probs(self) -> Tensor:
        """Log-probabilities ``[P, N]`` of every sequence after every prompt, with gradient."""
        ...


def chain(steps: Sequence[Tensor]) -> Tensor:
    """Log-probabilities of whole sequences from those of their next tokens.

        log π(y | x) = Σ_t log π(y_t | x, y_<t)

    Args:
        steps: for t = 0 ... T - 1 the log-probabilities ``[P, V ** t, V]`` of the next token after every
            prefix of t tokens, prefixes in alphabetical order.

    Returns:
        ``[P, V ** T]``, sequences in alphabetical order.
    """
    logps = steps[0].new_zeros(steps[0].shape[0], 1)
    for number, step in enumerate(steps):
        if step.shape[:2] != logps.shape:
            raise ValueError(f"step {number} must have {logps.shape[1]} prefixes for {logps.shape[0]} "
                             f"prompts, got shape {tuple(step.shape)}")
        logps = (logps[:, :, None] + step).flatten(1)
    return logps


def next_token_logps(probs: Tensor, *, tokens: int, length: int) -> list[Tensor]:
    """The inverse of :func:`chain`: how to write left to right so that whole sequences follow ``probs``.

    For π* this is the best next-token distribution after every prefix, which already knows how good the
    endings are.

    Args:
        probs: ``[P, V ** T]``, every entry positive.
        tokens: V.
        length: T.

    Returns:
        T tensors ``[P, V ** t, V]`` float64.
    """
    probs = require_probs(probs=probs)
    if not bool((probs > 0).all()):
        raise ValueError("every entry of probs must be positive: log 0 is not a number to start from")
    sums = [probs.log().unflatten(1, (tokens**t, -1)).logsumexp(-1) for t in range(length + 1)]
    return [longer.unflatten(1, (-1, tokens)) - shorter.unsqueeze(-1) for shorter, longer in pairwise(sums)]


class TabularPolicy(nn.Module):
    """One logit for every next token after every prefix of every prompt: it can be any distribution at all.

    Args:
        world: gives the sizes, and the reference to start from.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        start = next_token_logps(world.reference, tokens=world.tokens, length=world.length)
        self.logits = nn.ParameterList(nn.Parameter(step.clone()) for step in start)

    def log_probs(self) -> Tensor:
        """Log-probabilities ``[P, N]`` float64 of every sequence, with gradient."""
        return chain([logits.log_softmax(-1) for logits in self.logits])


def exact_gradient(policy: ExactPolicy, world: World) -> dict[str, Tensor]:
    """The gradient of the mean J over prompts for every parameter that has one, without any sampling.

    This is what every policy-gradient estimator estimates: its expectation must be this.

    Args:
        policy: a module with ``log_probs() -> [P, N]``.
        world: reference, reward and price.

    Returns:
        name -> gradient, of the shape of the parameter. Existing ``.grad`` fields are left alone.
    """
    named = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    value = policy_objective(policy.log_probs(), world.reference, world.rewards, beta=world.beta).mean()
    grads = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if grad is None else grad
        for (name, parameter), grad in zip(named.items(), grads, strict=True)
    }
