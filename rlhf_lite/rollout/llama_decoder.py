"""A decoding loop of its own for models built like Llama, on CPUs.

The same arithmetic as the forward pass of transformers, arranged for few rows and one token at a time: keys
and values are written into a cache that is allocated once, query, key and value come from one matrix product,
the weights are packed once (:mod:`rlhf_lite.rollout.linear`), and padding is never computed. Results differ
from transformers by rounding only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from rlhf_lite.models.trunk import positions
from rlhf_lite.rollout.linear import Linear, PackedLinear, PlainLinear, can_pack, plain_linear

# Exact types: a subclass may compute something else.
_KINDS = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM)
# Rotary angles that depend on the position alone, not on the length of the text.
_ROPE = ("default", "linear", "llama3", "yarn")
# Packing costs as much as some six steps save. It is a second copy of the weights: a large model gets none.
_STEPS_TO_PACK, _BYTES_TO_PACK = 8, 4e9


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


def prepare_llama(
    model: PreTrainedModel, *, steps: int | None = None, pack: bool | None = None
) -> Llama | None:
    """Make a model ready for the loop of this module; None if it has anything that the loop does not know.

    Args:
        model: adapters must be merged or switched off.
        steps: how many tokens will follow; None for many. Few of them are not worth packing for.
        pack: whether to pack the weights; None decides.
    """
    if not _fits(model):
        return None
    if pack is None:
        size = sum(parameter.nbytes for parameter in model.parameters())
        worth = (steps is None or steps >= _STEPS_TO_PACK) and size <= _BYTES_TO_PACK
        pack = worth and can_pack(model.get_output_embeddings().weight)
    return Llama(model, pack=pack)


def _fits(model: PreTrainedModel) -> bool:
    config = model.config
    if type(model) not in _KINDS or model.device.type != "cpu" or model.training:
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None) is not None:
        return False
    if config.rope_parameters["rope_type"] not in _ROPE or config.hidden_act != "silu":
        return False
    linears = [plain_linear(module) for layer in model.model.layers for module in _linears(layer)]
    if None in linears or plain_linear(model.get_output_embeddings()) is None:
        return False
    # Somebody wants to see, or change, what passes through the modules.
    return not any(
        module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook")
        for module in model.modules()
    )


def _linears(layer: nn.Module) -> tuple[nn.Module, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.o_proj,
        mlp.gate_proj,
        mlp.up_proj,
        mlp.down_proj,
    )


class Llama:
    """The weights of a Llama, Mistral or Qwen2 model as this module's loop wants them.

    They are those of the moment of its making: packed weights, and the joined weights of query, key and
    value, are copies.
    """

    def __init__(self, model: PreTrainedModel, *, pack: bool) -> None:
        config = model.config
        make = PackedLinear if pack else PlainLinear
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = model.model.layers[0].self_attn.head_dim
        self.embed, self.rotary = model.model.embed_tokens, model.model.rotary_emb
        self.last_norm, self.epsilon = model.model.norm.weight.data, config.rms_norm_eps
        with torch.no_grad():
            self.layers = [self._layer(layer, make) for layer in model.model.layers]
            self.head = make(*_parameters(model.get_output_embeddings()))

    def _layer(self, layer: nn.Module, make: type[PackedLinear] | type[PlainLinear]) -> _Layer:
        q, k, v, out, gate, up, down = _linears(layer)
        return _Layer(
            norm_in=layer.input_layernorm.weight.data,
            qkv=make(*self._joined(q, k, v)),
            out=make(*_parameters(out)),
            norm_mlp=layer.post_attention_layernorm.weight.data,
            gate=make(*_parameters(gate)),
            up=make(*_parameters(up)),
            down=make(*_parameters(down)),
        )

    def _joined(self, *modules: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of one layer that computes queries, keys and values.

        Rotary embeddings turn entry i of a head together with entry i + D/2. Here the two become neighbours,
        as real and imaginary part of one complex number; queries and keys alike, so that their products stay.
        """

        def joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            pairs = [part.unflatten(0, (-1, 2, self.head_size // 2)).transpose(1, 2) for part in (q, k)]
            return torch.cat([*(pair.flatten(0, 2) for pair in pairs), v])

        weights, biases = zip(*map(_parameters, modules), strict=True)
        return joined(*weights), None if biases[0] is None else joined(*biases)

    def decoder(self) -> LlamaDecoder:
        """A fresh state."""
        return LlamaDecoder(self)


def _parameters(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    linear = plain_linear(module)
    return linear.weight.data, None if linear.bias is None else linear.bias.data


class LlamaDecoder:
    """The state of one batch: see :class:`rlhf_lite.rollout.decoder.Decoder`."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        self._kinds = (llama.heads, llama.key_heads, llama.key_heads)  # queries, keys, values
        self._groups = llama.heads // llama.key_heads

    @torch.inference_mode()
    def prefill(self, ids: Tensor, mask: Tensor, *, repeats: int, room: int) -> Tensor:
        """Read the prompts, each once; only tokens that count are computed."""
        llama, (batch, width) = self._llama, ids.shape
        self._width = width  # of the filled part of the cache
        place = positions(mask)  # [B, P]
        x = llama.embed(ids[mask])  # [N, H], the N tokens that count
        cos, sin = llama.rotary(x, torch.arange(width + room).unsqueeze(0))  # [1, P + room, D] each
        half = llama.head_size // 2  # the second half of the table repeats the first
        self._turns = torch.complex(cos[0, :, None, :half].float(), sin[0, :, None, :half].float())
        turns = self._turns[place[mask]]  # [N, 1, D / 2]
        # Float32, for the attention kernels of the CPU are several times slower in bfloat16.
        shape = (len(llama.layers), 2, batch * repeats, llama.key_heads, width + room, llama.head_size)
        self._cache = torch.empty(shape)
        hidden = torch.zeros(batch, width + room)  # added to the scores of keys: -inf hides padding
        hidden[:, :width].masked_fill_(~mask, -torch.inf)
        causal = torch.full((width, width), -torch.inf).triu(1)
        # Not -inf but the lowest number: a query of padding sees nothing at all, and must not become NaN.
        visible = (hidden[:, None, :width] + causal).clamp_min(torch.finfo(torch.float32).min)
        visible = visible.repeat(1, self._groups, 1).unsqueeze(1)  # [B, 1, groups * P, P]
        padded = torch.zeros(batch, width, sum(self._kinds), llama.head_size)
        for layer, cache in zip(llama.layers, self._cache, strict=True):
            padded[mask] = self._heads(layer, x, turns)
            q, k, v = padded.split(self._kinds, dim=2)
            k, v = k.transpose(1, 2), v.transpose(1, 2)  # [B, K, P, D]
            for store, new in zip(cache[..., :width, :], (k, v), strict=True):
                store.unflatten(0, (batch, repeats)).copy_(new.unsqueeze(1))
            # The queries of all heads that share a key head stand in one row: [B, K, groups * P, D]
            q = q.unflatten(2, (-1, self._groups)).permute(0, 2, 3, 1, 4).flatten(2, 3)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
            mixed = mixed.unflatten(2, (-1, width)).permute(0, 3, 1, 2, 4)  # [B, P, K, groups, D]
            x = self._rest(layer, x, mixed[mask].flatten(1))

        self._place = place[:, -1].repeat_interleave(repeats)  # [R] position of the last token read
        self._hidden = hidden.repeat_interleave(repeats, dim=0).unsqueeze(1)  # [R, 1, P + room]
        last = mask.sum(1).cumsum(0) - 1  # [B] where each prompt's last token is among the N
        return self._logits(x[last]).repeat_interleave(repeats, dim=0)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Read one token per row."""
        llama, rows, now = self._llama, len(tokens), self._width
        self._width, self._place = now + 1, self._place + 1
        x = llama.embed(tokens)  # [R, H]
        turns = self._turns[self._place]  # [R, 1, D / 2]
        # Rows and key heads become one axis of small matrix products.
        hidden = self._hidden[..., : now + 1].repeat_interleave(llama.key_heads, dim=0)  # [R * K, 1, S]
        for layer, cache in zip(llama.layers, self._cache, strict=True):
            q, k, v = self._heads(layer, x, turns).split(self._kinds, dim=1)
            cache[0, :, :, now], cache[1, :, :, now] = k, v
            keys, values = cache[:, :, :, : now + 1].flatten(1, 2)  # [R * K, S, D] each
            q = q.reshape(rows * llama.key_heads, self._groups, -1)
            scores = torch.baddbmm(hidden, q, keys.transpose(1, 2), alpha=llama.head_size**-0.5)
            mixed = torch.bmm(scores.softmax(-1), values)  # [R * K, groups, D]
            x = self._rest(layer, x, mixed.view(rows, -1))
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

    def _heads(self, layer: _Layer, x: Tensor, turns: Tensor) -> Tensor:
        """Queries, keys and values of the states ``[N, H]``: float32 ``[N, A + 2 K, D]``, rotated."""
        heads = layer.qkv(self._norm(x, layer.norm_in)).float().view(len(x), -1, self._llama.head_size)
        rotated = heads[:, : -self._llama.key_heads].unflatten(-1, (-1, 2))
        torch.view_as_complex(rotated).mul_(turns)
        return heads

    def _rest(self, layer: _Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """The block after its attention: both residual connections and the gated layer, ``[N, H]``."""
        x = layer.out.plus(mixed.to(x.dtype), x)
        inner = self._norm(x, layer.norm_mlp)
        return layer.down.plus(layer.up.gated(inner, layer.gate.silu(inner)), x)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._llama.epsilon)

    def _logits(self, x: Tensor) -> Tensor:
        return self._llama.head(self._norm(x, self._llama.last_norm))
