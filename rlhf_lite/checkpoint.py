"""Checkpoints that are complete or absent, and the records by which one phase trusts another's output.

A folder is written under a temporary name and renamed at the end. Tensors are safetensors, everything else is
JSON; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lite.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

PHASE_FILE = "phase.json"
_STEP = re.compile(r"step-(\d{6})")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place when the block ends without an error.

    A kill leaves the old folder, or none, and a leftover that :func:`remove_leftovers` clears.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        if target.exists():
            old = temporary.with_suffix(".old")
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary folders that a killed process left in ``folder``."""
    for leftover in [*folder.glob(".*.tmp"), *folder.glob(".*.old")]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN must have been turned into None before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def save_step(
    folder: Path, step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, float], *, keep: int
) -> Path:
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
    found = [_STEP.fullmatch(entry.name) for entry in folder.iterdir()]
    return sorted(int(match.group(1)) for match in found if match)


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
        raise CheckpointError(
            f"the checkpoint {place} cannot be read ({error}); "
            "delete that folder and resume from the one before"
        ) from error
    return tensors, numbers


def fingerprint(content: Any) -> str:
    """A short hash of anything JSON can hold, for telling settings and models apart."""
    canonical = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


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
        raise CheckpointError(
            f"{path} is not valid JSON ({error}); delete {folder} and run the phase again"
        ) from error


def verify_phase(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Check that the finished phase in ``folder`` fits what the next phase is about to build on.

    Args:
        folder: for example ``run/sft``.
        wanted: the entries that must agree, such as model and tokenizer fingerprints and LoRA settings.

    Raises:
        CheckpointError: naming every entry that differs, with both values and what to do.
    """
    record = read_phase(folder)
    if record is None:
        raise CheckpointError(
            f"{folder} holds no finished phase ({PHASE_FILE} is missing): run that phase first"
        )
    differing = [
        f"{key} is {record.get(key)!r} there and {value!r} here"
        for key, value in wanted.items()
        if record.get(key) != value
    ]
    if differing:
        raise CheckpointError(
            f"{folder} was made for something else: {'; '.join(differing)}. "
            "Use the settings it was made with, or a new --output folder"
        )
    return record
