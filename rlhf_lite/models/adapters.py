"""LoRA adapters on a model, through PEFT: attach, switch, merge for sampling, save and load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from rlhf_lite.models.runtime import quiet_loading


def linear_names(model: PreTrainedModel) -> list[str]:
    """Leaf names of the linear layers inside the transformer blocks, for example ``q_proj``, sorted."""
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in f".{name}"
    }
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no linear layers under 'layers': name lora.target_modules"
        )
    return sorted(names)


def lora_config(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    top_layers: int | None,
    target_modules: Sequence[str] | str = "all-linear",
    task: str = "CAUSAL_LM",
) -> LoraConfig:
    """A PEFT configuration that adapts the last ``top_layers`` blocks (None: all of them).

    Source of the method: Hu et al. 2021 (arXiv:2106.09685); the update is alpha / rank * B A, with B = 0 at
    the start, so that a new adapter changes nothing.
    """
    depth = model.config.num_hidden_layers
    first = 0 if top_layers is None else depth - top_layers
    return LoraConfig(
        task_type=task,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=linear_names(model) if target_modules == "all-linear" else list(target_modules),
        layers_to_transform=list(range(first, depth)),
        layers_pattern="layers",
    )


def add_adapter(model: PreTrainedModel | PeftModel, config: LoraConfig, name: str, *, seed: int) -> PeftModel:
    """Attach a new adapter called ``name``. A and any new head are drawn from ``seed``; B is zero."""
    with quiet_loading(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
            return model
        return get_peft_model(model, config, adapter_name=name)


def load_adapter(
    model: PreTrainedModel | PeftModel, folder: Path, name: str, *, trainable: bool = False
) -> PeftModel:
    """Load an adapter saved by :func:`save_adapter` (or by PEFT) under the given name."""
    with quiet_loading():
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name, is_trainable=trainable)
            return model
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=trainable)


def save_adapter(model: PeftModel, folder: Path, name: str, *, base: str) -> None:
    """Write adapter ``name`` into ``folder`` in PEFT's format (``adapter_config.json`` and safetensors).

    Args:
        base: what ``base_model_name_or_path`` shall say: the folder or Hub id that the adapter belongs to.
    """
    model.peft_config[name].base_model_name_or_path = base
    model.save_pretrained(str(folder), selected_adapters=[name], safe_serialization=True)
    # PEFT puts every adapter but "default" into a subfolder; plain PEFT code looks in the folder itself.
    nested = folder / name
    if nested.is_dir():
        for file in nested.iterdir():
            file.replace(folder / file.name)
        nested.rmdir()


def lora_layers(model: nn.Module) -> list[LoraLayer]:
    """Every layer of ``model`` that carries LoRA adapters."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


@contextmanager
def using_adapter(model: PeftModel, name: str | None) -> Iterator[None]:
    """Compute with another adapter inside the block; None switches all adapters off (the bare model).

    This is how the reference policy costs no memory: it is the same network with another small update.
    """
    before, layers = model.active_adapter, lora_layers(model)
    was_off = layers[0].disable_adapters
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name is None:
        model.base_model.disable_adapter_layers()
    else:
        model.base_model.enable_adapter_layers()
        model.set_adapter(name)
    try:
        yield
    finally:
        model.base_model.enable_adapter_layers()
        model.set_adapter(before)
        if was_off:
            model.base_model.disable_adapter_layers()
        # PEFT turns gradients on and off with the adapter; put them back exactly as they were.
        wanted = {id(parameter) for parameter in trainable}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in wanted)


@contextmanager
def merged(model: PeftModel, name: str | None) -> Iterator[None]:
    """Sample with adapter ``name`` folded into the weights: W + alpha / rank * B A, added in float32.

    A decoding step is many small matrix products, and an unmerged adapter triples their number. The original
    tensors are put back afterwards, not computed back, so that nothing drifts in bfloat16.
    """
    layers = lora_layers(model)
    originals = [layer.get_base_layer().weight.data for layer in layers]
    with using_adapter(model, None):
        try:
            if name is not None:
                for layer, original in zip(layers, originals, strict=True):
                    update = layer.get_delta_weight(name).float()
                    layer.get_base_layer().weight.data = (original.float() + update).to(original.dtype)
            yield
        finally:
            for layer, original in zip(layers, originals, strict=True):
                layer.get_base_layer().weight.data = original
