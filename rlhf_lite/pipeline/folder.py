"""The folder of a run: started, continued, started anew, and held by one process at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from rlhf_lite.checkpoint import PHASE_FILE, saved_steps
from rlhf_lite.config import PipelineConfig
from rlhf_lite.config.settings import Section
from rlhf_lite.errors import PhaseError
from rlhf_lite.files import absolute, remove_leftovers
from rlhf_lite.outputs import held, require_folder
from rlhf_lite.pipeline.context import STATE_FILE, Run, make_accelerator

SETTINGS, METRICS, ERROR_LOG = "config.yaml", "metrics.json", "error.log"
# The settings that are new when a run by one method becomes a run by both.
_GROWN = {"ppo": ("method", "dpo."), "dpo": ("method", "ppo.", "reward.")}
_PLACES = ("model.name", "data.source", "data.prompts", "data.constitution", "feedback.judge")
# Sections that are no phase's own: from the first phase that left something on, they stay as they are.
_COMMON = ("seed", "output", "method", "model", "lora", "data", "checkpoint")


@contextmanager
def open_run(config: PipelineConfig, output: Path, *, resume: bool, visible: bool = True) -> Iterator[Run]:
    """The run in the folder ``output``, started or continued, and held by this process until the block ends.

    Of several processes that share a run, the main one does all this, and the others wait for it.

    Raises:
        OutputError: if nothing can be written there.
        PhaseError: if another process works there, the folder holds a run and ``resume`` is not set, or one
            with other settings.
    """
    accelerator = make_accelerator(config.model.threads)
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        yield Run(config, output, visible=False)
        return
    require_folder(output)
    if output.is_dir() and not (output / SETTINGS).is_file() and any(_own(output)):
        raise PhaseError(f"{output} holds other files and no run: name an empty or new folder with --output")
    output.mkdir(parents=True, exist_ok=True)

    def refuse(who: str) -> None:
        raise PhaseError(f"{who} is working in {output}. Wait until it has ended, or stop it and continue "
                         "with --resume; or name another folder with --output")

    with held(output / ".run", refuse):
        prepare_folder(config, output, resume=resume)
        accelerator.wait_for_everyone()
        run = Run(config, output, visible=visible)
        try:
            yield run
        finally:
            with suppress(OSError):  # a full disk has spoken already
                run.log.close()


def _own(folder: Path) -> Iterator[Path]:
    """What is in the folder, but for hidden files such as its lock."""
    return (entry for entry in folder.iterdir() if not entry.name.startswith("."))


def has_results(folder: Path) -> bool:
    """Whether a folder holds something of a run that can be lost: a phase, a checkpoint, a report."""
    return (folder / METRICS).exists() or _has(folder, "*")


def _has(folder: Path, phase: str) -> bool:
    return any(folder.glob(f"{phase}/{PHASE_FILE}")) or any(
        saved_steps(place) for place in folder.glob(f"checkpoints/{phase}"))


def prepare_folder(config: PipelineConfig, output: Path, *, resume: bool) -> None:
    """Start or continue the run in a folder; never mix two runs.

    A run that left nothing yet, because it failed at once, is started anew. The settings of a phase that left
    nothing, nor any phase after it, may change, and so may a method whose phase left nothing. A finished run
    may grow: with the method "both", the phases that it did not plan are added, with settings of their own.
    A run that goes on gets its new settings once all is checked: a refused command leaves it as it was.

    Raises:
        PhaseError: if the folder holds a run and ``resume`` is not set, or one with other settings.
    """
    saved = output / SETTINGS
    for folder in (output, *(output / "checkpoints").glob("*")):
        remove_leftovers(folder)
    if saved.is_file() and has_results(output):
        if not resume:
            raise PhaseError(f"{output} already holds a run. Continue it with --resume, or "
                             "name another folder with --output")
        _refuse_other_settings(config, output)
    else:
        for name in ("metrics.jsonl", STATE_FILE, ERROR_LOG):
            (output / name).unlink(missing_ok=True)
        shutil.rmtree(output / "checkpoints", ignore_errors=True)
        write_settings(config, output)


def write_settings(config: Section, output: Path) -> None:
    """Write ``config.yaml``, with the files and folders that it names by their absolute paths."""
    for section, _, name in (key.partition(".") for key in _PLACES):
        value = getattr(part := getattr(config, section, None), name, None)
        if (found := absolute(value)) != value and value != "reviews":
            config = config.model_copy(update={section: part.model_copy(update={name: found})})
    config.save(output / SETTINGS)


def _refuse_other_settings(config: PipelineConfig, output: Path) -> None:
    before = _flat(yaml.safe_load((output / SETTINGS).read_text(encoding="utf-8")))
    now = _flat(config.model_dump(mode="json"))
    method = before.get("method")
    grows = now.get("method") == "both" or (method != "both" and not _has(output, str(method)))
    grown = _GROWN.get(method, ()) if grows else ()
    free = ("output", "checkpoint.", *grown, *_untouched(config, output))
    differing = [f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
                 for key in sorted(before)  # a setting that is newer than the run cannot differ
                 if before[key] != now.get(key) and not key.startswith(free) and not (
                     key in _PLACES and absolute(before[key], output) == absolute(now.get(key), output))]
    if differing:
        raise PhaseError(f"{output} was started with other settings: {'; '.join(differing)}. Resume with "
                         "the same settings, or start anew with another --output")


def _untouched(config: PipelineConfig, output: Path) -> list[str]:
    """The sections whose phase left nothing, nor any phase after it, which may have read them."""
    free: list[str] = []
    for name in reversed([name for name in type(config).model_fields if name not in _COMMON]):
        if (output / METRICS).exists() if name == "evaluation" else _has(output, name):
            break
        free.append(f"{name}.")
    return free


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def method_with_dpo(output: Path) -> str:
    """The method of a run to which DPO is added: "both" if it is there beside PPO, or the run plans both.

    Args:
        output: the folder of the run, or of a new one.
    """
    saved = output / SETTINGS
    before = yaml.safe_load(saved.read_text(encoding="utf-8")) if has_results(output) else {}
    return "both" if before.get("method") == "both" or _has(output, "ppo") else "dpo"
