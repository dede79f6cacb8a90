"""What the sampling loop asks of a model: read the prompts, read one more token, forget rows."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from rlhf_lite.models.trunk import positions


class Decoder(Protocol):
    """The state of one batch while it is continued. Rows are R = B * repeats, those of a prompt adjacent."""

    def prefill(self, ids: Tensor, mask: Tensor, *, repeats: int, room: int) -> Tensor:
        """Read left-padded prompts ``[B, P]``; ``room`` tokens will follow. Returns logits ``[R, V]``."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Read one token per row ``[R]``; returns the logits of the next ``[R, V]``."""
        ...

    def keep(self, order: Tensor) -> None:
        """Forget all rows but these; row i is afterwards what row ``order[i]`` was."""
        ...


class Prepared(Protocol):
    """A model made ready for sampling. It may hold a copy of the weights as they were.

    Prepare once and sample often if the weights stand still, as in a server.
    """

    def decoder(self) -> Decoder:
        """A fresh state. Several may be in use at once."""
        ...


def prepare(model: PreTrainedModel | Prepared, *, steps: int | None = None) -> Prepared:
    """Make a model ready for sampling, in the fastest way that fits it. What is ready stays as it is.

    :class:`Generic` works for every causal model of transformers;
    :mod:`rlhf_lite.rollout.llama_decoder` is faster for models built like Llama, on CPUs.

    Args:
        model: adapters should be merged or switched off; with active ones it is read as it is, slowly.
        steps: how many tokens will follow, None for many.
    """
    from rlhf_lite.rollout.llama_decoder import prepare_llama

    if not isinstance(model, nn.Module):
        return model
    return prepare_llama(model, steps=steps) or Generic(model)


class Generic:
    """Any causal model of transformers, through its own forward pass. Sees later changes of the weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def decoder(self) -> Decoder:
        """A fresh state with an empty cache."""
        return GenericDecoder(self.model)


class GenericDecoder:
    """Decoding with the model's own forward pass and a cache that grows by one position per step."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config)

    def prefill(self, ids: Tensor, mask: Tensor, *, repeats: int, room: int) -> Tensor:
        """See :class:`Decoder`. A prompt is read once, however often it is repeated."""
        self._mask, self._place = mask.long(), positions(mask)
        logits = self._read(ids)
        self._place = self._place[:, -1:]
        if repeats > 1:
            self._cache.batch_repeat_interleave(repeats)
            self._mask = self._mask.repeat_interleave(repeats, dim=0)
            self._place = self._place.repeat_interleave(repeats, dim=0)
        return logits.repeat_interleave(repeats, dim=0)

    def step(self, tokens: Tensor) -> Tensor:
        """See :class:`Decoder`."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._place = self._place + 1
        return self._read(tokens.unsqueeze(-1))

    def keep(self, order: Tensor) -> None:
        """See :class:`Decoder`."""
        self._cache.batch_select_indices(order)
        self._mask, self._place = self._mask[order], self._place[order]

    def _read(self, ids: Tensor) -> Tensor:
        # The model takes the last position out of all of them and gives that slice to its head. With bfloat16
        # on a CPU a slice that is not contiguous makes the head many times slower.
        head = self._model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        try:
            output = self._model(
                input_ids=ids,
                attention_mask=self._mask,
                position_ids=self._place,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        finally:
            hook.remove()
        return output.logits[:, -1]
