"""Measure policies on held-out prompts, by judges that none of them was trained against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_lite.data.collate import pad_left
from rlhf_lite.data.formatting import encode_prompts
from rlhf_lite.evaluation.statistics import bootstrap_mean_ci
from rlhf_lite.evaluation.text_metrics import distinct_n, toxicity_scores, vader_scores
from rlhf_lite.functional import best_of_n_kl_bound, kl_estimate, sequence_logps
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.rollout.best_of_n import best_of_n
from rlhf_lite.rollout.rewards import Completions, Reward, evaluate
from rlhf_lite.rollout.sampler import join, row_seeds, sample
from rlhf_lite.types import Rollout

# The seeds of evaluation samples are far from those of training steps.
_EVALUATION = 1_000_000


@dataclass(frozen=True)
class Contender:
    """A policy under test.

    Attributes:
        name: for the tables.
        adapter: name of its adapter on the shared network; None is the bare model.
        sampling: a context that yields a model ready to sample from.
        best_of: how many continuations are sampled per prompt; the judges' reward chooses one of them.
    """

    name: str
    adapter: str | None
    sampling: Callable[[], AbstractContextManager[object]]
    best_of: int = 1


@dataclass(frozen=True)
class Judges:
    """What continuations are measured with.

    Attributes:
        scorer: computes log-probabilities with whichever adapter is on. Those of the bare model tell whether
            text still reads as English.
        using: a context in which the scorer computes with the named adapter; None is the bare model.
        anchor: adapter of the policy that the KL is measured from (the SFT policy).
        gold: texts to estimated human ratings.
        reward: raw reward-model scores, as in ``rollout.rewards``; None without a reward model.
    """

    scorer: PolicyScorer
    using: Callable[[str | None], AbstractContextManager[None]]
    anchor: str | None
    gold: Callable[[Sequence[str]], np.ndarray]
    reward: Reward | None


@dataclass(frozen=True)
class Measured:
    """Continuations of one policy and, for each, what every judge says; all arrays ``[n]``."""

    texts: list[str]
    gold: np.ndarray
    vader: np.ndarray
    toxicity: np.ndarray
    rm: np.ndarray | None
    kl_nats: np.ndarray
    tokens: np.ndarray
    bare_nats: np.ndarray
    ended: np.ndarray


@torch.no_grad()
def measure(
    contender: Contender,
    judges: Judges,
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int = 100,
    on_rows: Callable[[int], None] | None = None,
) -> Measured:
    """Sample one continuation per prompt and judge it.

    Row i draws from the same random numbers for every policy, so that differences between policies can be
    tested prompt by prompt. Log-probabilities are those of the sampling distribution (same temperature).

    The best of n has a law of its own, whose log-probabilities nobody can read off: its KL is given as the
    upper bound log n - (n - 1)/n, the same for every row.

    Args:
        contender: who writes.
        judges: who judges.
        prompts: openings.
        tokenizer: of the model.
        max_new_tokens: length limit of a continuation.
        temperature: of the sampling.
        seed: of the random numbers.
        batch_size: rows in memory at once, candidates of a best of n included.
        on_rows: called with the number of prompts done after each batch.

    Raises:
        ValueError: if the contender is a best of n and the judges have no reward to choose by, or it is not
            the anchor that it chooses from.
    """
    if contender.best_of > 1 and (judges.reward is None or contender.adapter != judges.anchor):
        raise ValueError(
            f"{contender.name} is a best of {contender.best_of}: that needs a reward to choose by, and is "
            "measured for the anchor policy only, from which its KL is known"
        )
    # The best of n holds n rows for every prompt: what is in memory at once must not grow with n.
    batch_size = max(1, batch_size // contender.best_of)
    encoded = encode_prompts(tokenizer, prompts)
    seeds = row_seeds(seed, _EVALUATION, rows=len(prompts) * contender.best_of)
    parts: dict[str, list[np.ndarray]] = {}
    texts: list[str] = []
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        rollout = _continued(
            contender,
            judges,
            *pad_left(encoded[rows], tokenizer.pad_token_id),
            tokenizer,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seeds=seeds[start * contender.best_of : (start + batch_size) * contender.best_of],
        )
        ids, mask, wanted = join(rollout)
        hidden = judges.scorer.body.trunk(ids, mask)
        logps: dict[str | None, Tensor] = {}
        # A contender that is the anchor or the bare model is scored once.
        for adapter in dict.fromkeys((contender.adapter, judges.anchor, None)):
            with judges.using(adapter):
                logps[adapter] = judges.scorer(hidden, ids, mask, wanted, temperature=temperature).logps
        found = {
            "kl_nats": sequence_logps(kl_estimate(logps[contender.adapter], logps[judges.anchor]), wanted)
            + best_of_n_kl_bound(contender.best_of),
            "tokens": wanted.sum(1),
            "bare_nats": -sequence_logps(logps[None], wanted),
            "ended": rollout.ended,
        }
        if judges.reward is not None:
            batch = Completions.of(
                rollout,
                eos_token_id=tokenizer.eos_token_id,
                decode=tokenizer.batch_decode,
                trunk=lambda *_, hidden=hidden: hidden,
            )
            found["rm"] = evaluate(judges.reward, batch, name="rm").raw
        for name, values in found.items():
            parts.setdefault(name, []).append(values.double().numpy())
        written = rollout.response_ids.where(rollout.response_mask, tokenizer.pad_token_id)
        texts += tokenizer.batch_decode(written, skip_special_tokens=True)
        if on_rows is not None:
            on_rows(min(start + batch_size, len(prompts)))
    whole = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    return Measured(
        texts=texts,
        gold=judges.gold(whole),
        vader=vader_scores(texts),
        toxicity=toxicity_scores(texts),
        rm=arrays.pop("rm", None),
        **arrays,
    )


def _continued(
    contender: Contender,
    judges: Judges,
    ids: Tensor,
    mask: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
) -> Rollout:
    """One continuation per prompt: sampled, or the best of several."""
    options = {
        "max_new_tokens": max_new_tokens,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "temperature": temperature,
        "seeds": seeds,
    }
    with contender.sampling() as model:
        if contender.best_of == 1:
            return sample(model, ids, mask, **options)
        trunk, decode = judges.scorer.body.trunk, tokenizer.batch_decode
        return best_of_n(
            model, ids, mask, n=contender.best_of, reward=judges.reward, trunk=trunk, decode=decode, **options
        ).rollout


def summarise(measured: Measured, *, seed: int) -> dict[str, object]:
    """One policy's row of the results table: means, 95 % bootstrap intervals, units in the names."""
    gold = bootstrap_mean_ci(measured.gold, seed=seed)
    vader = bootstrap_mean_ci(measured.vader, seed=seed)
    kl = bootstrap_mean_ci(measured.kl_nats, seed=seed)
    row: dict[str, object] = {
        "gold_reward": gold.estimate,
        "gold_ci95": gold.ends,
        "vader": vader.estimate,
        "vader_ci95": vader.ends,
        "toxicity": float(measured.toxicity.mean()),
        "kl_nats_per_seq": kl.estimate,
        "kl_ci95": kl.ends,
        "length_tokens": float(measured.tokens.mean()),
        "distinct_2": distinct_n(measured.texts, 2),
        "perplexity_reference": math.exp(measured.bare_nats.sum() / measured.tokens.sum()),
        "ended_fraction": float(measured.ended.mean()),
        "n_prompts": len(measured.texts),
    }
    if measured.rm is not None:
        rm = bootstrap_mean_ci(measured.rm, seed=seed)
        row |= {"rm_reward": rm.estimate, "rm_ci95": rm.ends}
    return row
