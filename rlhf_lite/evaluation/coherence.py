"""Does a continuation belong to its prompt? Measured by a language model that wrote none of them.

A text that follows from its prompt is likelier after it than after somebody else's prompt::

    coherence(x, y) = ( log p(y | x) - mean over other prompts x' of log p(y | x') ) / tokens of y

in nats per token, under a reference model. It estimates the pointwise mutual information of prompt and
continuation (Li et al. 2016, *A Diversity-Promoting Objective Function for Neural Conversation Models*, use
the same quantity to choose answers), with other prompts of the same set in place of log p(y): a bare
beginning of text would mostly measure that a continuation is no beginning.

The *control* compares two wrong prompts with each other, log p(y | x') - log p(y | x''), per token. Nothing
tells them apart, so its mean is zero up to noise; a coherence inside the control's spread says nothing.

Coherence is not quality. A text that copies its prompt is highly coherent, and "Yes." may be a good answer to
everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Rows of prompt ids and rows of continuation ids to the log-probability of each continuation, ``[n]`` nats.
Logps = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], NDArray[np.float64]]


class Coherence(NamedTuple):
    """Both ``[n]`` in nats per token; NaN where the continuation has no token.

    Attributes:
        score: the coherence.
        control: one wrong prompt against another.
    """

    score: NDArray[np.float64]
    control: NDArray[np.float64]


def other_rows(prompts: Sequence[Sequence[int]], *, seed: int) -> NDArray[np.int64]:
    """For each row two rows with other prompts, different from each other: ``[2, n]`` indices.

    The distinct prompts are put into a random circle; each row takes the prompts one step and two steps on.

    Raises:
        ValueError: with fewer than three different prompts.
    """
    first: dict[tuple[int, ...], int] = {}
    for row, prompt in enumerate(prompts):
        first.setdefault(tuple(prompt), row)
    if len(first) < 3:
        raise ValueError(f"coherence needs at least three different prompts, got {len(first)}")
    order = np.random.default_rng(seed).permutation(np.fromiter(first.values(), dtype=np.int64))
    place = {tuple(prompts[row]): index for index, row in enumerate(order)}
    own = np.array([place[tuple(prompt)] for prompt in prompts])
    return np.stack([order[(own + step) % len(order)] for step in (1, 2)])


def coherence(logps: Logps, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], *,
              seed: int, own: NDArray[np.float64] | None = None) -> Coherence:
    """Coherence of each continuation with its prompt, and the control.

    Args:
        logps: of the reference model, for example ``Network.logps`` of `evaluation.eval_policy`.
        prompts: n rows of token ids.
        continuations: n rows of token ids; a row may be empty.
        seed: draws the other prompts.
        own: ``[n]`` log p(y | x), if it is known already.

    Raises:
        ValueError: if the lengths differ or there are fewer than three different prompts.
    """
    if len(prompts) != len(continuations):
        raise ValueError(f"got {len(prompts)} prompts for {len(continuations)} continuations")
    others = other_rows(prompts, seed=seed)
    lengths = np.array([len(row) for row in continuations], dtype=np.float64)
    lengths[lengths == 0] = np.nan
    right = logps(prompts, continuations) if own is None else np.asarray(own, dtype=np.float64)
    one, two = (logps([prompts[row] for row in rows], continuations) for rows in others)
    return Coherence((right - (one + two) / 2) / lengths, (one - two) / lengths)
