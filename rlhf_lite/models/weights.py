"""A model's weights from its folder: all of them, as they were saved, or one message."""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import PreTrainedModel

from rlhf_lite.errors import PhaseError
from rlhf_lite.models.names import loading
from rlhf_lite.models.runtime import quiet_loading

# Other tensors without a place are passed over: the value head of somebody's PPO, for one.
_IN_A_BLOCK = re.compile(r"(^|\.)\d+\.")
_SCORES = ("score.", "classifier.")


def load_weights(kind: Any, name: str, *, dtype: torch.dtype, new_head: bool = False,
                 **options: Any) -> PreTrainedModel:
    """A model of ``kind``, with every weight taken from the folder or Hub id ``name``.

    transformers draws a weight that the files lack at random and drops those that the model has no place for,
    and says so in a note among others.

    Args:
        kind: one of transformers' auto classes.
        name: folder or Hub id.
        dtype: of the weights.
        new_head: whether the head may be new, and a head of the files be left out.
        **options: for ``kind.from_pretrained``.

    Raises:
        PhaseError: if it does not load, a weight is missing, not finite, or would be left out.
    """
    with quiet_loading(), loading(name):
        # Sizes that differ are told below; of a head that may be new they may differ.
        model, found = kind.from_pretrained(name, dtype=dtype, output_loading_info=True,
                                            ignore_mismatched_sizes=True, **options)
    body = f"{model.base_model_prefix}."
    for key, saved, wanted in found["mismatched_keys"]:
        if key.startswith(body) or not new_head:
            raise PhaseError(f"the weight {key} of {name} has the shape {tuple(saved)}, and its config.json "
                             f"says {tuple(wanted)}: give a folder whose config.json belongs to its weights")
    lacking = sorted(key for key in found["missing_keys"] if key.startswith(body) or not new_head)
    if lacking:
        raise PhaseError(f"{name} lacks {len(lacking)} of the weights of {type(model).__name__}, first "
                         f"{lacking[0]}, and random ones would take their place: give a folder that holds "
                         "the whole model, with the config.json that was saved with it")
    surplus = sorted(key for key in found["unexpected_keys"]
                     if _IN_A_BLOCK.search(key) or (not new_head and key.startswith(_SCORES)))
    if surplus:
        raise PhaseError(f"{name} holds {len(surplus)} weights that {type(model).__name__} has no place for, "
                         f"first {surplus[0]}: give a folder whose config.json belongs to its weights, and "
                         "a model that writes texts, not one that classifies them")
    broken = [key for key, weight in model.named_parameters() if not bool(weight.isfinite().all())]
    if broken:
        raise PhaseError(f"{name} cannot be used: its weight {broken[0]} holds numbers that are infinite or "
                         f"NaN in {str(dtype).removeprefix('torch.')}. Get the file again, or give another "
                         "model")
    return model
