"""What the policy-gradient trainers share: sample, score, compare with the reference, share the work.

In a distributed run every process samples its share of the prompts; then all processes exchange what they
have and hold the same whole batch. Advantages, whitening and minibatches are therefore those of one process,
and each process computes the gradient of its own rows of each minibatch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_lite.data.collate import pad_left
from rlhf_lite.functional import kl_estimate, masked_mean, masked_sum
from rlhf_lite.rollout.rewards import Completions, evaluate
from rlhf_lite.rollout.sampler import sample
from rlhf_lite.training.setup import PolicyGradientSetup, trainable_module
from rlhf_lite.types import Rollout

# Nats per token between sampler and scorer that rounding does not explain (bfloat16 gives about 0.001).
_MOST_SAMPLER_KL = 0.1


@dataclass(frozen=True)
class Scored:
    """One scored rollout: B rows, S = prompt + response columns; every tensor ``[B, S]`` unless noted.

    ``response_mask`` marks the response tokens; log-probabilities, values and entropies are 0 elsewhere.
    """

    hidden: Tensor  # (B, S, H), the frozen trunk's states
    ids: Tensor
    mask: Tensor
    response_mask: Tensor
    sampled_logps: Tensor  # as the sampler computed them
    old_logps: Tensor  # the same, as the scorer computes them
    entropies: Tensor
    ended: Tensor  # (B,)
    scores: Tensor  # (B,), what is maximised
    raw: Tensor  # (B,), before scaling
    parts: Tensor  # (B, number of the reward's named parts)
    ref_logps: Tensor | None = None
    old_values: Tensor | None = None

    @property
    def response(self) -> slice:
        """The columns of the responses."""
        return slice(int(self.response_mask.any(0).long().argmax()), None)


# --- Sharing between processes


def local_rows(n: int, accelerator: Accelerator | None) -> list[int]:
    """This process's part of ``range(n)``; every process gets equally many, so some places come twice.

    Place k of process r is number k * processes + r; what goes beyond n starts again at 0.
    """
    if accelerator is None:
        return list(range(n))
    world, rank = accelerator.num_processes, accelerator.process_index
    return [(k * world + rank) % n for k in range(-(-n // world))]


def gather_rows(tensor: Tensor, n: int, accelerator: Accelerator | None) -> Tensor:
    """``[N, ...]`` in order, from the ``[N_r, ...]`` rows that each process computed for its ``local_rows``.

    Args:
        tensor: rows of this process; the same whole number of rows for each place of its share.
        n: number of places.
        accelerator: None for a single process.
    """
    if accelerator is None or accelerator.num_processes == 1 or tensor.numel() == 0:
        return tensor
    # As bytes: exact, and every backend can move them whatever the type.
    world, each = accelerator.num_processes, -(-n // accelerator.num_processes)
    flat = tensor.contiguous().view(each, -1).view(torch.uint8)
    found = accelerator.gather(flat).view(world, each, -1).transpose(0, 1).reshape(world * each, -1)
    rows = found[:n].contiguous().view(tensor.dtype)
    return rows.view(n * (len(tensor) // each), *tensor.shape[1:])


def micro_rows(index: Tensor, *, micro_batch_size: int | None, accelerator: Accelerator) -> list[Tensor]:
    """This process's rows of a minibatch, cut into parts of ``micro_batch_size`` (None: one part).

    A process may get none. It then adds nothing to the gradient and waits in ``Optimisation.step``.
    """
    mine = index[accelerator.process_index :: accelerator.num_processes]
    return [] if len(mine) == 0 else list(mine.split(micro_batch_size or len(mine)))


def minibatch_rows(n: int, *, epochs: int, minibatches: int, seed: int) -> Iterator[Tensor]:
    """The rows of each update: passes over ``range(n)``, each shuffled and cut into ``minibatches``."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(n, generator=generator).tensor_split(minibatches)


class UpdateMetrics:
    """Sums up the metrics of a step's updates, over micro-batches and processes."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._sums: dict[str, float] = {}
        self._largest: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Add this process's contribution to an update; contributions of all parts sum up to its value."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def largest(self, name: str, value: Tensor | float) -> None:
        """Keep the largest value, over parts and processes."""
        self._largest[name] = max(self._largest.get(name, 0.0), float(value))

    def means(self, updates: int, names: Sequence[str], largest: Sequence[str] = ()) -> dict[str, float]:
        """Means over the updates, and the largest values; the same on every process.

        Args:
            updates: how many there were.
            names: of the sums; a process without rows knows none by itself.
            largest: of the largest values.
        """
        device = self._accelerator.device
        sums = torch.tensor([self._sums.get(name, 0.0) for name in names], device=device)
        tops = torch.tensor([[self._largest.get(name, 0.0) for name in largest]], device=device)
        if self._accelerator.num_processes > 1:
            sums = self._accelerator.reduce(sums, "sum")
            tops = self._accelerator.gather(tops) if largest else tops
        found = dict(zip(names, (sums / updates).tolist(), strict=True))
        return found | dict(zip(largest, tops.amax(0).tolist(), strict=True))


# --- Sampling and scoring


@torch.no_grad()
def roll_out(
    pieces: PolicyGradientSetup,
    prompts: Sequence[list[int]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    repeats: int = 1,
    micro_batch_size: int | None = None,
    accelerator: Accelerator | None = None,
) -> tuple[Scored, dict[str, float]]:
    """Sample continuations of every prompt and score them.

    Args:
        pieces: the policy, its reference and the reward.
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
    device = next(pieces.scorer.parameters()).device
    ids, mask = (tensor.to(device) for tensor in pad_left(prompts, pieces.pad_token_id))
    rows = torch.tensor(mine)
    with pieces.sampling() as model:
        rollout = sample(
            model,
            ids[rows],
            mask[rows],
            max_new_tokens=max_new_tokens,
            eos_token_id=() if pieces.eos_token_id is None else pieces.eos_token_id,
            pad_token_id=pieces.pad_token_id,
            seeds=[seeds[place * repeats + g] for place in mine for g in range(repeats)],
            temperature=temperature,
            repeats=repeats,
        )
    rollout = _trimmed(rollout, accelerator)
    sampled = time.perf_counter()
    found, names = _scored(pieces, rollout, temperature=temperature, micro_batch_size=micro_batch_size)
    mine_of = {field.name: getattr(found, field.name) for field in fields(found)}
    batch = Scored(
        **{
            name: None if tensor is None else gather_rows(tensor, len(prompts), accelerator)
            for name, tensor in mine_of.items()
        }
    )
    metrics = rollout_metrics(batch, names)
    distance = metrics["kl/sampler_nats_per_token"]
    if distance > _MOST_SAMPLER_KL:
        raise ValueError(
            f"the sampler's law is {distance:.2f} nats per token away from the policy that is trained, and "
            "every ratio would be against the wrong law. Sample the policy itself: the same adapter and "
            "temperature, no top-k, top-p or min-p, no repetition penalty"
        )
    metrics |= {"seconds/sampling": sampled - started, "seconds/scoring": time.perf_counter() - sampled}
    return batch, metrics


def _trimmed(rollout: Rollout, accelerator: Accelerator | None) -> Rollout:
    """Without the columns that no row of any process reached."""
    longest = rollout.response_mask.any(0).sum().view(1)
    if accelerator is not None and accelerator.num_processes > 1:
        longest = accelerator.gather(longest).max()
    kept = slice(0, int(longest))
    return Rollout(
        prompt_ids=rollout.prompt_ids,
        prompt_mask=rollout.prompt_mask,
        response_ids=rollout.response_ids[:, kept],
        response_mask=rollout.response_mask[:, kept],
        logps=rollout.logps[:, kept],
        ended=rollout.ended,
    )


def _scored(
    pieces: PolicyGradientSetup, rollout: Rollout, *, temperature: float, micro_batch_size: int | None
) -> tuple[Scored, list[str]]:
    """This process's rollout with log-probabilities, values and rewards, and the names of the rewards."""
    batch = Completions.of(
        rollout, eos_token_id=pieces.eos_token_id, decode=pieces.decode, trunk=pieces.scorer.body.trunk
    )
    pad = torch.zeros_like(rollout.prompt_ids, dtype=rollout.logps.dtype)
    # Where embeddings are trained, the reference has others: the policy's trunk states are not its own.
    scorer = trainable_module(pieces.scorer)
    own, reference = [], []
    for rows in torch.arange(len(batch)).split(micro_batch_size or len(batch)):
        inputs = (batch.hidden[rows], batch.ids[rows], batch.mask[rows], batch.response_mask[rows])
        own.append(scorer(*inputs, temperature=temperature, with_entropy=True))
        if pieces.reference is not None:
            with pieces.reference():
                reference.append(scorer(*inputs, temperature=temperature).logps)
    rewards = evaluate(pieces.reward, batch)
    named = list(rewards.parts.values())
    found = Scored(
        hidden=batch.hidden,
        ids=batch.ids,
        mask=batch.mask,
        response_mask=batch.response_mask,
        sampled_logps=torch.cat([pad, rollout.logps], dim=1),
        old_logps=torch.cat([part.logps for part in own]),
        entropies=torch.cat([part.entropies for part in own]),
        ended=batch.ended,
        scores=rewards.scores,
        raw=rewards.raw,
        parts=torch.stack(named, dim=1) if named else torch.zeros(len(batch), 0),
        ref_logps=torch.cat(reference) if reference else None,
        old_values=None if own[0].values is None else torch.cat([part.values for part in own]),
    )
    return found, list(rewards.parts)


def rollout_metrics(batch: Scored, parts: Sequence[str] = ()) -> dict[str, float]:
    """What there is to say about a batch of continuations, whatever the algorithm.

    ``kl/sampler_nats_per_token`` estimates the KL of the sampler's law from the policy as the scorer computes
    it: zero up to rounding, unless the two are not the same policy. Top-k and top-p move it away from zero.
    """
    response_mask = batch.response_mask
    metrics = {
        "reward/rm_raw": float(batch.raw.mean()),
        "reward/rm_std": float(batch.raw.std()),
        "reward/score": float(batch.scores.mean()),
        **{f"reward/part_{name}": float(batch.parts[:, i].mean()) for i, name in enumerate(parts)},
        "entropy/nats_per_token": float(masked_mean(batch.entropies, response_mask)),
        "length/tokens": float(response_mask.sum(1).float().mean()),
        "ended/fraction": float(batch.ended.float().mean()),
        "kl/sampler_nats_per_token": float(
            masked_mean(kl_estimate(batch.sampled_logps, batch.old_logps), response_mask)
        ),
    }
    if batch.ref_logps is not None:
        kl = masked_sum(kl_estimate(batch.old_logps, batch.ref_logps), response_mask, dim=1)
        metrics["kl/nats_per_seq"] = float(kl.mean())
    return metrics
