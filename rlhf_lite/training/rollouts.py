"""One step of data for a trainer that samples: continuations, their scores, and how likely they are.

A :class:`PolicyGradientSetup` is what such a trainer is handed. From it :func:`roll_out` samples a
``Rollout``, shows a reward its ``Completions``, and returns the :class:`Batch` that an update learns from. In
a distributed run every process samples its share of the prompts; then all of them exchange what they have and
hold the same whole batch. Advantages, whitening and minibatches are therefore those of one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_lite.data.collate import pad_left
from rlhf_lite.functional import kl_estimate, masked_mean, masked_sum
from rlhf_lite.models.policy import PolicyScorer, TokenScores
from rlhf_lite.rollout.rewards import Completions, Decode, Reward, evaluate
from rlhf_lite.rollout.sampler import EndTokens, sample
from rlhf_lite.training.batches import gather_rows, local_rows

# Nats per token between sampler and scorer that rounding does not explain (bfloat16 gives about 0.001).
_MOST_SAMPLER_KL = 0.1


@dataclass(frozen=True)
class PolicyGradientSetup:
    """Policy, reference and reward of a policy-gradient trainer.

    With adapters, ``pipeline.phases`` builds it. For a small model all of whose weights are trained::

        model.requires_grad_(True)
        PolicyGradientSetup(
            scorer=PolicyScorer(model, top_layers=None),   # with value_head=ValueHead(hidden_size) for PPO
            reference=frozen_reference(model),             # a copy of the weights as they are now
            sampling=lambda: nullcontext(model),
            reward=lambda batch: table[batch.response_ids],
            eos_token_id=None,                             # every response has full length
            pad_token_id=0,
        )

    Attributes:
        scorer: the policy (for PPO with its value head); what has ``requires_grad`` is trained.
        reference: a context in which ``scorer`` computes the reference policy; None where nothing is paid for
            the distance to it, which then is not measured either.
        sampling: a context that yields a model ready to sample the current policy.
        reward: see ``rollout.rewards``; any function of ``Completions``.
        eos_token_id: the end tokens, one or several; None where there is none.
        pad_token_id: fills rows.
        decode: rows of token ids to texts, for rewards that read texts; None without a tokenizer.
    """

    scorer: PolicyScorer
    reference: Callable[[], AbstractContextManager[None]] | None
    sampling: Callable[[], AbstractContextManager[object]]
    reward: Reward
    eos_token_id: EndTokens
    pad_token_id: int
    decode: Decode | None = None


@dataclass(frozen=True)
class Batch:
    """Scored continuations: B rows of S = prompt + response columns; every tensor ``[B, S]`` unless noted.

    Log-probabilities, values, entropies, advantages per token and returns are 0 where ``response_mask`` is
    False. An algorithm adds ``advantages``, per token or one for each row, and PPO also ``returns``.
    """

    hidden: Tensor  # (B, S, H), the frozen trunk's states
    ids: Tensor
    mask: Tensor  # True on the tokens of prompt and response
    response_mask: Tensor  # True on the tokens of the response
    sampled_logps: Tensor  # as the sampler computed them
    old_logps: Tensor  # the same, as the scorer computes them
    entropies: Tensor
    ended: Tensor  # (B,)
    scores: Tensor  # (B,), what is maximised
    raw: Tensor  # (B,), before scaling
    parts: Tensor  # (B, number of the reward's named parts)
    ref_logps: Tensor | None = None  # None without a reference
    old_values: Tensor | None = None  # None without a critic
    advantages: Tensor | None = None  # (B, S) or (B,)
    returns: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def response(self) -> slice:
        """The columns of the responses."""
        return slice(int(self.response_mask.any(0).long().argmax()), None)

    def rows(self, index: Tensor) -> Batch:
        """The given rows."""
        return self.map(lambda tensor: tensor[index])

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""
        return Batch(**{n: None if tensor is None else change(tensor) for n, tensor in vars(self).items()})


@torch.no_grad()
def roll_out(setup: PolicyGradientSetup, prompts: Sequence[list[int]], *, seeds: Sequence[int],
             max_new_tokens: int, temperature: float, repeats: int = 1, micro_batch_size: int | None = None,
             accelerator: Accelerator | None = None) -> tuple[Batch, dict[str, float]]:
    """Sample continuations of every prompt and score them.

    Args:
        setup: the policy, its reference and the reward.
        prompts: B prompts as token ids; in a distributed run those of the whole batch.
        seeds: one per continuation, B * repeats.
        max_new_tokens: length limit.
        temperature: of the sampling; log-probabilities are those of the tempered policy.
        repeats: continuations per prompt; those of one prompt are adjacent.
        micro_batch_size: rows per forward pass when scoring; None takes all at once.
        accelerator: shares the prompts between processes; None computes all of them here.

    Returns:
        The whole batch, the same on every process, and what to log about it.

    Raises:
        ValueError: if the temperature is not positive (a greedy choice has no log-probability to learn from),
            or the sampler does not sample from the policy that the scorer computes.
        RewardError: if the reward gives something other than finite numbers.
    """
    if temperature <= 0:
        raise ValueError(f"training needs temperature > 0, got {temperature}: a greedy choice is no sample")
    if len(seeds) != len(prompts) * repeats:
        raise ValueError(f"expected {len(prompts)} x {repeats} seeds, got {len(seeds)}")
    started = time.perf_counter()
    mine = local_rows(len(prompts), accelerator)
    # Every process pads to the longest prompt of all, so that their tensors fit together.
    ids, mask = pad_left(prompts, setup.pad_token_id, device=setup.scorer.device)
    with setup.sampling() as model:
        rollout = sample(model, ids[mine], mask[mine], max_new_tokens=max_new_tokens,
                         eos_token_id=setup.eos_token_id, pad_token_id=setup.pad_token_id,
                         seeds=[seeds[row * repeats + g] for row in mine for g in range(repeats)],
                         temperature=temperature, repeats=repeats)
    # Columns that no row of any process reached are left out.
    longest = rollout.response_mask.any(0).sum()
    if accelerator is not None:
        longest = accelerator.gather(longest.view(1)).max()
    columns = ("response_ids", "response_mask", "logps")
    rollout = replace(rollout, **{name: getattr(rollout, name)[:, : int(longest)] for name in columns})
    sampled = time.perf_counter()
    completions = Completions.of(rollout, eos_token_id=setup.eos_token_id, decode=setup.decode,
                                 trunk=setup.scorer.body.trunk)
    batch, parts = _scored(setup, completions, rollout.logps, temperature, micro_batch_size)
    batch = batch.map(lambda tensor: gather_rows(tensor, len(prompts), accelerator))
    metrics = _metrics(batch, parts)
    distance = metrics["kl/sampler_nats_per_token"]
    if distance > _MOST_SAMPLER_KL:
        raise ValueError(f"the sampler's distribution is {distance:.2f} nats per token away from the policy "
                         "that is trained, and every ratio would be against the wrong distribution. Sample "
                         "the policy itself: the same adapter and temperature, no top-k, top-p or min-p, no "
                         "repetition penalty")
    metrics |= {"seconds/sampling": sampled - started, "seconds/scoring": time.perf_counter() - sampled}
    return batch, metrics


def _scored(setup: PolicyGradientSetup, completions: Completions, sampled_logps: Tensor, temperature: float,
            micro_batch_size: int | None) -> tuple[Batch, list[str]]:
    """Completions with log-probabilities, values and rewards, and the names of the reward's parts."""
    # Where embeddings are trained, the reference has others: the policy's trunk states are not its own.
    scorer = trainable_module(setup.scorer)
    tokens = {name: getattr(completions, name) for name in ("hidden", "ids", "mask", "response_mask")}
    own, reference = [], []
    for rows in torch.arange(len(completions)).split(micro_batch_size or len(completions)):
        inputs = [tensor[rows] for tensor in tokens.values()]
        own.append(scorer(*inputs, temperature=temperature, with_entropy=True))
        if setup.reference is not None:
            with setup.reference():
                reference.append(scorer(*inputs, temperature=temperature).logps)
    rewards = evaluate(setup.reward, completions)
    parts = list(rewards.parts.values())
    batch = Batch(**tokens, sampled_logps=nn.functional.pad(sampled_logps, (completions.prompt_width, 0)),
                  old_logps=torch.cat([part.logps for part in own]),
                  entropies=torch.cat([part.entropies for part in own]), ended=completions.ended,
                  scores=rewards.scores, raw=rewards.raw,
                  parts=torch.stack(parts, dim=1) if parts else rewards.scores.new_zeros(len(completions), 0),
                  ref_logps=torch.cat(reference) if reference else None,
                  old_values=None if own[0].values is None else torch.cat([part.values for part in own]))
    return batch, list(rewards.parts)


def _metrics(batch: Batch, parts: Sequence[str]) -> dict[str, float]:
    """What there is to say about a batch of continuations, whatever the algorithm.

    ``kl/sampler_nats_per_token`` estimates the KL of the sampler's distribution from the policy as the scorer
    computes it: zero up to rounding, unless the two are not the same policy. Top-k and top-p move it away
    from zero.
    """
    counts = batch.response_mask
    sampler_kl = kl_estimate(batch.sampled_logps, batch.old_logps)
    spread = float(batch.raw.std()) if len(batch) > 1 else float("nan")
    metrics = {"reward/rm_raw": float(batch.raw.mean()), "reward/rm_std": spread,
               "reward/score": float(batch.scores.mean()),
               **{f"reward/part_{name}": float(batch.parts[:, i].mean()) for i, name in enumerate(parts)},
               "entropy/nats_per_token": float(masked_mean(batch.entropies, counts)),
               "length/tokens": float(counts.sum(1).float().mean()),
               "ended/fraction": float(batch.ended.float().mean()),
               "kl/sampler_nats_per_token": float(masked_mean(sampler_kl, counts))}
    if batch.ref_logps is not None:
        kl = masked_sum(kl_estimate(batch.old_logps, batch.ref_logps), counts, dim=1)
        metrics["kl/nats_per_seq"] = float(kl.mean())
    return metrics


# --- Models without adapters, all of whose weights are trained


class LiveScorer(nn.Module):
    """A scorer whose embeddings are trained too: it computes them anew instead of taking stored states."""

    def __init__(self, scorer: PolicyScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, hidden: Tensor, ids: Tensor, mask: Tensor, score_mask: Tensor,
                **options: float | bool) -> TokenScores:
        """As ``PolicyScorer.forward``; ``hidden`` is ignored."""
        embedded = self.scorer.body.lower.get_input_embeddings()(ids)
        return self.scorer(embedded, ids, mask, score_mask, **options)


def trainable_module(scorer: PolicyScorer) -> nn.Module:
    """The module to optimise: the scorer, or a :class:`LiveScorer` if the embeddings are trained.

    Raises:
        ValueError: if layers of the trunk, which is computed once per batch, are trained.
    """
    body = scorer.body
    if not any(parameter.requires_grad for parameter in body.lower.parameters()):
        return scorer
    if body.depth > 0:
        raise ValueError(f"weights of the embedding or of the first {body.depth} layers are trained, but "
                         "this trunk is computed once per batch: build the PolicyScorer with "
                         "top_layers=None, or freeze them")
    return LiveScorer(scorer)


def frozen_reference(model: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """A context in which ``model`` has the trainable weights that it has now, for runs without adapters."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    copies = [parameter.detach().clone() for parameter in trained]

    @contextmanager
    def reference() -> Iterator[None]:
        current = [parameter.data for parameter in trained]
        try:
            for parameter, copy in zip(trained, copies, strict=True):
                parameter.data = copy
            yield
        finally:
            for parameter, data in zip(trained, current, strict=True):
                parameter.data = data

    return reference
