"""Policies under test: a network, its tokenizer and, on a shared network, the name of an adapter.

Several policies may be adapters of one network. It is then loaded once, and what lies below the lowest
adapted layer is computed once for all that read the same text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_lite.data.collate import pad_right
from rlhf_lite.errors import ComparisonError
from rlhf_lite.functional import sequence_logps
from rlhf_lite.models.adapters import merged, using_adapter
from rlhf_lite.models.output import causal_model
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.models.trunk import layers_name

__all__ = ["EvalPolicy", "Network", "bare", "same_vocabulary"]


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
        top_layers: how many layers, counted from the top, adapters change; None finds out.
    """

    name: str
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    adapter: str | None = None
    source: str = ""
    optimised_by: Sequence[str] = ()
    best_of: int = 1
    top_layers: int | None = None

    def __post_init__(self) -> None:
        known = list(self.model.peft_config) if isinstance(self.model, PeftModel) else []
        if self.adapter is not None and self.adapter not in known:
            raise ComparisonError(
                f"{self.name}: the model has no adapter {self.adapter!r}; it has {', '.join(known) or 'none'}"
            )

    @cached_property
    def network(self) -> Network:
        """For log-probabilities under this policy and others on its network."""
        return Network(self.model, self.pad_token_id, top_layers=self.top_layers)

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


@contextmanager
def bare(policies: Iterable[EvalPolicy]) -> Iterator[None]:
    """Switch all adapters of these policies' networks off: a gold judge reads the untouched model."""
    with ExitStack() as stack:
        for model in {id(policy.model): policy.model for policy in policies}.values():
            if isinstance(model, PeftModel):
                stack.enter_context(using_adapter(model, None))
        yield


@dataclass
class Network:
    """Log-probabilities under a model, or under several adapters of one model.

    Args:
        model: a causal model, with or without adapters.
        pad_token_id: fills short rows; any id will do.
        batch_tokens: most tokens in one forward pass, padding included.
        top_layers: how many layers, counted from the top, adapters change; None finds out.
    """

    model: PreTrainedModel | PeftModel
    pad_token_id: int
    batch_tokens: int = 2048
    top_layers: int | None = None
    scorer: PolicyScorer = field(init=False)

    def __post_init__(self) -> None:
        top = _adapted_layers(self.model) if self.top_layers is None else self.top_layers
        self.scorer = PolicyScorer(self.model, top_layers=top)

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
        table = np.zeros((len(adapters), len(prompts)))
        rows = [i for i, tokens in enumerate(continuations) if len(tokens)]
        rows.sort(key=lambda i: len(prompts[i]) + len(continuations[i]))
        for batch in self._batches(rows, prompts, continuations):
            ids, mask = pad_right([[*prompts[i], *continuations[i]] for i in batch], self.pad_token_id)
            starts = torch.tensor([len(prompts[i]) for i in batch]).unsqueeze(1)
            response_mask = mask & (torch.arange(ids.shape[1]).unsqueeze(0) >= starts)
            hidden = self.scorer.body.trunk(ids, mask)
            for adapter in dict.fromkeys(adapters):
                place = [index for index, one in enumerate(adapters) if one == adapter]
                with self.using(adapter):
                    logps = self.scorer(hidden, ids, mask, response_mask, temperature=temperature).logps
                table[np.ix_(place, batch)] = sequence_logps(logps.double(), response_mask).numpy()
        return table

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
    matches = [pattern.search(name) for name, _ in model.named_parameters() if ".lora_" in name]
    if not matches or None in matches:  # an adapter outside the layers (an embedding) reaches all of them
        return None
    return depth - min(int(match[1]) for match in matches if match)
