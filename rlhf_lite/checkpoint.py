"""Checkpoints that are complete or absent, and the records by which one phase trusts another's output.

A folder is written under a temporary name and renamed at the end. Tensors are safetensors, everything else is
JSON; nothing is pickled.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lite.errors import CheckpointError
from rlhf_lite.files import atomic_folder, write_json

if TYPE_CHECKING:
    from torch import Tensor

PHASE_FILE = "phase.json"
_STEP = re.compile(r"step-(\d{6})")


def save_step(folder: Path, step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, float], *,
              keep: int) -> Path:
    """Save the state after ``step`` as ``folder/step-000012`` and delete all but the last ``keep`` states."""
    from safetensors.torch import save_file

    target = folder / f"step-{step:06d}"
    with atomic_folder(target) as temporary:
        save_file({name: t.contiguous() for name, t in tensors.items()}, str(temporary / "state.safetensors"))
        write_json(temporary / "state.json", {"step": step, "numbers": dict(numbers)})
    for old in saved_steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step-{old:06d}")
    return target


def saved_steps(folder: Path) -> list[int]:
    """The steps with a complete checkpoint in ``folder``, ascending."""
    if not folder.is_dir():
        return []
    names = [_STEP.fullmatch(entry.name) for entry in folder.iterdir()]
    return sorted(int(name.group(1)) for name in names if name)


def load_step(folder: Path, step: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Tensors and numbers saved after ``step``.

    Raises:
        CheckpointError: if the files are missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = folder / f"step-{step:06d}"
    try:
        tensors = load_file(str(place / "state.safetensors"))
        numbers = json.loads((place / "state.json").read_text(encoding="utf-8"))["numbers"]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint {place} cannot be read ({error}); delete that folder "
                              "and resume from the one before") from error
    return tensors, numbers


def write_phase(folder: Path, record: Mapping[str, Any]) -> None:
    """Put the record of a finished phase (model, tokenizer, settings) into its folder."""
    write_json(folder / PHASE_FILE, dict(record))


def read_phase(folder: Path) -> dict[str, Any] | None:
    """The record of the finished phase in ``folder``; None if the phase has not finished.

    Raises:
        CheckpointError: if the record is there but cannot be read.
    """
    path = folder / PHASE_FILE
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); delete "
                              f"{folder} and run the phase again") from error


def verify_phase(folder: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Check that the finished phase in ``folder`` fits what the next phase is about to build on.

    Args:
        folder: for example ``run/sft``.
        expected: the entries that must agree, such as model and tokenizer fingerprints and LoRA settings.

    Raises:
        CheckpointError: naming every entry that differs, with both values and what to do.
    """
    record = read_phase(folder)
    if record is None:
        raise CheckpointError(f"{folder} holds no finished phase ({PHASE_FILE} is "
                              "missing): run that phase first")
    differing = [f"{key} is {record.get(key)!r} there and {value!r} here" for key, value in expected.items()
                 if record.get(key) != value]
    if differing:
        raise CheckpointError(f"{folder} was made for something else: {'; '.join(differing)}. Use the "
                              "settings it was made with, or a new --output folder")
    return record
