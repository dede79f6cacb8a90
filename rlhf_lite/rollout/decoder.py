"""What the sampling loop asks of a model: read the prompts, read one more token, forget rows.

Two answers: through the model's own forward pass, and with kernels of our own for models built like Llama.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from rlhf_lite.models.linear import PackedLinear, PlainLinear, plain_linear
from rlhf_lite.models.llama_layers import LlamaLayers, layers_fit, weight_and_bias, worth_packing
from rlhf_lite.models.trunk import positions

# Exact types: a subclass may compute something else.
_KINDS = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM)
# Packing costs as much as some six steps save.
_STEPS_TO_PACK = 8
# A beginning that all prompts share is read once if it is at least so many tokens long.
_SHARED_TOKENS = 16


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

    @property
    def device(self) -> torch.device:
        """Where it reads token ids."""
        ...

    def decoder(self) -> Decoder:
        """A fresh state. Several may be in use at once."""
        ...


def prepare(model: PreTrainedModel | Prepared, *, steps: int | None = None) -> Prepared:
    """Make a model ready for sampling, in the fastest way that fits it. What is ready stays as it is.

    :class:`Generic` works for every causal model of transformers; :class:`Llama` is faster for models built
    like it, on CPUs.

    Args:
        model: adapters should be merged or switched off; with active ones it is read as it is, slowly.
        steps: how many tokens will follow, None for many.
    """
    if not isinstance(model, nn.Module):
        return model
    return prepare_llama(model, steps=steps) or Generic(model)


class Generic:
    """Any causal model of transformers, through its own forward pass. Sees later changes of the weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return self.model.device

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
            output = self._model(input_ids=ids, attention_mask=self._mask, position_ids=self._place,
                                 past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        finally:
            hook.remove()
        return output.logits[:, -1]


def prepare_llama(model: PreTrainedModel, *, steps: int | None = None,
                  pack: bool | None = None) -> Llama | None:
    """Make a model ready for :class:`LlamaDecoder`; None if it has anything that the loop does not know.

    Args:
        model: adapters must be merged or switched off.
        steps: how many tokens will follow; None for many. Few of them are not worth packing for.
        pack: whether to pack the weights; None decides.
    """
    if not _fits(model):
        return None
    if pack is None:
        pack = (steps is None or steps >= _STEPS_TO_PACK) and worth_packing(list(model.parameters()))
    return Llama(model, pack=pack)


def _fits(model: PreTrainedModel) -> bool:
    if type(model) not in _KINDS or model.training or not layers_fit(model.model):
        return False
    hooks = model._forward_hooks or model._forward_pre_hooks or hasattr(model, "_hf_hook")
    return not hooks and plain_linear(model.get_output_embeddings()) is not None


class Llama:
    """The weights of a Llama, Mistral or Qwen2 model as :class:`LlamaDecoder` wants them.

    They are those of the moment of its making: packed weights, and the joined weights of query, key and
    value, are copies.
    """

    device = torch.device("cpu")

    def __init__(self, model: PreTrainedModel, *, pack: bool) -> None:
        self.blocks = LlamaLayers(model.model, pack=pack)
        self.embed, self.last_norm = model.model.embed_tokens, model.model.norm.weight.data
        make = PackedLinear if pack else PlainLinear
        with torch.no_grad():
            self.head = make(*weight_and_bias(model.get_output_embeddings()))

    def decoder(self) -> LlamaDecoder:
        """A fresh state."""
        return LlamaDecoder(self)


class LlamaDecoder:
    """A decoding loop of its own for models built like Llama, on CPUs.

    :class:`~rlhf_lite.models.llama_layers.LlamaLayers` arranged for few rows and one token at a time: keys
    and values are written into a cache that is allocated once. Results differ from transformers by rounding
    only.
    """

    def __init__(self, llama: Llama) -> None:
        self._llama, self._blocks = llama, llama.blocks

    @torch.inference_mode()
    def prefill(self, ids: Tensor, mask: Tensor, *, repeats: int, room: int) -> Tensor:
        """Read the prompts, each once; only tokens that count are computed, and a shared beginning once."""
        blocks, (batch, width) = self._blocks, ids.shape
        self._width = width  # of the filled part of the cache
        place = positions(mask)  # [B, P]
        shared = shared_beginning(ids, mask)
        if shared:
            # The shared beginning to the left of all padding; positions stay what they were.
            first = ids[:1, width - int(mask[0].sum()) :][:, :shared]
            mask = mask & (place >= shared)
            ids, mask, place = ids[:, shared:], mask[:, shared:], place[:, shared:]
        x = self._llama.embed(ids[mask])  # [N, H], the N tokens that count
        self._turns = blocks.turns(width + room, x)
        # Float32, for the attention kernels of the CPU are several times slower in bfloat16.
        shape = (len(blocks.layers), 2, batch * repeats, blocks.key_heads, width + room, blocks.head_size)
        self._cache = torch.empty(shape)

        def store(number: int, keys: Tensor, values: Tensor) -> None:
            for kept, new in zip(self._cache[number, ..., shared:width, :], (keys, values), strict=True):
                kept.unflatten(0, (batch, repeats)).copy_(new.unsqueeze(1))

        before = self._read_shared(first) if shared else []
        x = blocks.read(x, mask, self._turns[place[mask]], store, before)
        hidden = torch.zeros(batch, width + room)  # added to the scores of keys: -inf hides padding
        hidden[:, shared:width].masked_fill_(~mask, -torch.inf)
        self._place = place[:, -1].repeat_interleave(repeats)  # [R] position of the last token read
        self._hidden = hidden.repeat_interleave(repeats, dim=0).unsqueeze(1)  # [R, 1, P + room]
        last = mask.sum(1).cumsum(0) - 1  # [B] where each prompt's last token is among the N
        return self._logits(x[last]).repeat_interleave(repeats, dim=0)

    def _read_shared(self, first: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Read a beginning ``[1, F]`` once and write it into the cache of every row."""
        count = first.shape[1]

        def store(number: int, keys: Tensor, values: Tensor) -> None:
            for kept, new in zip(self._cache[number, ..., :count, :], (keys, values), strict=True):
                kept.copy_(new)

        turns = self._turns[:count]
        self._blocks.read(self._llama.embed(first[0]), torch.ones_like(first, dtype=torch.bool), turns, store)
        return [(layer[0, :1, :, :count], layer[1, :1, :, :count]) for layer in self._cache]

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Read one token per row."""
        blocks, rows, now = self._blocks, len(tokens), self._width
        self._width, self._place = now + 1, self._place + 1
        x = self._llama.embed(tokens)  # [R, H]
        turns = self._turns[self._place]  # [R, 1, D / 2]
        # Rows and key heads become one axis of small matrix products.
        hidden = self._hidden[..., : now + 1].repeat_interleave(blocks.key_heads, dim=0)  # [R * K, 1, S]
        for layer, cache in zip(blocks.layers, self._cache, strict=True):
            q, k, v = blocks.project(layer, x, turns).split(blocks.kinds, dim=1)
            cache[0, :, :, now], cache[1, :, :, now] = k, v
            keys, values = cache[:, :, :, : now + 1].flatten(1, 2)  # [R * K, S, D] each
            q = q.reshape(rows * blocks.key_heads, blocks.groups, -1)
            scores = torch.baddbmm(hidden, q, keys.transpose(1, 2), alpha=blocks.head_size**-0.5)
            mixed = torch.bmm(scores.softmax(-1), values)  # [R * K, groups, D]
            x = blocks.rest(layer, x, mixed.view(rows, -1))
        return self._logits(x)

    @torch.inference_mode()
    def keep(self, order: Tensor) -> None:
        """Forget the other rows. Only rows that change their place are copied."""
        count = len(order)
        moved = (order != torch.arange(count)).nonzero().squeeze(-1)
        if len(moved):
            filled = self._cache[..., : self._width, :]
            filled[:, :, moved] = filled[:, :, order[moved]]
        self._cache = self._cache[:, :, :count]
        self._place, self._hidden = self._place[order], self._hidden[order]

    def _logits(self, x: Tensor) -> Tensor:
        return self._llama.head(self._blocks.norm(x, self._llama.last_norm))


def shared_beginning(ids: Tensor, mask: Tensor) -> int:
    """How many tokens all left-padded prompts ``[B, P]`` begin with in common, if it pays to read them once.

    At least one token of every prompt is left over. 0 for a single prompt or a short beginning.
    """
    if len(ids) < 2:
        return 0
    lengths = mask.sum(1)
    shortest = int(lengths.min()) - 1
    if shortest < _SHARED_TOKENS:
        return 0
    columns = (ids.shape[1] - lengths).unsqueeze(1) + torch.arange(shortest)  # [B, shortest]
    begins = ids.gather(1, columns)
    same = (begins == begins[:1]).all(0)
    count = shortest if bool(same.all()) else int(same.long().argmin())
    return count if count >= _SHARED_TOKENS else 0
