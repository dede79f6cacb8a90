"""From prompts to answers: how a policy reads its prompts, and how it is sampled for an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlhf_lite.data.collate import pad_left
from rlhf_lite.data.formatting import chat_template, encode_prompts
from rlhf_lite.errors import ComparisonError
from rlhf_lite.evaluation.eval_policy import EvalPolicy
from rlhf_lite.rollout.best_of_n import best_of_n
from rlhf_lite.rollout.rewards import Reward
from rlhf_lite.rollout.sampler import sample
from rlhf_lite.rollout.text import cut_at_stop
from rlhf_lite.types import Message, Rollout

# Without a stated limit (some models have none) a prompt is cut to this many tokens.
_NO_LIMIT = 1024


@dataclass(frozen=True)
class PromptRows:
    """Prompts as one policy reads them.

    Attributes:
        ids: token ids, one row per prompt.
        texts: the prompts with their chat template, if there is one.
        cut: rows whose beginning was cut off because it does not fit the window.
        template: "none", "chat" (the model's own) or "transcript" (chat was asked for, the model has none).
    """

    ids: list[list[int]]
    texts: list[str]
    cut: list[int]
    template: str


def encode_for(
    policy: EvalPolicy, prompts: Sequence[str], *, max_new_tokens: int, chat: bool = False
) -> PromptRows:
    """Prompts as token ids. One that is too long keeps its end, as in training.

    Args:
        policy: whose tokenizer and window count.
        prompts: opening words, or with ``chat`` the user's messages.
        max_new_tokens: room that the answer needs.
        chat: put each prompt into the chat template as a user's turn; a model without one gets the plain
            transcript of `data.formatting`.

    Raises:
        ComparisonError: if the answer alone fills the window.
    """
    texts, template = list(prompts), "none"
    if chat:
        template = "chat" if policy.tokenizer.chat_template else "transcript"
        render = chat_template(policy.tokenizer)
        texts = [render([Message("user", prompt)], True) for prompt in prompts]
    window = policy.window() or _NO_LIMIT + max_new_tokens
    room = window - max_new_tokens
    if room < 1:
        raise ComparisonError(
            f"{policy.name} has a window of {window} tokens, and max_new_tokens={max_new_tokens} leaves no "
            "room for a prompt: ask for fewer new tokens"
        )
    rows = encode_prompts(policy.tokenizer, texts)
    cut = [number for number, row in enumerate(rows) if len(row) > room]
    return PromptRows([row[-room:] for row in rows], texts, cut, template)


@torch.no_grad()
def write(
    policy: EvalPolicy,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
    samples: int = 1,
    stop: Sequence[str] = (),
    reward: Reward | None = None,
    batch_size: int = 64,
) -> list[Rollout]:
    """Sample answers, in batches.

    Args:
        policy: who writes.
        prompts: rows of token ids.
        max_new_tokens: length limit of an answer.
        temperature: of the sampling; 0 is greedy decoding.
        seeds: prompts x ``samples`` x ``policy.best_of`` of them; the same seed gives the same random numbers
            to every policy, in any batch.
        samples: answers to each prompt.
        stop: strings that end an answer.
        reward: chooses the best of n, for a policy with ``best_of`` above 1.
        batch_size: rows in memory at once, candidates of a best of n included.
    """
    tokenizer, pad = policy.tokenizer, policy.pad_token_id
    common = {"max_new_tokens": max_new_tokens, "pad_token_id": pad, "temperature": temperature}
    plain = {"eos_token_id": policy.end_tokens(), "repeats": samples, "stop": stop, "tokenizer": tokenizer}
    chosen = {"eos_token_id": tokenizer.eos_token_id, "decode": tokenizer.batch_decode, "reward": reward}
    each = samples * policy.best_of
    step, rollouts = max(1, batch_size // each), []
    with policy.sampling() as model:
        for start in range(0, len(prompts), step):
            batch = (model, *pad_left(prompts[start : start + step], pad))
            own = seeds[start * each : (start + step) * each]
            if policy.best_of == 1:
                rollouts.append(sample(*batch, seeds=own, **plain, **common))
            else:
                trunk = policy.network.scorer.body.trunk
                best = best_of_n(*batch, n=policy.best_of, seeds=own, trunk=trunk, **chosen, **common)
                rollouts.append(best.rollout)
    return rollouts


def decoded(
    policy: EvalPolicy, rollouts: Sequence[Rollout], *, stop: Sequence[str] = ()
) -> tuple[list[str], list[list[int]]]:
    """Texts and token ids of all answers; with ``stop`` the texts end before it and lose outer spaces."""
    ids = [
        tokens[mask].tolist()
        for rollout in rollouts
        for tokens, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)
    ]
    texts = policy.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [cut_at_stop(text, stop).strip() for text in texts] if stop else texts, ids
