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
from transformers.pytorch_utils import Conv1D

from rlhf_lite.models.lora.layer import fold
from rlhf_lite.models.runtime import quiet_loading
from rlhf_lite.models.trunk import layers_name, linear_names


def lora_config(model: PreTrainedModel, *, rank: int, alpha: float, dropout: float, top_layers: int | None,
                target_modules: Sequence[str] | str = "all-linear", task: str = "CAUSAL_LM") -> LoraConfig:
    """A PEFT configuration that adapts the last ``top_layers`` blocks (None: all of them).

    Source of the method: Hu et al. 2021 (arXiv:2106.09685); the update is alpha / rank * B A, with B = 0 at
    the start, so that a new adapter changes nothing.
    """
    depth = model.config.num_hidden_layers
    first = 0 if top_layers is None else depth - top_layers
    return LoraConfig(
        task_type=task, r=rank, lora_alpha=alpha, lora_dropout=dropout,
        target_modules=linear_names(model) if target_modules == "all-linear" else list(target_modules),
        layers_to_transform=list(range(first, depth)), layers_pattern=layers_name(model.base_model),
        # Conv1D keeps its weight transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )


def add_adapter(model: PreTrainedModel | PeftModel, config: LoraConfig, name: str, *, seed: int) -> PeftModel:
    """Attach a new adapter called ``name``. A and any new head are drawn from ``seed``; B is zero."""
    with quiet_loading(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
            return model
        return get_peft_model(model, config, adapter_name=name)


def load_adapter(model: PreTrainedModel | PeftModel, folder: Path, name: str, *,
                 trainable: bool = False) -> PeftModel:
    """Load an adapter saved by :func:`save_adapter` (or by PEFT) under the given name.

    Its tensors come to where the layers are that they belong to.
    """
    with quiet_loading():
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name, is_trainable=trainable, torch_device="cpu")
            return model
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=trainable,
                                         torch_device="cpu")


def save_adapter(model: PeftModel, folder: Path, name: str, *, base: str) -> None:
    """Write adapter ``name`` into ``folder`` in PEFT's format (``adapter_config.json`` and safetensors).

    Args:
        base: what ``base_model_name_or_path`` shall say: the folder or Hub id that the adapter belongs to.
    """
    model.peft_config[name].base_model_name_or_path = base
    # Adapters sit in the blocks. Asked to find out about the embedding itself, PEFT would look on the Hub.
    with quiet_loading():
        model.save_pretrained(str(folder), selected_adapters=[name], safe_serialization=True,
                              save_embedding_layers=False)
    # PEFT puts every adapter but "default" into a subfolder; plain PEFT code looks in the folder itself.
    nested = folder / name
    if nested.is_dir():
        for file in nested.iterdir():
            file.replace(folder / file.name)
        nested.rmdir()


def lora_layers(model: nn.Module) -> list[LoraLayer]:
    """Every layer of ``model`` that carries LoRA adapters."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def adapter_parameters(model: PreTrainedModel | PeftModel, name: str) -> list[nn.Parameter]:
    """A and B of every linear layer of adapter ``name``.

    Raises:
        ValueError: if the model has no such adapter.
    """
    parameters = [parameter for layer in lora_layers(model) for half in (layer.lora_A, layer.lora_B)
                  if name in half for parameter in half[name].parameters()]
    if not parameters:
        known = sorted(model.peft_config) if isinstance(model, PeftModel) else []
        raise ValueError(f"there is no adapter {name!r}; there are {known}")
    return parameters


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
        with_gradient = {id(parameter) for parameter in trainable}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in with_gradient)


@contextmanager
def merged(model: PeftModel, name: str | None) -> Iterator[None]:
    """Sample with adapter ``name`` folded into the weights: W + alpha / rank * B A, added in float32.

    A decoding step is many small matrix products, and an unmerged adapter triples their number. The original
    tensors are put back afterwards, not computed back, so that nothing drifts in bfloat16.

    Raises:
        ValueError: if a merged weight is not finite.
    """
    originals: list[tuple[nn.Module, nn.Parameter]] = []
    with using_adapter(model, None):
        try:
            if name is not None:
                for layer in lora_layers(model):
                    if name in layer.scaling:
                        update = layer.get_delta_weight(name).float()
                        base = layer.get_base_layer()
                        originals.append((base, fold(base, update, f"a layer of adapter {name!r}")))
            yield
        finally:
            for base, weight in reversed(originals):
                base.weight = weight
