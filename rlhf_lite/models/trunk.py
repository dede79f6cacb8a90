"""Cut a transformer body into a frozen trunk and a trainable top.

With LoRA on the top layers only, the layers below never change. Policy, reference and reward model then share
what they compute: the trunk runs once per batch, and every forward and backward pass after that touches the
top layers alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf_lite.models.llama_layers import LlamaLayers, layers_fit
from rlhf_lite.models.runtime import evaluating

# What the list of layers and the last norm are called: Llama and most others, Phi, GPT-NeoX, GPT-2.
_LAYERS = ("layers", "h")
_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
# Bodies whose halves the tests compare with the whole. Any other body is compared when it is split.
_TESTED = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen3"})


def positions(mask: Tensor) -> Tensor:
    """Position ids ``[B, S]`` that start at 0 on the first token that counts, wherever the padding is."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def layers_name(body: nn.Module) -> str:
    """What ``body`` calls its list of layers: ``layers`` or ``h``.

    Raises:
        ValueError: if it has no such list.
    """
    return _one_of(body, _LAYERS)


def norm_name(body: nn.Module) -> str:
    """What ``body`` calls its last norm.

    Raises:
        ValueError: if it has none.
    """
    return _one_of(body, _NORMS)


def _one_of(body: nn.Module, names: tuple[str, ...]) -> str:
    name = next((name for name in names if isinstance(getattr(body, name, None), nn.Module)), None)
    if name is None:
        raise ValueError(f"{type(body).__name__} has no {' or '.join(names)}: only decoders built like "
                         "Llama or GPT-2 can be used here")
    return name


def linear_names(model: PreTrainedModel) -> list[str]:
    """Leaf names of the linear layers inside the transformer blocks, for example ``q_proj``, sorted.

    GPT-2's ``Conv1D`` is a linear layer with a transposed weight and counts as one. Adapters that are already
    there do not: the layer that carries them does, under its own name.
    """
    blocks = getattr(model.base_model, layers_name(model.base_model))
    names = {name.removesuffix(".base_layer").removesuffix(".base").rsplit(".", 1)[-1]
             for name, module in blocks.named_modules()
             if isinstance(module, nn.Linear | Conv1D) and ".lora_" not in name}
    if not names:
        raise ValueError(f"{type(model).__name__} has no linear layers in its blocks: name target_modules")
    return sorted(names)


class _Entry(nn.Module):
    """Stands in for the lower layers in the upper half: it hands on the trunk's states.

    The body may have done something to its input first (Granite scales it, GPT-2 adds positions). The trunk
    has done that already, so whatever arrives here is dropped.
    """

    def __init__(self, kind: str | None) -> None:
        super().__init__()
        self.states: Tensor | None = None
        self.context: Callable[[], AbstractContextManager[None]] = nullcontext
        # Some versions of transformers look a layer's attention mask up by this attribute.
        self.attention_type = kind

    def forward(self, hidden: Tensor, *args: object, **options: object) -> Tensor:
        if self.states is None:
            raise RuntimeError("the upper half runs through SplitBody.top only")
        return self.states


class _Recomputed(nn.Module):
    """A layer that keeps its input only, and computes the rest again during the backward pass."""

    def __init__(self, layer: nn.Module, entry: _Entry) -> None:
        super().__init__()
        self.layer = layer
        self._entry = (entry,)  # in a tuple: not a submodule
        self.attention_type = getattr(layer, "attention_type", None)

    def forward(self, hidden: Tensor, *args: object, **options: object) -> Tensor:
        if not torch.is_grad_enabled():
            return self.layer(hidden, *args, **options)
        # By the time of the backward pass another adapter may be switched on: compute again with this one.
        again = self._entry[0].context
        # use_reentrant=False: the trunk's states need no gradient, and the reentrant form would then give
        # the weights none either.
        return checkpoint(self.layer, hidden, *args, use_reentrant=False,
                          context_fn=lambda: (nullcontext(), again()), **options)


def _part(body: PreTrainedModel, layers: list[nn.Module], norm: nn.Module,
          kinds: list[str] | None) -> PreTrainedModel:
    """A view of ``body`` with other ``layers`` and ``norm``; every weight is shared, nothing is copied.

    ``kinds`` are the attention kinds of these layers, for models that mix them: the forward pass looks a
    layer's kind up by its place in the list.
    """
    part = copy.copy(body)
    part._modules = dict(body._modules)
    part._modules[layers_name(body)] = nn.ModuleList(layers)
    part._modules[norm_name(body)] = norm
    if kinds is not None:
        part.config = copy.copy(body.config)
        part.config.layer_types = kinds
    return part


@dataclass(frozen=True)
class SplitBody:
    """A transformer body as two halves that share the original's weights.

    Attributes:
        lower: embedding and the first layers, without the last norm.
        upper: the top layers and the last norm.
        depth: number of layers in ``lower``.
    """

    lower: PreTrainedModel
    upper: PreTrainedModel
    depth: int
    _entry: _Entry = field(default_factory=lambda: _Entry(None), repr=False)
    _fast: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where ids and masks must be."""
        return self.lower.device

    @torch.no_grad()
    def trunk(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states after the lower half, without gradient.

        Args:
            input_ids: ``[B, S]``.
            mask: bool ``[B, S]``; True counts; padding may be on either side.

        Returns:
            ``[B, S, H]`` in the model's own precision; what stands at padding has no meaning. Without a lower
            half these are the token embeddings.
        """
        embed = self.lower.get_input_embeddings()
        if self.depth == 0:
            return embed(input_ids)
        fast = self._reader()
        if fast is not None:
            x, place = embed(input_ids[mask]), positions(mask)[mask]  # (N, H), (N,)
            states = x.new_zeros(*mask.shape, x.shape[-1])
            states[mask] = fast.read(x, mask, fast.turns(mask.shape[1], x)[place])
            return states
        return self.lower(input_ids=input_ids, attention_mask=mask.long(), position_ids=positions(mask),
                          use_cache=False).last_hidden_state

    def _reader(self) -> LlamaLayers | None:
        """The lower half arranged for reading, made anew when weights changed; None if it cannot be."""
        weights = list(self.lower.parameters())
        now = tuple((weight.data_ptr(), weight._version) for weight in weights)
        if self._fast.get("weights") != now:
            # Packed weights would gain a twentieth on a whole batch of texts, and cost a copy of the trunk.
            fits = layers_fit(self.lower, bare=True)
            self._fast["layers"] = LlamaLayers(self.lower, pack=False) if fits else None
            self._fast["weights"] = now
        return self._fast["layers"]

    def top(self, hidden: Tensor, mask: Tensor, *,
            context: Callable[[], AbstractContextManager[None]] = nullcontext) -> Tensor:
        """Final hidden states ``[B, S, H]`` from the trunk's ``hidden`` ``[B, S, H]``, with gradient.

        Args:
            hidden: from :meth:`trunk`.
            mask: bool ``[B, S]``; True counts.
            context: entered around the computation, and again where checkpointing repeats it: for example
                another adapter.
        """
        self._entry.states, self._entry.context = hidden, context
        try:
            with context():
                return self.upper(inputs_embeds=hidden, attention_mask=mask.long(),
                                  position_ids=positions(mask), use_cache=False).last_hidden_state
        finally:
            self._entry.states, self._entry.context = None, nullcontext

    def checkpoint_top(self, on: bool = True) -> None:
        """Trade time for memory: recompute each top layer during the backward pass, or stop doing so.

        Gradient checkpointing, Chen et al. 2016 (arXiv:1604.06174). Only this upper half is changed, not the
        model itself, which may be sampling with a key-value cache. Dropout draws the same masks again, so
        that no number changes.
        """
        layers = getattr(self.upper, layers_name(self.upper))
        for place, layer in enumerate(layers):
            if on and not isinstance(layer, _Recomputed | _Entry):
                layers[place] = _Recomputed(layer, self._entry)
            elif not on and isinstance(layer, _Recomputed):
                layers[place] = layer.layer


def split_body(body: PreTrainedModel, top_layers: int | None) -> SplitBody:
    """Split a decoder body below its last layers.

    The tests compare the halves of Llama, Mistral, Phi-3, Qwen2 and Qwen3 with the whole. A body of another
    kind (Gemma, GPT-2, GPT-NeoX, ...) is compared here, on a few tokens.

    Args:
        body: the part of a causal model below its head.
        top_layers: how many layers belong to the upper half; None means all of them.

    Raises:
        ValueError: if the body is built otherwise, its halves do not give what the whole gives, or
            ``top_layers`` does not fit.
    """
    name, norm = layers_name(body), getattr(body, norm_name(body))
    layers = list(getattr(body, name))
    top = len(layers) if top_layers is None else top_layers
    if not 0 < top <= len(layers):
        raise ValueError(f"lora.top_layers must be between 1 and {len(layers)} "
                         f"for this model, got {top_layers}")
    tested = body.config.model_type in _TESTED
    try:
        split = _halves(body, layers, norm, depth=len(layers) - top)
        same = tested or _same(body, split)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        if tested:
            raise
        raise ValueError(f"{type(body).__name__} cannot be split: {error}") from error
    if not same:
        raise ValueError(f"{type(body).__name__} cannot be split: its halves do not give what the whole "
                         "gives, because its forward pass does more than run the "
                         "layers in order. Use another model")
    return split


def _halves(body: PreTrainedModel, layers: list[nn.Module], norm: nn.Module, *, depth: int) -> SplitBody:
    kinds = getattr(body.config, "layer_types", None)
    below, above = (None, None) if kinds is None else (kinds[:depth], kinds[depth:])
    entry = _Entry(None if above is None else above[0])
    lower = _part(body, layers[:depth], nn.Identity(), below)
    if depth:
        # The entry takes a place in the list, and that place needs a kind.
        layers, above = [entry, *layers[depth:]], above and [above[0], *above]
    upper = _part(body, layers, norm, above)
    return SplitBody(lower=lower, upper=upper, depth=depth, _entry=entry)


def _same(body: PreTrainedModel, split: SplitBody) -> bool:
    """Whether the halves give on three tokens what the whole gives."""
    ids = torch.arange(3, device=body.device).unsqueeze(0)
    mask = torch.ones_like(ids, dtype=torch.bool)
    with evaluating(body):
        whole = body(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state.float()
        halves = split.top(split.trunk(ids, mask), mask).float()
    # The same operations on the same numbers; bfloat16 may still round differently by shape.
    return halves.shape == whole.shape and bool((halves - whole).abs().max() <= 0.02 * whole.abs().max())
