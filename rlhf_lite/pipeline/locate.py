"""Find a policy by what a user types: a run, a phase of a run, an adapter, a model, a Hub id, "smollm2"."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rlhf_lite.errors import PhaseError
from rlhf_lite.models.policy import resolve_model

__all__ = ["BUNDLED", "Located", "locate_policy"]

# The built-in model by its short name, and where it comes from.
BUNDLED, BUNDLED_ID = "smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"
# Phases that make a policy, the furthest trained first.
_PHASES = ("ppo", "dpo", "sft")
# RUN/reference is the model that a run began with.
_BARE = ("reference", "base")


@dataclass(frozen=True)
class Located:
    """Where a policy is.

    Attributes:
        label: a short name for it.
        base: folder or Hub id of the model.
        adapter: folder of the adapter on it; None for the bare model.
        run: the run it belongs to, if it is in one.
        phase: the phase that made it.
    """

    label: str
    base: str
    adapter: Path | None = None
    run: Path | None = None
    phase: str | None = None


def locate_policy(spec: str) -> Located:
    """Find a policy.

    Args:
        spec: "smollm2"; a run folder (its PPO policy, else DPO, else SFT); RUN/PHASE, also RUN/reference for
            the model that the run began with; an adapter folder; a model folder; or a Hub id.

    Raises:
        PhaseError: if the folder holds no policy, or a reward model.
        AssetError: if the bundled model is wanted and cannot be fetched.
    """
    if spec.lower() == BUNDLED:
        return Located(BUNDLED, resolve_model(None))
    folder = Path(spec)
    if folder.name in _BARE and not folder.exists() and (run := _run_of(folder.parent)):
        return Located(f"{run.name}/{folder.name}", _base_of_run(run), run=run)
    places = [*(folder / name / "adapter" for name in _PHASES), folder / "adapter", folder]
    adapter = next((place for place in places if (place / "adapter_config.json").is_file()), None)
    if adapter is not None:
        return _adapter(folder, adapter)
    if (folder / "config.json").is_file():
        return Located(folder.resolve().name, spec)
    if folder.is_dir():
        raise PhaseError(f"{folder} holds neither a run, nor an adapter, nor a model (no config.json)")
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1 or _run_of(folder.parent):
        raise PhaseError(
            f"{spec} is not there; give a run folder, RUN/PHASE, an adapter or model folder, "
            f"a Hub id such as {BUNDLED_ID}, or {BUNDLED}"
        )
    return Located(spec.split("/")[1], spec)


def _adapter(folder: Path, adapter: Path) -> Located:
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if settings.get("task_type") != "CAUSAL_LM":
        raise PhaseError(f"{adapter} is a reward model, it cannot write; give the folder of a policy")
    home = adapter.parent if adapter.name == "adapter" else adapter  # RUN/PHASE/adapter
    run = _run_of(home.parent)
    phase = home.name if run else None
    label = f"{run.resolve().name}/{phase}" if run else folder.resolve().name
    return Located(label, settings["base_model_name_or_path"], adapter, run, phase)


def _run_of(folder: Path) -> Path | None:
    """The folder, if it is a run."""
    return folder if (folder / "config.yaml").is_file() else None


def _base_of_run(run: Path) -> str:
    from rlhf_lite.config import load_config

    return resolve_model(load_config(run / "config.yaml", []).model.name)
