"""Adapters of :mod:`rlhf_lite.models.lora.model` in PEFT's files, written and read.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors``. PEFT calls the tensors of a linear
layer ``base_model.model.<path>.lora_A.weight`` and ``lora_B.weight``, those of an embedding
``lora_embedding_A`` and ``lora_embedding_B``; shapes are the same as here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf_lite.files import atomic_folder, write_json
from rlhf_lite.models.lora.layer import LoRAEmbedding, LoRALayer, LoRASpec, sizes
from rlhf_lite.models.lora.model import adaptable, check_new, lora_layers, lora_parameters, set_adapter, wrap

CONFIG_FILE, TENSOR_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Fields that say what the update is; load_lora computes with them.
_READ = {"r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
         "exclude_modules", "layers_to_transform", "layers_pattern", "peft_type", "init_lora_weights",
         "bias"}
# Fields that change no number. fan_in_fan_out follows from the layer: it is True for Conv1D.
_INERT = {"auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "megatron_core",
          "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type"}
# Starts that leave the base weights alone. Others, such as pissa, store the update relative to changed ones.
_STARTS = (True, False, "gaussian", "orthogonal", "eva")


def save_lora(model: nn.Module, folder: Path, name: str = "default", *, base: str) -> None:
    """Write adapter ``name`` into ``folder``, which is replaced as a whole or not at all.

    Args:
        model: with adapters from :func:`rlhf_lite.models.lora.model.add_lora`.
        folder: of the adapter alone.
        name: which adapter; the files do not keep the name.
        base: what ``base_model_name_or_path`` shall say: the folder or Hub id that the adapter belongs to.

    Raises:
        ValueError: if there is no such adapter, a number in it is not finite, PEFT's files cannot say what it
            does, or the folder holds other files.
    """
    layers = lora_layers(model, name)
    if folder.is_dir():
        foreign = sorted({p.name for p in folder.iterdir()} - {CONFIG_FILE, TENSOR_FILE, "README.md"})
        if foreign:
            raise ValueError(f"{folder} holds other files ({', '.join(foreign)}): name another one")
    tensors = {_key(path, layer, half): getattr(layer, half)[name].detach().contiguous()
               for path, layer in layers.items() for half in "AB"}
    broken = [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ValueError(f"adapter {name!r} holds numbers that are not finite, first in {broken[0]}")
    with atomic_folder(folder) as temporary:
        save_file(tensors, str(temporary / TENSOR_FILE), metadata={"format": "pt"})
        write_json(temporary / CONFIG_FILE, _config_of(layers, name, base))


def _key(path: str, layer: nn.Module, half: str) -> str:
    embedding = isinstance(layer, nn.Embedding | LoRAEmbedding)
    return f"{_PREFIX}{path}" + (f".lora_embedding_{half}" if embedding else f".lora_{half}.weight")


def _config_of(layers: Mapping[str, LoRALayer], name: str, base: str) -> dict[str, Any]:
    """PEFT's settings. Every layer is named by its full path, so that nothing is left to pattern matching."""
    specs = {path: layer.specs[name] for path, layer in layers.items()}
    common = Counter(specs.values()).most_common(1)[0][0]
    if any((s.dropout, s.rslora) != (common.dropout, common.rslora) for s in specs.values()):
        raise ValueError(f"adapter {name!r} mixes dropouts or kinds of scaling: PEFT's files cannot say that")
    return {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
            "inference_mode": True, "r": common.rank, "lora_alpha": common.alpha,
            "lora_dropout": common.dropout, "use_rslora": common.rslora, "target_modules": sorted(specs),
            "rank_pattern": {path: s.rank for path, s in specs.items() if s.rank != common.rank},
            "alpha_pattern": {path: s.alpha for path, s in specs.items() if s.alpha != common.alpha},
            "bias": "none",
            "fan_in_fan_out": any(isinstance(layer.base, Conv1D) for layer in layers.values()),
            "init_lora_weights": True}


def load_lora(model: PreTrainedModel, folder: Path, name: str = "default", *,
              trainable: bool = False) -> PreTrainedModel:
    """Attach an adapter written by :func:`save_lora` or by PEFT, and activate it.

    Settings, names and shapes are all checked before the model is touched.

    Args:
        model: the base model, with or without other adapters.
        folder: local; holds the two files.
        name: what the adapter shall be called here.
        trainable: whether A and B get gradients.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the adapter does something that is not supported, its tensors and settings disagree, or
            it does not fit the model.
    """
    for file in (CONFIG_FILE, TENSOR_FILE):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} is not an adapter in safetensors: {file} is missing")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(str(folder / TENSOR_FILE))
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"the adapter in {folder} cannot be read: {error}") from error
    _refuse_unsupported(config, folder)
    layers = adaptable(model)
    check_new(model, name)
    specs = {path: _spec(config, path) for path in layers if _targeted(config, path)}
    parts = _checked(specs, layers, _without_base_weights(tensors, model, folder), folder)
    model.requires_grad_(False)
    for path, spec in specs.items():
        layer = wrap(model, path)
        layer.add(name, spec)
        for half, values in parts[path].items():
            getattr(layer, half)[name].data.copy_(values)
    set_adapter(model, name)
    for parameter in lora_parameters(model, name):
        parameter.requires_grad_(trainable)
    return model


def beyond_lora(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the settings of an adapter ask for besides W + s · B A, for example ``{"use_dora": True}``."""
    beyond = {
        field: value
        for field, value in config.items()
        # What is off (null, false, empty) changes nothing, also in fields that a later PEFT has added.
        if field not in _READ | _INERT and value not in (None, False, 0, "", [], {})
    }
    if config.get("peft_type", "LORA") != "LORA":
        beyond["peft_type"] = config["peft_type"]
    if config.get("bias", "none") != "none":
        beyond["bias"] = config["bias"]
    if (start := config.get("init_lora_weights", True)) not in _STARTS:
        beyond["init_lora_weights"] = start
    return beyond


def _refuse_unsupported(config: Mapping[str, Any], folder: Path) -> None:
    """Raise if a setting changes the numbers in a way that is not computed here."""
    if beyond := beyond_lora(config):
        listed = ", ".join(f"{field}={value!r}" for field, value in sorted(beyond.items()))
        raise ValueError(f"{folder} uses what is not supported here: {listed}. Load it with peft")


def _matches(rule: Iterable[str] | str, path: str) -> bool:
    """PEFT's rule: a string is a regular expression for the path, a list holds the ends of paths."""
    if isinstance(rule, str):
        return re.fullmatch(rule, path) is not None
    return any(f".{path}".endswith(f".{end}") for end in rule)


def _targeted(config: Mapping[str, Any], path: str) -> bool:
    """Whether the adapter changes the layer at ``path``."""
    targets, excluded = config.get("target_modules") or [], config.get("exclude_modules") or []
    if _matches(excluded, path) or not _matches(targets, path):
        return False
    numbers = config.get("layers_to_transform")
    # PEFT asks for the layer's number only where a list names the layer by its end.
    if numbers in (None, []) or isinstance(targets, str) or path in targets:
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        start = r".*?\." if pattern == r"[^.]*" else r"(?:^|.*?\.)"
        if (match := re.match(rf"{start}{pattern}\.(\d+)\.", path)) is not None:
            return int(match[1]) in ([numbers] if isinstance(numbers, int) else numbers)
    return False


def _spec(config: Mapping[str, Any], path: str) -> LoRASpec:
    def value(field: str, patterns: str) -> Any:
        for pattern, special in (config.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", path):
                return special
        return config[field]

    try:
        return LoRASpec(rank=value("r", "rank_pattern"), alpha=value("lora_alpha", "alpha_pattern"),
                        dropout=config.get("lora_dropout") or 0.0, rslora=bool(config.get("use_rslora")))
    except KeyError as error:
        raise ValueError(f"{CONFIG_FILE} has no field {error}") from error


def _without_base_weights(tensors: Mapping[str, Tensor], model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The adapter's own tensors.

    PEFT adds a copy of the embedding and the head when the embedding is adapted. They must be the model's.
    """
    own = {}
    layers = adaptable(model)
    for key, tensor in tensors.items():
        path = key.removeprefix(_PREFIX).removesuffix(".base_layer.weight").removesuffix(".weight")
        if path not in layers:
            own[key] = tensor
        elif not torch.equal(layers[path].weight.float(), tensor.float()):
            raise ValueError(f"{folder} brings its own weights for {path}, and they differ from the model's: "
                             "it was trained on another model. Load it with peft")
    return own


def _checked(specs: Mapping[str, LoRASpec], layers: Mapping[str, nn.Module], tensors: Mapping[str, Tensor],
             folder: Path) -> dict[str, dict[str, Tensor]]:
    """Path to A and B, if the file holds exactly what the settings ask for, in the right shapes."""
    if not specs:
        raise ValueError(f"{folder} adapts no layer of this model: its target_modules match nothing")
    expected: dict[str, tuple[str, str, tuple[int, int]]] = {}
    for path, spec in specs.items():
        inputs, out = sizes(layers[path])
        for half, shape in (("A", (spec.rank, inputs)), ("B", (out, spec.rank))):
            expected[_key(path, layers[path], half)] = (path, half, shape)
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing:
        raise ValueError(f"{folder / TENSOR_FILE} lacks {len(missing)} tensors, first {missing[0]}")
    if extra:
        raise ValueError(f"{folder / TENSOR_FILE} holds {len(extra)} tensors too many, first {extra[0]}")
    parts: dict[str, dict[str, Tensor]] = {path: {} for path in specs}
    for key, (path, half, shape) in expected.items():
        if tuple(tensors[key].shape) != shape:
            raise ValueError(f"{key} has shape {tuple(tensors[key].shape)}, and this model needs {shape}")
        if not bool(torch.isfinite(tensors[key]).all()):
            raise ValueError(f"{key} holds numbers that are not finite")
        parts[path][half] = tensors[key]
    return parts
