"""Worlds small enough to enumerate: every prompt, every sequence, its probability and its reward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from rlhf_lite.lab.exact import (
    exact_kl,
    expected_reward,
    fraction_of_optimum,
    objective,
    optimal_policy,
    optimal_value,
    require_probs,
)
from rlhf_lite.lab.rewards import REWARDS

# Above this, tables of all sequences stop being small (a million float64 numbers are 8 MB per prompt).
MAX_SEQUENCES = 1 << 20
# With rewards between 0 and 1, a price of 0.1 lets the best sequences gain a factor of exp(10).
DEFAULT_BETA = 0.1
# Strengths of the ``table`` world have standard deviation 1 instead.
_BETAS = {"table": 0.5}


def all_sequences(tokens: int, length: int) -> Tensor:
    """Every sequence of ``length`` tokens in alphabetical order, ``[tokens ** length, length]``.

    Sequence number n spells n in base ``tokens``, first digit first. Sequences that share their first t
    tokens are neighbours; the policies of this room rely on that.
    """
    if tokens < 2 or length < 1:
        raise ValueError(f"a world needs at least 2 tokens and length 1, got {tokens} and {length}")
    if tokens**length > MAX_SEQUENCES:
        raise ValueError(f"{tokens} tokens and length {length} make {tokens**length:,} sequences; the lab "
                         f"enumerates at most {MAX_SEQUENCES:,}")
    places = tokens ** torch.arange(length - 1, -1, -1)
    return torch.arange(tokens**length)[:, None] // places % tokens


@dataclass(frozen=True)
class Evaluation:
    """What a policy is worth, exactly; means over the prompts, which count equally.

    Attributes:
        fraction: (J - J(reference)) / (J* - J(reference)) of the mean J; 1 is the optimum.
        objective: J, in points of reward.
        expected_reward: in points.
        kl_to_reference: KL(π || reference), nats per sequence.
        kl_to_optimum: KL(π || π*), nats per sequence.
        best_objective: J*.
        reference_objective: J of the reference, which is its expected reward.
    """

    fraction: float
    objective: float
    expected_reward: float
    kl_to_reference: float
    kl_to_optimum: float
    best_objective: float
    reference_objective: float


@dataclass(frozen=True)
class World:
    """A finite problem: which sequences are likely, which are good, and what a nat of drift costs.

    There is no end token: every sequence has exactly ``length`` tokens.

    Attributes:
        name: of the reward.
        tokens: V, size of the vocabulary; tokens are 0 ... V - 1.
        length: T, tokens per sequence.
        prompts: token sequences of the same vocabulary, of different lengths; P of them.
        reference: the distribution that a policy starts from and is pulled back to, ``[P, N]`` float64.
        rewards: ``[P, N]`` float64.
        beta: price of a nat of KL in points of reward.
    """

    name: str
    tokens: int
    length: int
    prompts: tuple[tuple[int, ...], ...]
    reference: Tensor
    rewards: Tensor
    beta: float

    def __post_init__(self) -> None:
        shape = (len(self.prompts), self.tokens**self.length)
        for name in ("reference", "rewards"):
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} must be [P, N] = {shape}, got {tuple(getattr(self, name).shape)}")
        if len(set(self.prompts)) < len(self.prompts):
            raise ValueError(f"prompts must differ from each other, got {self.prompts}")
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        require_probs(reference=self.reference)

    @cached_property
    def sequences(self) -> Tensor:
        """Every sequence, ``[N, T]``, in alphabetical order."""
        return all_sequences(self.tokens, self.length)

    @cached_property
    def optimum(self) -> Tensor:
        """π*, ``[P, N]`` float64."""
        return optimal_policy(self.reference, self.rewards, beta=self.beta)

    def with_reference(self, reference: Tensor) -> World:
        """The same world with another reference ``[P, N]``, such as that of a trained network."""
        return replace(self, reference=reference.detach().double())

    def index(self, sequences: Tensor) -> Tensor:
        """Numbers ``[B]`` of token sequences ``[B, T]`` in :attr:`sequences`.

        Raises:
            ValueError: for another length, or tokens outside the vocabulary.
        """
        if sequences.dim() != 2 or sequences.shape[1] != self.length:
            raise ValueError(f"sequences must be [B, {self.length}], got {tuple(sequences.shape)}")
        if bool(((sequences < 0) | (sequences >= self.tokens)).any()):
            raise ValueError(f"tokens must lie in 0 ... {self.tokens - 1}, got {sequences.unique().tolist()}")
        return (sequences * self.tokens ** torch.arange(self.length - 1, -1, -1)).sum(-1)

    def reward_of(self, prompt_numbers: Tensor, sequences: Tensor) -> Tensor:
        """Rewards ``[B]`` float64 of sequences ``[B, T]`` after the prompts with these numbers ``[B]``."""
        return self.rewards[prompt_numbers, self.index(sequences)]

    def evaluate(self, probs: Tensor) -> Evaluation:
        """Measure a policy's distribution ``[P, N]`` exactly.

        Raises:
            ValueError: if it is not a distribution over the sequences of this world.
        """
        reference, rewards, beta = self.reference, self.rewards, self.beta
        value = objective(probs, reference, rewards, beta=beta).mean()
        start = expected_reward(reference, rewards).mean()
        best = optimal_value(reference, rewards, beta=beta).mean()
        return Evaluation(fraction=float(fraction_of_optimum(value, start, best)), objective=float(value),
                          expected_reward=float(expected_reward(probs, rewards).mean()),
                          kl_to_reference=float(exact_kl(probs, reference).mean()),
                          kl_to_optimum=float(exact_kl(probs, self.optimum).mean()),
                          best_objective=float(best), reference_objective=float(start))


def make_world(name: str = "dense", *, tokens: int = 8, length: int = 4, prompts: int = 4,
               beta: float | None = None, seed: int = 0) -> World:
    """Build a world. The same arguments give the same world on every machine.

    The reference is a random Markov chain: the chance of the next token depends on the one before and on the
    prompt, so that a small network can learn it.

    Args:
        name: of a reward; see :data:`rlhf_lite.lab.rewards.REWARDS`.
        tokens: V, at least 3.
        length: T, at least 2.
        prompts: P, at most V; their lengths run through 1, 2, 3.
        beta: price of a nat; None for 0.1, or 0.5 in the ``table`` world.
        seed: draws prompts, reference and reward.

    Raises:
        ValueError: for an unknown name, or sizes that do not fit.
    """
    if name not in REWARDS:
        raise ValueError(f"there is no world {name!r}; choose one of {', '.join(REWARDS)}")
    if tokens < 3 or length < 2:
        raise ValueError(f"these rewards need at least 3 tokens and length 2, got {tokens} and {length}")
    if not 1 <= prompts <= tokens:
        raise ValueError(f"prompts must be between 1 and tokens = {tokens}, got {prompts}")
    generator = torch.Generator().manual_seed(seed)
    firsts = torch.randperm(tokens, generator=generator)[:prompts].tolist()
    rest = torch.randint(tokens, (prompts, 2), generator=generator).tolist()
    made = tuple((first, *rest[p][: p % 3]) for p, first in enumerate(firsts))
    orders = torch.stack([torch.randperm(tokens, generator=generator) for _ in range(prompts)])
    return World(name=name, tokens=tokens, length=length, prompts=made,
                 reference=_markov_probs(made, tokens, length, generator),
                 rewards=REWARDS[name](all_sequences(tokens, length), orders, generator),
                 beta=_BETAS.get(name, DEFAULT_BETA) if beta is None else beta)


def _markov_probs(prompts: tuple[tuple[int, ...], ...], tokens: int, length: int,
                  generator: torch.Generator) -> Tensor:
    """Sequence probabilities of a random Markov chain per prompt, ``[P, N]`` float64."""
    shared = torch.randn(tokens, tokens, generator=generator, dtype=torch.float64)
    own = 0.5 * torch.randn(len(prompts), 1, tokens, generator=generator, dtype=torch.float64)
    step = (shared + own).log_softmax(-1)  # (P, V, V): prompt, previous token, next token
    logps = step[torch.arange(len(prompts)), [prompt[-1] for prompt in prompts]]  # (P, V)
    for _ in range(length - 1):
        # Sequences are in alphabetical order, so that the last tokens run 0, 1, ..., V - 1, 0, 1, ...
        last = torch.arange(logps.shape[1]) % tokens
        logps = (logps[:, :, None] + step[:, last]).flatten(1)
    return logps.exp()
