"""Policies that enter a comparison: a network, its tokenizer and, on a shared network, the name of an
adapter.

Several policies may be adapters of one network. It is then loaded once, and what lies below the lowest
adapted layer is computed once for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_lite.data.collate import pad_left, pad_right
from rlhf_lite.data.formatting import chat_template, encode_prompts
from rlhf_lite.errors import ComparisonError
from rlhf_lite.functional import sequence_logps
from rlhf_lite.models.adapters import merged, using_adapter
from rlhf_lite.models.output import causal_model
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.models.trunk import layers_name
from rlhf_lite.rollout.sampler import row_seeds, sample
from rlhf_lite.types import Message

__all__ = [
    "Continuations",
    "Entrant",
    "Network",
    "PromptRows",
    "continue_prompts",
    "encode_for",
    "same_vocabulary",
]

# The seeds of evaluation samples are far from those of training steps.
_EVALUATION = 1_000_000
# Without a stated limit (some models have none) a prompt is cut to this many tokens.
_NO_LIMIT = 1024


@dataclass(frozen=True)
class Entrant:
    """A loaded policy under test.

    Attributes:
        name: for the tables; unique in a comparison.
        model: a causal model, or a PEFT network that several entrants share.
        tokenizer: of the model.
        adapter: name of the adapter on the network; None is the bare model.
        source: where it came from, for the report: a Hub id or the name of a folder.
        optimised_by: judges that trained it ("reward"); the report marks their scores as no evidence.
    """

    name: str
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    adapter: str | None = None
    source: str = ""
    optimised_by: Sequence[str] = ()

    def __post_init__(self) -> None:
        known = list(self.model.peft_config) if isinstance(self.model, PeftModel) else []
        if self.adapter is not None and self.adapter not in known:
            raise ComparisonError(
                f"{self.name}: the model has no adapter {self.adapter!r}; it has {', '.join(known) or 'none'}"
            )

    @contextmanager
    def sampling(self) -> Iterator[PreTrainedModel]:
        """The causal model with the adapter folded into its weights."""
        if not isinstance(self.model, PeftModel):
            yield self.model
            return
        with using_adapter(self.model, None) if self.adapter is None else merged(self.model, self.adapter):
            yield self.model.get_base_model()

    def end_tokens(self) -> list[int]:
        """Ids that end a text: the tokenizer's, and those that the model's generation settings name."""
        settings = getattr(causal_model(self.model), "generation_config", None)
        listed = getattr(settings, "eos_token_id", None)
        listed = listed if isinstance(listed, list) else [listed]
        return [i for i in dict.fromkeys([self.tokenizer.eos_token_id, *listed]) if i is not None]

    def window(self) -> int | None:
        """Most tokens of prompt and answer together; None if the model states no limit."""
        limit = getattr(causal_model(self.model).config.get_text_config(), "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 0 else None


def same_vocabulary(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers give the same ids the same meaning, so that log-ratios make sense."""
    return a is b or a.get_vocab() == b.get_vocab()


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


def encode_for(entrant: Entrant, prompts: Sequence[str], *, chat: bool, max_new_tokens: int) -> PromptRows:
    """Prompts as token ids. One that is too long keeps its end, as in training.

    Args:
        entrant: whose tokenizer and window count.
        prompts: opening words, or with ``chat`` the user's messages.
        chat: put each prompt into the chat template as a user's turn; a model without one gets the plain
            transcript of `data.formatting`.
        max_new_tokens: room that the answer needs.

    Raises:
        ComparisonError: if the answer alone fills the window.
    """
    texts, template = list(prompts), "none"
    if chat:
        template = "chat" if entrant.tokenizer.chat_template else "transcript"
        render = chat_template(entrant.tokenizer)
        texts = [render([Message("user", prompt)], True) for prompt in prompts]
    window = entrant.window() or _NO_LIMIT + max_new_tokens
    room = window - max_new_tokens
    if room < 1:
        raise ComparisonError(
            f"{entrant.name} has a window of {window} tokens, and max_new_tokens={max_new_tokens} leaves no "
            f"room "
            "for a prompt: ask for fewer new tokens"
        )
    rows = encode_prompts(entrant.tokenizer, texts)
    cut = [number for number, row in enumerate(rows) if len(row) > room]
    return PromptRows([row[-room:] for row in rows], texts, cut, template)


@dataclass(frozen=True)
class Continuations:
    """What one policy wrote: n = prompts x samples rows, the samples of a prompt adjacent.

    Attributes:
        texts: decoded, without end token.
        ids: their token ids, the end token included.
        ended: bool ``[n]``; False where the length limit cut the text.
    """

    texts: list[str]
    ids: list[list[int]]
    ended: NDArray[np.bool_]


def continue_prompts(
    entrant: Entrant,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    samples: int,
    seed: int,
    batch_size: int = 64,
) -> Continuations:
    """Sample ``samples`` continuations of each prompt.

    Row i draws from the same random numbers for every policy and in any batch, so that differences can be
    tested prompt by prompt.
    """
    tokenizer = entrant.tokenizer
    seeds = row_seeds(seed, _EVALUATION, rows=len(prompts) * samples)
    texts, ids, ended = [], [], []
    step = max(1, batch_size // samples)
    with entrant.sampling() as model:
        for start in range(0, len(prompts), step):
            batch = prompts[start : start + step]
            rollout = sample(
                model,
                *pad_left(batch, tokenizer.pad_token_id),
                max_new_tokens=max_new_tokens,
                eos_token_id=entrant.end_tokens(),
                pad_token_id=tokenizer.pad_token_id,
                temperature=temperature,
                repeats=samples,
                seeds=seeds[start * samples : (start + len(batch)) * samples],
            )
            pairs = zip(rollout.response_ids, rollout.response_mask, strict=True)
            rows = [tokens[mask].tolist() for tokens, mask in pairs]
            ids += rows
            texts += tokenizer.batch_decode(rows, skip_special_tokens=True)
            ended.append(rollout.ended.numpy())
    return Continuations(texts, ids, np.concatenate(ended))


@dataclass
class Network:
    """Log-probabilities under a model, or under several adapters of one model.

    Args:
        model: a causal model, with or without adapters.
        pad_token_id: fills short rows; any id will do.
        batch_tokens: most tokens in one forward pass, padding included.
    """

    model: PreTrainedModel | PeftModel
    pad_token_id: int
    batch_tokens: int = 2048
    scorer: PolicyScorer = field(init=False)

    def __post_init__(self) -> None:
        self.scorer = PolicyScorer(self.model, top_layers=_adapted_layers(self.model))

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Compute with this adapter; None is the bare model."""
        if isinstance(self.model, PeftModel):
            with using_adapter(self.model, adapter):
                yield
        else:
            yield

    @torch.no_grad()
    def logps(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        adapters: Sequence[str | None] = (None,),
        temperature: float = 1.0,
    ) -> NDArray[np.float64]:
        """Log-probability of each continuation after its prompt, in nats: ``[A, n]``, one row per adapter.

        A continuation without tokens has log-probability 0.

        Args:
            prompts: n rows of token ids, each with at least one.
            continuations: n rows of token ids.
            adapters: A adapters; what is below all of them is computed once.
            temperature: divides the logits.
        """
        found = np.zeros((len(adapters), len(prompts)))
        rows = [i for i, tokens in enumerate(continuations) if len(tokens)]
        rows.sort(key=lambda i: len(prompts[i]) + len(continuations[i]))
        for batch in self._batches(rows, prompts, continuations):
            ids, mask = pad_right([[*prompts[i], *continuations[i]] for i in batch], self.pad_token_id)
            starts = torch.tensor([len(prompts[i]) for i in batch]).unsqueeze(1)
            wanted = mask & (torch.arange(ids.shape[1]).unsqueeze(0) >= starts)
            hidden = self.scorer.body.trunk(ids, mask)
            for adapter in dict.fromkeys(adapters):
                place = [index for index, one in enumerate(adapters) if one == adapter]
                with self.using(adapter):
                    logps = self.scorer(hidden, ids, mask, wanted, temperature=temperature).logps
                found[np.ix_(place, batch)] = sequence_logps(logps, wanted).double().numpy()
        return found

    def _batches(
        self, rows: Sequence[int], prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> Iterator[list[int]]:
        """Rows, sorted by length, in batches of at most ``batch_tokens``."""
        batch: list[int] = []
        for row in rows:
            width = len(prompts[row]) + len(continuations[row])
            if batch and width * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch


def _adapted_layers(model: PreTrainedModel | PeftModel) -> int | None:
    """How many layers, counted from the top, any adapter reaches; None where that is not known."""
    depth = causal_model(model).config.get_text_config().num_hidden_layers
    if not isinstance(model, PeftModel):
        return None
    layers = layers_name(causal_model(model).base_model)
    # An adapter's parameter is called ...layers.17.self_attn.q_proj.lora_A.policy.weight
    pattern = re.compile(rf"\.{layers}\.(\d+)\..*\.lora_")
    adapted = [name for name, _ in model.named_parameters() if ".lora_" in name]
    found = [pattern.search(name) for name in adapted]
    if not found or None in found:  # an adapter outside the layers (an embedding) reaches all of them
        return None
    return depth - min(int(match[1]) for match in found if match)
