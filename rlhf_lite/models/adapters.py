"""Adapters on a model, through PEFT: attach, switch, merge for sampling, save and load.

Training makes plain LoRA. Adapters of other people may hold more (DoRA, trained tokens, a head of their own)
or be of another kind (IA3): what an adapter means is PEFT's forward pass, and :func:`load_adapter` refuses
those that cannot be switched, sampled and scored here as PEFT does it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import WEIGHTS_NAME
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf_lite.errors import ConfigError, PhaseError
from rlhf_lite.models.linear import WRAPPERS
from rlhf_lite.models.lora.files import CONFIG_FILE, TENSOR_FILE, beyond_lora
from rlhf_lite.models.lora.layer import fold
from rlhf_lite.models.names import loading
from rlhf_lite.models.output import causal_model
from rlhf_lite.models.runtime import evaluating, quiet_loading
from rlhf_lite.models.trunk import layers_name, linear_names, norm_name


def lora_config(model: PreTrainedModel, *, rank: int, alpha: float, dropout: float, top_layers: int | None,
                target_modules: Sequence[str] | str = "all-linear", task: str = "CAUSAL_LM") -> LoraConfig:
    """A PEFT configuration that adapts the last ``top_layers`` blocks (None: all of them).

    Source of the method: Hu et al. 2021 (arXiv:2106.09685); the update is alpha / rank * B A, with B = 0 at
    the start, so that a new adapter changes nothing.

    Raises:
        ConfigError: if the model has fewer layers, or no module of such a name.
    """
    depth = model.config.num_hidden_layers
    first = 0 if top_layers is None else depth - top_layers
    if not 0 <= first < depth:
        raise ConfigError([f"lora.top_layers: must be between 1 and {depth} for this model, "
                           f"got {top_layers}"])
    if target_modules != "all-linear" and task == "CAUSAL_LM":
        head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
        known = [*linear_names(model), head]
        if unknown := [name for name in target_modules if name.rpartition(".")[2] not in known]:
            raise ConfigError([f"lora.target_modules: {type(model).__name__} has no linear layer "
                               f"{unknown[0]!r}; take some of {', '.join(known)}, or all-linear"])
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
    """Load an adapter saved by :func:`save_adapter` or by PEFT under the given name.

    Its tensors come to where the layers are that they belong to.

    Raises:
        PhaseError: if it does not load on this model, is incomplete, or does what cannot be reproduced here.
    """
    with loading(str(folder), "an adapter"):
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if not any((folder / file).is_file() for file in (TENSOR_FILE, WEIGHTS_NAME)):
            raise PhaseError(f"the adapter in {folder} has no weights: copy its {TENSOR_FILE} there")
    beyond = {}
    if config.get("task_type") != "SEQ_CLS":  # a reward model of ours: LoRA and its score
        beyond = beyond_lora(config)
        if odd := [key for key in tensor_names(folder) if ".lora_" not in key]:
            beyond["tensors"] = odd[0]
    bare = _bare(model) if beyond else None
    with quiet_loading(), loading(str(folder), "an adapter of this model"):
        if not isinstance(model, PeftModel):
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=trainable,
                                              torch_device="cpu")
        else:
            model.load_adapter(str(folder), adapter_name=name, is_trainable=trainable, torch_device="cpu")
        if not isinstance(model.base_model, BaseTuner):
            raise _refusal(folder, beyond, "it changes the input instead of the weights")
        # Once more, for the names that PEFT passes over.
        tensors = load_peft_weights(str(folder), device="cpu")
        if broken := [key for key, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
            raise PhaseError(f"the adapter in {folder} cannot be used: its tensor {broken[0]} holds numbers "
                             "that are infinite or NaN. Its training broke down, or its file is damaged")
        found = set_peft_model_state_dict(model, tensors, adapter_name=name)
        parts = dict(model.named_parameters(remove_duplicate=False))
        there = {id(part) for key, part in parts.items() if key not in found.missing_keys}
        missing = [key for key in found.missing_keys  # a part that is tied to another one is not in the file
                   if f".{name}." in f"{key}." and id(parts.get(key)) not in there]
        if lost := [*missing, *found.unexpected_keys]:
            raise PhaseError(f"the adapter in {folder} does not fit this model: of {lost[0]} and "
                             f"{len(lost) - 1} other tensors only one of the two knows; use the model that "
                             "it was trained on")
        if beyond and (reason := _unlike_peft(model, name, bare)):
            raise _refusal(folder, beyond, reason)
    return model


def _refusal(folder: Path, beyond: dict[str, Any], reason: str) -> PhaseError:
    listed = ", ".join(f"{field}={value!r}" for field, value in sorted(beyond.items()))
    return PhaseError(f"the adapter in {folder} ({listed}) cannot be used here: {reason}. If PEFT can merge "
                      "it (merge_and_unload), save the merged model and give that folder")


def tensor_names(folder: Path) -> list[str]:
    """The names in an adapter's safetensors file; none if it has no such file."""
    if not (folder / TENSOR_FILE).is_file():
        return []
    with loading(str(folder), "an adapter"), safe_open(folder / TENSOR_FILE, "pt") as tensors:
        return list(tensors.keys())


def is_classifier(folder: Path) -> bool:
    """Whether an adapter scores texts instead of writing them: by its task, or by a score head that it holds.

    PEFT writes no task type unless it is given one.
    """
    task = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("task_type")
    heads = (".score.", ".classifier.")
    return task == "SEQ_CLS" or any(head in key for key in tensor_names(folder) for head in heads)


def checksums(model: nn.Module, dtype: torch.dtype | None = None) -> list[int]:
    """A number for each parameter that changes with any of its bits (after rounding, with ``dtype``)."""
    weights = (parameter.detach().to("cpu", dtype).contiguous() for parameter in model.parameters())
    return [zlib.crc32(weight.view(-1).view(torch.uint8).numpy()) for weight in weights]


def _try_out(model: nn.Module) -> Tensor:
    """Logits of a few tokens."""
    with evaluating(model):
        return model(input_ids=torch.arange(8, device=next(model.parameters()).device)[None])[0].float()


def _bare(model: PreTrainedModel | PeftModel) -> tuple[Tensor, list[nn.Parameter], list[int]]:
    """What the model without adapters computes, and of what."""
    with using_adapter(model, None) if isinstance(model, PeftModel) else nullcontext():
        return _try_out(causal_model(model)), list(model.parameters()), checksums(model)


def _unlike_peft(model: PeftModel, name: str,
                 bare: tuple[Tensor, list[nn.Parameter], list[int]]) -> str | None:
    """Why adapter ``name`` cannot be switched off, or not be sampled as PEFT computes it; None if it can."""
    causal, (logits, weights, sums) = causal_model(model), bare
    with using_adapter(model, None):
        if checksums(nn.ParameterList(weights)) != sums or not torch.equal(_try_out(causal), logits):
            return "it changes the base model's own weights, so that the bare model would be gone"
    with using_adapter(model, name):
        meant, inner = _try_out(model), _try_out(causal)
    with merged(model, name):
        sampled = _try_out(causal)
    near = 1e-3 if causal.dtype == torch.float32 else 0.25  # of the largest logit; bfloat16 rounds by order
    for other in (inner, sampled):
        if other.shape != meant.shape or not bool((other - meant).abs().max() <= near * meant.abs().max()):
            return "its text would not be what PEFT's forward pass gives"
    return None


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


def lowest_adapted(model: PreTrainedModel | PeftModel) -> int | None:
    """Number of the lowest layer that any adapter changes, the depth if none; None if one changes the input.

    Parts above the layers (last norm, vocabulary head) do not count, embeddings are the input.
    """
    body = causal_model(model).base_model
    layers, lowest = layers_name(body), len(getattr(body, layers_name(body)))
    for path, module in body.named_modules():
        part, _, rest = path.partition(".")
        if not isinstance(module, WRAPPERS) or part == norm_name(body):
            continue
        if part != layers:
            return None
        lowest = min(lowest, int(rest.partition(".")[0]))
    return lowest


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
    before = model.active_adapter
    was_off = any(module.disable_adapters for module in model.modules() if isinstance(module, WRAPPERS))
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

    Of an adapter that is more than LoRA, PEFT merges what it can of its linear layers; the rest stays active.

    Raises:
        ValueError: if a merged weight is not finite.
    """
    originals: list[tuple[nn.Module, nn.Parameter]] = []
    plain = name is None or not beyond_lora(model.peft_config[name].to_dict())
    layers = [] if name is None else [layer for layer in lora_layers(model) if name in layer.scaling]
    if not plain:
        layers = [layer for layer in layers if type(layer) is lora.Linear and not layer.lora_bias[name]]
    with using_adapter(model, None if plain else name):
        try:
            for layer in layers:
                base = layer.get_base_layer()
                if plain:
                    update = layer.get_delta_weight(name).float()
                    originals.append((base, fold(base, update, f"a layer of adapter {name!r}")))
                else:
                    originals.append((base, base.weight))
                    # PEFT writes into the parameter, and another layer may be tied to it.
                    base.weight = nn.Parameter(base.weight.data, requires_grad=False)
                    layer.merge(safe_merge=True, adapter_names=[name])
            yield
        finally:
            for base, weight in reversed(originals):
                base.weight = weight
            if not plain:
                for layer in layers:
                    layer.merged_adapters.clear()
