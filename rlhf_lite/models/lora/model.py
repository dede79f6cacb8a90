"""LoRA from scratch: the readable reference, and an independent check of the adapters that training uses.

The layers and the formula are in :mod:`rlhf_lite.models.lora.layer`; here they are put into a model, switched
and merged. The same names in :mod:`rlhf_lite.models.adapters` do the same through PEFT, which training and
serving use: it knows quantised layers and many more methods. :mod:`rlhf_lite.models.lora.files` exchanges
adapters with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from rlhf_lite.models.lora.layer import WRAPPERS, LoRALayer, LoRASpec, Merged, fold
from rlhf_lite.models.trunk import layers_name, linear_names


def _refuse_merged(layers: Mapping[str, LoRALayer]) -> None:
    if any(layer.merged is not None for layer in layers.values()):
        raise RuntimeError("an adapter is merged into the weights: unmerge it first")


def check_new(model: nn.Module, name: str) -> None:
    """Raise unless an adapter called ``name`` can be added."""
    layers = lora_layers(model)
    _refuse_merged(layers)
    if any(name in layer.specs for layer in layers.values()):
        raise ValueError(f"there is an adapter called {name!r} already: choose another name")


def lora_layers(model: nn.Module, name: str | None = None) -> dict[str, LoRALayer]:
    """Path to layer, for every layer with adapters, or with the adapter ``name``.

    Raises:
        ValueError: if ``name`` is given and no layer has it.
    """
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, LoRALayer)}
    if name is None:
        return layers
    adapted = {path: layer for path, layer in layers.items() if name in layer.specs}
    if not adapted:
        known = sorted({known for layer in layers.values() for known in layer.specs})
        raise ValueError(f"there is no adapter {name!r}; there are {known}")
    return adapted


def adaptable(model: nn.Module) -> dict[str, nn.Module]:
    """Path to module, for every layer that can carry an adapter, whether it carries one already or not."""
    carriers = lora_layers(model)
    inside = tuple(f"{path}." for path in carriers)
    plain = {path: module
             for path, module in model.named_modules()
             if type(module) in WRAPPERS and not path.startswith(inside)}
    return plain | carriers


def wrap(model: nn.Module, path: str) -> LoRALayer:
    """The LoRA layer at ``path``, put around the layer there if that is a plain one."""
    parent, _, leaf = path.rpartition(".")
    module = model.get_submodule(path)
    if not isinstance(module, LoRALayer):
        module = WRAPPERS[type(module)](module).train(module.training)
        setattr(model.get_submodule(parent), leaf, module)
    return module


def add_lora(model: PreTrainedModel, *, rank: int, alpha: float, name: str = "default", dropout: float = 0.0,
             rslora: bool = False, target_modules: Sequence[str] | str = "all-linear",
             top_layers: int | None = None, seed: int = 0) -> PreTrainedModel:
    """Attach a new adapter in place and activate it; everything else is frozen.

    Args:
        model: a transformers model, with or without adapters of this kind.
        rank: r.
        alpha: the numerator of the scale, see :class:`LoRASpec`.
        name: of the adapter.
        dropout: see :class:`LoRASpec`.
        rslora: see :class:`LoRASpec`.
        target_modules: leaf names such as ``["q_proj", "v_proj", "embed_tokens"]``, or ``"all-linear"`` for
            every linear layer inside the transformer blocks.
        top_layers: adapt the last blocks only (None: all). A named layer outside the blocks, such as the
            embedding, is adapted in any case.
        seed: for the parts that do not start at zero.

    Returns:
        The same model.

    Raises:
        ValueError: if a name matches nothing that can be adapted, or the adapter exists already.
        RuntimeError: while an adapter is merged.
    """
    spec = LoRASpec(rank, alpha, dropout, rslora)
    pattern = re.compile(rf"(?:^|\.){layers_name(model.base_model)}\.(\d+)\.")
    depth = model.config.num_hidden_layers
    first = 0 if top_layers is None else depth - top_layers
    if not 0 <= first < depth:
        raise ValueError(f"top_layers must be between 1 and {depth} for this model, got {top_layers}")
    everything = adaptable(model)
    if isinstance(target_modules, str) and target_modules != "all-linear":
        raise ValueError(f"target_modules must be a list of names or 'all-linear', got {target_modules!r}")
    names = linear_names(model) if target_modules == "all-linear" else list(target_modules)
    chosen = []
    for target in names:
        matches = [path for path in everything if f".{path}".endswith(f".{target}")]
        if not matches:
            raise ValueError(f"target_modules: {type(model).__name__} has no layer {target!r} to adapt")
        for path in matches:
            block = pattern.search(path)
            if target_modules != "all-linear" if block is None else int(block[1]) >= first:
                chosen.append(path)
    check_new(model, name)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for path in sorted(set(chosen)):
        wrap(model, path).add(name, spec, generator)
    set_adapter(model, name)
    return model


def lora_parameters(model: nn.Module, name: str | None = None) -> list[nn.Parameter]:
    """A and B of every layer, of one adapter or of all: what an optimiser needs."""
    return [parameters[key] for layer in lora_layers(model, name).values() for key in layer.specs
            if name in (None, key) for parameters in (layer.A, layer.B)]


def set_adapter(model: nn.Module, name: str | None) -> None:
    """Compute with adapter ``name`` from now on; None switches all adapters off.

    Without an adapter the model is the reference policy: the same weights, so no second copy in memory.

    Raises:
        ValueError: if there is no such adapter.
        RuntimeError: while an adapter is merged.
    """
    if name is not None:
        lora_layers(model, name)  # it exists
    layers = lora_layers(model)
    _refuse_merged(layers)
    for layer in layers.values():
        layer.active = name if name in layer.specs else None


@contextmanager
def using_adapter(model: nn.Module, name: str | None) -> Iterator[None]:
    """Compute with another adapter inside the block; None is the bare model."""
    before = [(layer, layer.active) for layer in lora_layers(model).values()]
    set_adapter(model, name)
    try:
        yield
    finally:
        for layer, active in before:
            layer.active = active


@torch.no_grad()
def merge(model: nn.Module, name: str) -> None:
    """Put W + s · B A in the place of every W that adapter ``name`` changes; computed in float32.

    Forward passes then cost what the bare model costs. :func:`unmerge` takes it back.

    Raises:
        ValueError: if there is no such adapter, or a merged weight is not finite; nothing is changed then.
        RuntimeError: if an adapter is merged already.
    """
    carriers, layers = lora_layers(model, name), lora_layers(model)
    _refuse_merged(layers)
    try:
        for path, layer in layers.items():
            weight = fold(layer.base, layer.update(name), path) if path in carriers else None
            # Switched off: an active adapter would be added a second time.
            layer.merged, layer.active = Merged(layer.active, weight), None
    except ValueError:
        unmerge(model)
        raise


def unmerge(model: nn.Module) -> None:
    """Put weights and active adapter from before :func:`merge` back: the very same tensors."""
    for layer in lora_layers(model).values():
        if layer.merged is not None:
            if layer.merged.weight is not None:
                layer.base.weight = layer.merged.weight
            layer.active, layer.merged = layer.merged.active, None


@contextmanager
def merged(model: nn.Module, name: str | None) -> Iterator[None]:
    """Compute with adapter ``name`` folded into the weights inside the block; None is the bare model."""
    if name is None:
        with using_adapter(model, None):
            yield
        return
    merge(model, name)
    try:
        yield
    finally:
        unmerge(model)
