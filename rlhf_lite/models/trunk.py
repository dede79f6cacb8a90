"""Cut a transformer body into a frozen trunk and a trainable top.

With LoRA on the top layers only, the layers below never change. Policy, reference and reward model then share
what they compute: the trunk runs once per batch, and every forward and backward pass after that touches the
top layers alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def positions(mask: Tensor) -> Tensor:
    """Position ids ``[B, S]`` that start at 0 on the first token that counts, wherever the padding is."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def _part(
    body: PreTrainedModel, layers: list[nn.Module], norm: nn.Module, kinds: list[str] | None
) -> PreTrainedModel:
    """A view of ``body`` with other ``layers`` and ``norm``; every weight is shared, nothing is copied.

    ``kinds`` are the attention kinds of these layers, for models that mix them: the forward pass looks a
    layer's kind up by its place in the list.
    """
    part = copy.copy(body)
    part._modules = dict(body._modules)
    part._modules["layers"] = nn.ModuleList(layers)
    part._modules["norm"] = norm
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

    @torch.no_grad()
    def trunk(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states after the lower half, without gradient.

        Args:
            input_ids: ``[B, S]``.
            mask: bool ``[B, S]``; True counts; padding may be on either side.

        Returns:
            ``[B, S, H]`` in the model's own precision.
        """
        if self.depth == 0:
            return self.lower.embed_tokens(input_ids)
        return self.lower(
            input_ids=input_ids, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False
        ).last_hidden_state

    def top(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Final hidden states ``[B, S, H]`` from the trunk's ``hidden`` ``[B, S, H]``, with gradient."""
        return self.upper(
            inputs_embeds=hidden, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False
        ).last_hidden_state


def split_body(body: PreTrainedModel, top_layers: int | None) -> SplitBody:
    """Split a decoder body (Llama, Qwen, Mistral and others built alike) below its last layers.

    Args:
        body: the part of a causal model that holds ``embed_tokens``, ``layers`` and ``norm``.
        top_layers: how many layers belong to the upper half; None means all of them.

    Raises:
        ValueError: if the body is built otherwise, or ``top_layers`` does not fit.
    """
    missing = [name for name in ("embed_tokens", "layers", "norm") if not hasattr(body, name)]
    if missing:
        raise ValueError(
            f"{type(body).__name__} has no {', '.join(missing)}: only Llama-style bodies can be split"
        )
    layers = list(body.layers)
    top = len(layers) if top_layers is None else top_layers
    if not 0 < top <= len(layers):
        raise ValueError(
            f"lora.top_layers must be between 1 and {len(layers)} for this model, got {top_layers}"
        )
    depth = len(layers) - top
    kinds = getattr(body.config, "layer_types", None)
    below, above = (None, None) if kinds is None else (kinds[:depth], kinds[depth:])
    lower = _part(body, layers[:depth], nn.Identity(), below)
    return SplitBody(lower=lower, upper=_part(body, layers[depth:], body.norm, above), depth=depth)
