"""A table and a real transformer as policies, and exactly what any left-to-right policy says.

The table has one number for every decision. The transformer is an ordinary ``LlamaForCausalLM`` with a
vocabulary of V tokens, so that samplers and trainers for language models run on it unchanged, and small
enough to ask for the probability of every sequence.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlhf_lite.lab.exact import policy_objective, require_probs
from rlhf_lite.lab.world import World

HIDDEN, LAYERS, HEADS = 64, 2, 4
# Trained models of half a megabyte each, by what they were trained on.
_PRETRAINED: dict[Hashable, LlamaForCausalLM] = {}


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
    return {name: torch.zeros_like(parameter) if grad is None else grad
            for (name, parameter), grad in zip(named.items(), grads, strict=True)}


def tiny_transformer(world: World, *, hidden: int = HIDDEN, layers: int = LAYERS, heads: int = HEADS,
                     seed: int = 0) -> LlamaForCausalLM:
    """An untrained model for this world's vocabulary; 132,416 weights in the default size.

    Input and output embeddings are separate. There is no special token of any kind.

    Args:
        world: gives the vocabulary and the longest text.
        hidden: H, a multiple of ``heads``.
        layers: number of layers.
        heads: attention heads.
        seed: of the random weights; the global random state is left alone.
    """
    config = LlamaConfig(
        vocab_size=world.tokens, hidden_size=hidden, intermediate_size=4 * hidden,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=max(map(len, world.prompts)) + world.length,
        # The usual 0.02 is meant for wide models; here it would make the network ignore its input.
        initializer_range=hidden**-0.5,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def sequence_log_probs(model: PreTrainedModel, world: World) -> Tensor:
    """Exact log-probabilities ``[P, N]`` float64 of every sequence, with gradient if it is on.

    One forward pass per prompt over all V^(T-1) prefixes of T - 1 tokens: a causal model's answer at
    position t depends on the first t tokens only, so that the shorter prefixes come along for free.
    """
    prefixes = world.sequences[:: world.tokens, :-1]  # (V^(T-1), T-1)
    logps = []
    for prompt in world.prompts:
        ids = torch.cat([torch.tensor(prompt).expand(len(prefixes), -1), prefixes], dim=1)
        logits = model(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 :]  # (V^(T-1), T, V)
        steps = logits.double().log_softmax(-1)
        # Prefixes of t tokens: every V^(T-1-t)-th row has another one.
        strides = [world.tokens ** (world.length - 1 - t) for t in range(world.length)]
        logps.append(chain([steps[None, ::stride, t] for t, stride in enumerate(strides)]))
    return torch.cat(logps)


@torch.no_grad()
def sequence_probs(model: PreTrainedModel, world: World) -> Tensor:
    """Exact probabilities ``[P, N]`` float64 of every sequence under a causal model, without gradient."""
    return sequence_log_probs(model, world).exp()


class TransformerPolicy(nn.Module):
    """A causal model with ``log_probs()``, for exact gradients.

    Args:
        model: the causal model.
        world: whose sequences are enumerated.
    """

    def __init__(self, model: PreTrainedModel, world: World) -> None:
        super().__init__()
        self.model, self.world = model, world

    def log_probs(self) -> Tensor:
        """Log-probabilities ``[P, N]`` float64 of every sequence, with gradient."""
        return sequence_log_probs(self.model, self.world)


def pretrain(model: PreTrainedModel, world: World, *, steps: int = 150, batch_size: int = 256,
             learning_rate: float = 3e-3, seed: int = 0) -> PreTrainedModel:
    """Next-token training on sequences drawn from the world's reference; about four seconds.

    Nothing asks it to be perfect: afterwards the *network's* own distribution is the reference
    (:func:`pretrained_world`).

    Args:
        model: changed in place.
        world: its ``reference`` is the distribution of the corpus.
        steps: optimiser steps.
        batch_size: sequences per step, from one prompt at a time.
        learning_rate: peak of AdamW; falls to zero along a cosine.
        seed: of the draws.

    Returns:
        the same model.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for step in range(steps):
        number = step % len(world.prompts)
        drawn = torch.multinomial(world.reference[number], batch_size, replacement=True, generator=generator)
        prompt = torch.tensor(world.prompts[number]).expand(batch_size, -1)
        ids = torch.cat([prompt, world.sequences[drawn]], dim=1)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits[:, prompt.shape[1] - 1 :]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, prompt.shape[1] :].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    return model


def pretrained_world(world: World, *, seed: int = 0, steps: int = 150) -> tuple[LlamaForCausalLM, World]:
    """A pre-trained tiny transformer, and the world whose reference is exactly its own distribution.

    Args:
        world: gives corpus, prompts and reward.
        seed: of weights and draws.
        steps: of :func:`pretrain`.

    Returns:
        a model of the caller's own (the training is remembered, the weights are copied), all weights
        trainable, and ``world.with_reference(sequence_probs(model, world))``.
    """
    # What pre-training reads, and nothing else.
    key = (world.tokens, world.length, world.prompts, world.reference.numpy().tobytes(), seed, steps)
    if key not in _PRETRAINED:
        _PRETRAINED[key] = pretrain(tiny_transformer(world, seed=seed), world, steps=steps, seed=seed)
    model = copy.deepcopy(_PRETRAINED[key])
    return model, world.with_reference(sequence_probs(model, world))
