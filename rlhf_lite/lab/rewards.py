"""Rewards for small worlds, from kind to deceptive. Each stresses one thing that goes wrong in RLHF.

A builder gets every sequence of a world and one order of the tokens per prompt, and returns a reward for
every pair of prompt and sequence. All rewards but ``table`` lie between 0 and 1. The orders differ between
prompts, so that a policy which ignores its prompt cannot do well.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor


class RewardBuilder(Protocol):
    """What every builder below is.

    Args:
        sequences: every sequence of the world, ``[N, T]``.
        orders: for each prompt a permutation of the tokens, ``[P, V]``; ``orders[p, 0]`` is p's favourite.
        generator: the builder's only source of chance.

    Returns:
        ``[P, N]`` float64.
    """

    def __call__(self, sequences: Tensor, orders: Tensor, generator: torch.Generator) -> Tensor:
        """See the class."""
        ...


def dense(sequences: Tensor, orders: Tensor, generator: torch.Generator) -> Tensor:
    """The share of tokens that are the prompt's favourite.

    Stresses nothing: every token earns its own credit at once, in any order. Whatever fails here is broken.
    """
    return (sequences == _token(orders, 0)).double().mean(-1)


def order(sequences: Tensor, orders: Tensor, generator: torch.Generator) -> Tensor:
    """The share of neighbours that stand in the prompt's own order of the tokens.

    Stresses credit between tokens: no token is good by itself, a pair is.
    """
    ranks = orders.argsort(-1)[:, sequences]  # (P, N, T): the place of each token in the prompt's order
    return (ranks[..., 1:] > ranks[..., :-1]).double().mean(-1)


def sparse(sequences: Tensor, orders: Tensor, generator: torch.Generator) -> Tensor:
    """One point for sequences that start with the prompt's first token and end with its second; else nothing.

    Stresses exploration: about one sample in 64 earns anything (with 8 tokens, and more or less of them as
    the reference likes), and until one does there is nothing to learn from.
    """
    return (_starts(sequences, orders, 0) & _ends(sequences, orders, 1)).double()


def deceptive(sequences: Tensor, orders: Tensor, generator: torch.Generator) -> Tensor:
    """Bait: each copy of the prompt's third token pays a little, and any copy forfeits the prize.

    The prize of one point wants the first token, then no bait, and the second token at the end; a sequence of
    bait alone earns 0.6. Stresses what gradients follow: early on almost every reward comes from bait, and a
    policy that has learned to bait no longer finds the prize.
    """
    bait = (sequences == _token(orders, 2)).double()
    prize = _starts(sequences, orders, 0) & _ends(sequences, orders, 1) & (bait.sum(-1) == 0)
    return torch.where(prize, torch.ones_like(bait[..., 0]), 0.6 * bait.mean(-1))


def trap(sequences: Tensor, orders: Tensor, generator: torch.Generator) -> Tensor:
    """A lure at the first token pays 0.4 for sure; a door pays one point, but only with the right ending.

    The door is the prompt's first token, the ending its second token; the lure is the third. Under the
    reference the lure has the higher expected reward, so that a policy which looks at its own present values
    takes it. Stresses greed: the value of the door rises only while the ending is being learned.
    """
    prize = _starts(sequences, orders, 0) & _ends(sequences, orders, 1)
    lure = _starts(sequences, orders, 2)
    return prize.double() + 0.4 * lure.double()


def length(sequences: Tensor, orders: Tensor, generator: torch.Generator) -> Tensor:
    """The share of the sequence before the first stop token, which is the prompt's first token.

    Stresses length: the reward is a length, and whoever divides by lengths or sums over tokens carelessly
    shows it here. Sequences keep their T tokens; what follows the stop token counts for nothing.
    """
    stops = (sequences == _token(orders, 0)).long()
    return (stops.cumsum(-1) == 0).double().mean(-1)


def table(sequences: Tensor, orders: Tensor, generator: torch.Generator) -> Tensor:
    """An independent standard normal strength for every pair of prompt and sequence, as in Bradley-Terry.

    Stresses memory: nothing that holds for one sequence says anything about another. A table can learn it, a
    network with fewer weights than sequences cannot. These are the strengths of a Bradley-Terry model:
    P(a beats b) = σ(r(a) - r(b)).
    """
    shape = (len(orders), len(sequences))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


REWARDS: Mapping[str, RewardBuilder] = MappingProxyType(
    {f.__name__: f for f in (dense, order, sparse, deceptive, trap, length, table)}
)


def _token(orders: Tensor, place: int) -> Tensor:
    """The token at ``place`` of each prompt's order, ``[P, 1, 1]``, to compare with ``[N, T]``."""
    return orders[:, place, None, None]


def _starts(sequences: Tensor, orders: Tensor, place: int) -> Tensor:
    return sequences[:, 0] == orders[:, place, None]


def _ends(sequences: Tensor, orders: Tensor, place: int) -> Tensor:
    return sequences[:, -1] == orders[:, place, None]
