"""Layers built like Llama's, arranged for reading without a gradient on CPUs.

The same arithmetic as the forward pass of transformers: query, key and value come from one matrix product,
the weights may be packed (:mod:`rlhf_lite.models.linear`), and padding is never computed. Results differ from
transformers by rounding only. The sampling loop and the frozen trunk both read with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaModel, MistralModel, PreTrainedModel, Qwen2Model

from rlhf_lite.models.linear import WRAPPERS, Linear, PackedLinear, PlainLinear, can_pack, plain_linear

# Exact types: a subclass may compute something else.
_KINDS = (LlamaModel, MistralModel, Qwen2Model)
# Rotary angles that depend on the position alone, not on the length of the text.
_ROPE = ("default", "linear", "llama3", "yarn")
# Packing makes a second copy of the weights: a large model gets none.
_BYTES_TO_PACK = 4e9

# Called with the number of a layer, its keys and its values, both ``[B, K, P, D]``.
Store = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True)
class _Layer:
    """One block. Letters: H hidden size, A query heads, K key heads, D size of a head, F inner size."""

    norm_in: Tensor  # [H]
    qkv: Linear  # H -> (A + 2 K) D
    out: Linear  # A D -> H
    norm_mlp: Tensor
    gate: Linear  # H -> F
    up: Linear  # H -> F
    down: Linear  # F -> H


def layers_fit(body: PreTrainedModel, *, bare: bool = False) -> bool:
    """Whether :class:`LlamaLayers` computes what the layers of ``body`` compute just now.

    ``bare`` refuses layers that carry adapters even if these are switched off: they may be switched on later.
    """
    config = body.config
    if type(body) not in _KINDS or body.device.type != "cpu":
        return False
    if body.training and getattr(config, "attention_dropout", 0.0):
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None) is not None:
        return False
    if config.rope_parameters["rope_type"] not in _ROPE or config.hidden_act != "silu":
        return False
    linears = [module for layer in body.layers for module in _linears(layer)]
    if any(plain_linear(module) is None or (bare and type(module) is not nn.Linear) for module in linears):
        return False
    norms = (norm for layer in body.layers
             for norm in (layer.input_layernorm, layer.post_attention_layernorm))
    if any(isinstance(norm, WRAPPERS) for norm in (*norms, body.norm)):
        return False
    # Somebody wants to see, or change, what passes through the modules.
    return not any(module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook")
                   for module in body.modules())


def worth_packing(weights: Sequence[Tensor]) -> bool:
    """Whether packed copies of these weights can be made, and are small enough to have."""
    return sum(weight.nbytes for weight in weights) <= _BYTES_TO_PACK and all(map(can_pack, weights))


def _linears(layer: nn.Module) -> tuple[nn.Module, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    return (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj,
            mlp.up_proj, mlp.down_proj)


def weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The tensors of a layer that is plain just now."""
    linear = plain_linear(module)
    return linear.weight.data, None if linear.bias is None else linear.bias.data


class LlamaLayers:
    """The layers of a Llama, Mistral or Qwen2 body, with the weights of the moment of its making.

    Packed weights, and the joined weights of query, key and value, are copies.

    Args:
        body: what holds ``layers`` and ``rotary_emb``; :func:`layers_fit` must hold.
        pack: whether to pack the weights.
    """

    def __init__(self, body: PreTrainedModel, *, pack: bool) -> None:
        config = body.config
        make = PackedLinear if pack else PlainLinear
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = body.layers[0].self_attn.head_dim
        self.groups = self.heads // self.key_heads
        self.kinds = (self.heads, self.key_heads, self.key_heads)  # queries, keys, values
        self.rotary, self.epsilon = body.rotary_emb, config.rms_norm_eps
        with torch.no_grad():
            self.layers = [self._layer(layer, make) for layer in body.layers]

    def _layer(self, layer: nn.Module, make: type[Linear]) -> _Layer:
        q, k, v, out, gate, up, down = _linears(layer)
        return _Layer(norm_in=layer.input_layernorm.weight.data, qkv=make(*self._joined(q, k, v)),
                      out=make(*weight_and_bias(out)), norm_mlp=layer.post_attention_layernorm.weight.data,
                      gate=make(*weight_and_bias(gate)), up=make(*weight_and_bias(up)),
                      down=make(*weight_and_bias(down)))

    def _joined(self, *modules: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of one layer that computes queries, keys and values.

        Rotary embeddings turn entry i of a head together with entry i + D/2. Here the two become neighbours,
        as real and imaginary part of one complex number; queries and keys alike, so that their products stay.
        """

        def joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            pairs = [part.unflatten(0, (-1, 2, self.head_size // 2)).transpose(1, 2) for part in (q, k)]
            return torch.cat([*(pair.flatten(0, 2) for pair in pairs), v])

        weights, biases = zip(*map(weight_and_bias, modules), strict=True)
        return joined(*weights), None if biases[0] is None else joined(*biases)

    def turns(self, length: int, like: Tensor) -> Tensor:
        """Rotations of the positions below ``length``: complex ``[length, 1, D / 2]``."""
        cos, sin = self.rotary(like, torch.arange(length).unsqueeze(0))  # [1, length, D] each
        half = self.head_size // 2  # the second half of the table repeats the first
        return torch.complex(cos[0, :, None, :half].float(), sin[0, :, None, :half].float())

    def read(self, x: Tensor, mask: Tensor, turns: Tensor, store: Store | None = None,
             before: Sequence[tuple[Tensor, Tensor]] = ()) -> Tensor:
        """Run all layers over texts; only tokens that count are computed.

        Args:
            x: ``[N, H]`` embeddings of the N tokens that count, row by row.
            mask: bool ``[B, P]``; True counts; padding may be on either side.
            turns: complex ``[N, 1, D / 2]``, the rotation of each token.
            store: takes keys and values, for a cache.
            before: for each layer keys and values ``[1, K, F, D]`` of F tokens that stand before every text.

        Returns:
            ``[N, H]`` states after the last layer, without the last norm.
        """
        batch, width = mask.shape
        hidden = torch.zeros(batch, width).masked_fill_(~mask, -torch.inf)  # hides padding
        causal = torch.full((width, width), -torch.inf).triu(1)
        # Not -inf but the lowest number: a query of padding sees nothing at all, and must not become NaN.
        visible = (hidden[:, None] + causal).clamp_min(torch.finfo(torch.float32).min)
        visible = visible.repeat(1, self.groups, 1).unsqueeze(1)  # [B, 1, groups * P, P]
        if before:  # everybody sees all of it
            visible = functional.pad(visible, (before[0][0].shape[2], 0))
        padded = torch.zeros(batch, width, sum(self.kinds), self.head_size)
        for number, layer in enumerate(self.layers):
            padded[mask] = self.project(layer, x, turns)
            q, k, v = padded.split(self.kinds, dim=2)
            k, v = k.transpose(1, 2), v.transpose(1, 2)  # [B, K, P, D]
            if store is not None:
                store(number, k, v)
            if before:
                k, v = (torch.cat([old.expand(batch, -1, -1, -1), new], dim=2)
                        for old, new in zip(before[number], (k, v), strict=True))
            # The queries of all heads that share a key head stand in one row: [B, K, groups * P, D]
            q = q.unflatten(2, (-1, self.groups)).permute(0, 2, 3, 1, 4).flatten(2, 3)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
            mixed = mixed.unflatten(2, (-1, width)).permute(0, 3, 1, 2, 4)  # [B, P, K, groups, D]
            x = self.rest(layer, x, mixed[mask].flatten(1))
        return x

    def project(self, layer: _Layer, x: Tensor, turns: Tensor) -> Tensor:
        """Queries, keys and values of the states ``[N, H]``: float32 ``[N, A + 2 K, D]``, rotated."""
        heads = layer.qkv(self.norm(x, layer.norm_in)).float().view(len(x), -1, self.head_size)
        rotated = heads[:, : -self.key_heads].unflatten(-1, (-1, 2))
        torch.view_as_complex(rotated).mul_(turns)
        return heads

    def rest(self, layer: _Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """The block after its attention: both residual connections and the gated layer, ``[N, H]``."""
        x = layer.out.plus(mixed.to(x.dtype), x)
        inner = self.norm(x, layer.norm_mlp)
        return layer.down.plus(layer.up.gated(inner, layer.gate.silu(inner)), x)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """The root-mean-square norm, ``[N, H]``."""
        return functional.rms_norm(x, weight.shape, weight, self.epsilon)
