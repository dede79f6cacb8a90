"""Policies under test: what they are, how they read prompts and write answers, and how they score texts.

Several policies may be adapters of one network. It is then loaded once, and what lies below the lowest
adapted layer is computed once for all that read the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_lite.data.collate import pad_left, pad_right
from rlhf_lite.data.formatting import (
    chat_template,
    encode_prompts,
    fit_lengths,
    keep_end,
    prompt_turns,
    start_tokens,
)
from rlhf_lite.errors import ComparisonError
from rlhf_lite.functional import sequence_logps
from rlhf_lite.models.adapters import lowest_adapted, merged, using_adapter
from rlhf_lite.models.output import causal_model, window_of
from rlhf_lite.models.policy import PolicyScorer, end_tokens
from rlhf_lite.rollout.best_of_n import best_of_n
from rlhf_lite.rollout.rewards import Reward, text_decoder
from rlhf_lite.rollout.sampler import cut_at_stop, join, sample
from rlhf_lite.types import Rollout

# Without a stated limit (some models have none) a prompt is cut to this many tokens.
_NO_LIMIT = 1024


@dataclass(frozen=True)
class EvalPolicy:
    """A loaded policy under test.

    Attributes:
        name: for the tables; unique in a comparison.
        model: a causal model, or a PEFT network that several policies share.
        tokenizer: of the model.
        adapter: name of the adapter on the network; None is the bare model.
        source: where it came from, for the report: a Hub id or the name of a folder.
        optimised_by: judges that trained it ("reward"); the report marks their scores as no evidence.
        best_of: how many answers are sampled where one is needed; the judges' reward chooses.
    """

    name: str
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    adapter: str | None = None
    source: str = ""
    optimised_by: Sequence[str] = ()
    best_of: int = 1

    def __post_init__(self) -> None:
        known = list(self.model.peft_config) if isinstance(self.model, PeftModel) else []
        if self.adapter is not None and self.adapter not in known:
            raise ComparisonError(f"{self.name}: the model has no adapter {self.adapter!r}; it "
                                  f"has {', '.join(known) or 'none'}")

    @cached_property
    def network(self) -> Network:
        """For log-probabilities under this policy and others on its network."""
        return Network(self.model, self.pad_token_id)

    @property
    def pad_token_id(self) -> int:
        """Fills short rows, under a mask; any id will do."""
        return self.tokenizer.pad_token_id or 0

    @contextmanager
    def sampling(self) -> Iterator[PreTrainedModel]:
        """The causal model with the adapter folded into its weights."""
        if not isinstance(self.model, PeftModel):
            yield self.model
            return
        with using_adapter(self.model, None) if self.adapter is None else merged(self.model, self.adapter):
            yield self.model.get_base_model()

    def end_tokens(self) -> list[int]:
        """See `models.policy.end_tokens`."""
        return end_tokens(self.model, self.tokenizer)

    def window(self) -> int | None:
        """Most tokens of prompt and answer together; None if the model states no limit."""
        return window_of(causal_model(self.model).config)


def same_vocabulary(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers give the same ids the same meaning, so that log-ratios make sense."""
    return a is b or a.get_vocab() == b.get_vocab()


@contextmanager
def bare(policies: Iterable[EvalPolicy]) -> Iterator[None]:
    """Switch all adapters of these policies' networks off: a gold judge reads the untouched model."""
    with ExitStack() as stack:
        for model in {id(policy.model): policy.model for policy in policies}.values():
            if isinstance(model, PeftModel):
                stack.enter_context(using_adapter(model, None))
        yield


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


def encode_for(policy: EvalPolicy, prompts: Sequence[str], *, max_new_tokens: int,
               max_tokens: int | None = None, chat: bool = False) -> PromptRows:
    """Prompts as token ids. One that is too long keeps its end, as in training.

    Args:
        policy: whose tokenizer and window count.
        prompts: opening words, or with ``chat`` the user's messages or transcripts of conversations.
        max_new_tokens: room that the answer needs.
        max_tokens: most tokens of both, as in training; None is the window.
        chat: put each prompt into the chat template as a user's turn; a model without one gets the plain
            transcript of `data.formatting`.

    Raises:
        ComparisonError: if the answer alone fills the window.
    """
    texts, template = list(prompts), "none"
    if chat:
        template = "chat" if policy.tokenizer.chat_template else "transcript"
        render = chat_template(policy.tokenizer)
        texts = [render(prompt_turns(prompt), True) for prompt in prompts]
    window = policy.window() or _NO_LIMIT + max_new_tokens
    room = window - max_new_tokens
    if room < 1:
        raise ComparisonError(f"{policy.name} has a window of {window} tokens, and "
                              f"max_new_tokens={max_new_tokens} leaves no room for a "
                              "prompt: ask for fewer new tokens")
    if max_tokens is not None:
        room = fit_lengths(room, max_new_tokens, max_tokens)[0]
    rows = encode_prompts(policy.tokenizer, texts, rendered=template == "chat")
    cut, head = [number for number, row in enumerate(rows) if len(row) > room], start_tokens(policy.tokenizer)
    return PromptRows([keep_end(row, room, head) for row in rows], texts, cut, template)


@torch.no_grad()
def write(policy: EvalPolicy, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, temperature: float,
          seeds: Sequence[int], samples: int = 1, stop: Sequence[str] = (), reward: Reward | None = None,
          batch_size: int = 64) -> list[Rollout]:
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
    common = {"max_new_tokens": max_new_tokens, "pad_token_id": pad, "temperature": temperature,
              "eos_token_id": policy.end_tokens()}
    plain = {"repeats": samples, "stop": stop, "tokenizer": tokenizer}
    chosen = {"decode": text_decoder(tokenizer), "reward": reward}
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


def decoded(policy: EvalPolicy, rollouts: Sequence[Rollout], *,
            stop: Sequence[str] = ()) -> tuple[list[str], list[list[int]]]:
    """Texts and token ids of all answers; with ``stop`` the texts end before it and lose outer spaces."""
    ids = [tokens[mask].tolist() for rollout in rollouts
           for tokens, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)]
    texts = policy.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [cut_at_stop(text, stop).strip() for text in texts] if stop else texts, ids


class Network:
    """Log-probabilities under several adapters of one model; what lies below them is computed once.

    Args:
        model: a causal model, with or without adapters.
        pad_token_id: fills short rows; any id will do.
        batch_tokens: most tokens in one forward pass over rows, padding included.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, pad_token_id: int, *,
                 batch_tokens: int = 2048) -> None:
        self.model, self.pad_token_id, self.batch_tokens = model, pad_token_id, batch_tokens
        lowest = lowest_adapted(model) if isinstance(model, PeftModel) else 0
        depth = causal_model(model).config.get_text_config().num_hidden_layers
        self.scorer = PolicyScorer(model, top_layers=max(1, depth - lowest) if lowest else None)
        # Adapters of the embeddings leave nothing below them.
        self.shared = lowest is not None

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Compute with this adapter; None is the bare model."""
        with using_adapter(self.model, adapter) if isinstance(self.model, PeftModel) else nullcontext():
            yield

    @torch.no_grad()
    def score(
        self, rollout: Rollout, wanted: Iterable[tuple[str | None, float]]
    ) -> tuple[dict[tuple[str | None, float], Tensor], Tensor]:
        """Log-probabilities ``[B]`` of the responses, in nats, by adapter and temperature.

        Returns:
            Them, and the states ``[B, S, H]`` below the adapters, for a reward that reads the same ones.
        """
        ids, mask, response_mask = join(rollout)
        with self.using(None) if not self.shared else nullcontext():
            hidden = self.scorer.body.trunk(ids, mask)
        logps = {}
        for adapter, temperature in wanted:
            with self.using(adapter):
                own = hidden if self.shared else self.scorer.body.trunk(ids, mask)
                scored = self.scorer(own, ids, mask, response_mask, temperature=temperature)
            logps[adapter, temperature] = sequence_logps(scored.logps.double(), response_mask)
        return logps, hidden

    def logps(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], *,
              adapter: str | None = None, temperature: float = 1.0) -> NDArray[np.float64]:
        """Log-probability of each continuation after its prompt, in nats, ``[n]``; of an empty one it is 0.

        Args:
            prompts: n rows of token ids, each with at least one.
            continuations: n rows of token ids.
            adapter: whose; None is the bare model.
            temperature: divides the logits.
        """
        table = np.zeros(len(prompts))
        widths = [len(prompt) + len(row) for prompt, row in zip(prompts, continuations, strict=True)]
        rows = sorted((i for i, row in enumerate(continuations) if len(row)), key=widths.__getitem__)
        while rows:
            fitting = sum(widths[row] * (n + 1) <= self.batch_tokens for n, row in enumerate(rows))
            batch, rows = rows[: max(1, fitting)], rows[max(1, fitting) :]
            pad, device = self.pad_token_id, self.scorer.device
            heads = pad_left([prompts[i] for i in batch], pad, device=device)
            ids, mask = pad_right([continuations[i] for i in batch], pad, device=device)
            rollout = Rollout(*heads, ids, mask, torch.zeros(ids.shape, device=device))
            found, _ = self.score(rollout, [(adapter, temperature)])
            table[batch] = found[adapter, temperature].cpu().numpy()
        return table
