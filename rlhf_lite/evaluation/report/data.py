"""What a report reads: the files of a run folder, and numbers turned into text.

Every accessor answers ``None`` for a value that is absent, null, NaN or of the wrong type.
A report says that such a value is missing; it never fills it in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = [
    "MISSING",
    "Run",
    "integer",
    "interval",
    "interval_text",
    "load_run",
    "number",
    "numeric",
    "policy_label",
    "trained_names",
]

MISSING = "–"
_LABELS = {"reference": "Reference", "sft": "SFT", "ppo": "PPO", "dpo": "DPO"}
_ORDER = list(_LABELS)


@dataclass(frozen=True)
class Run:
    """A run folder in memory. ``problems`` lists files that are absent or unreadable, in words."""

    folder: Path
    metrics: Mapping[str, Any]
    steps: Mapping[str, list[dict[str, Any]]]
    samples: list[dict[str, Any]]
    config_text: str
    config: Mapping[str, Any]
    date: str
    problems: list[str] = field(default_factory=list)

    def get(self, *path: str) -> Any:
        """Value below ``metrics`` at this path of keys, or None."""
        return dig(self.metrics, *path)

    def value(self, *path: str) -> float | None:
        """Finite number below ``metrics``, or None."""
        return numeric(self.get(*path))

    def setting(self, *path: str) -> float | None:
        """Finite number in the saved settings, or None."""
        return numeric(dig(self.config, *path))

    @property
    def policies(self) -> list[str]:
        """Names of the evaluated policies: reference, SFT, PPO and DPO first, others after them."""
        return ordered_policies(self.metrics)

    def column(self, phase: str, name: str) -> tuple[list[float], list[float | None]]:
        """Steps and values of one logged quantity; steps that did not log it are left out."""
        rows = [row for row in self.steps.get(phase, []) if name in row]
        return [row["step"] for row in rows], [numeric(row[name]) for row in rows]


def dig(tree: Any, *path: str) -> Any:
    """Walk nested mappings; None as soon as a key is absent."""
    for key in path:
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree


def ordered_policies(metrics: Mapping[str, Any]) -> list[str]:
    """Policies that have at least one entry in ``metrics``."""
    found = metrics.get("policies")
    names = (
        [name for name, entry in found.items() if isinstance(entry, Mapping)]
        if isinstance(found, Mapping)
        else []
    )
    return [name for name in _ORDER if name in names] + [name for name in names if name not in _ORDER]


def trained_names(metrics: Mapping[str, Any]) -> list[str]:
    """The evaluated policies that learned from preferences: "ppo", "dpo" or both; "ppo" if there is none."""
    return [name for name in ("ppo", "dpo") if name in ordered_policies(metrics)] or ["ppo"]


def policy_label(name: str) -> str:
    """The name shown to a reader."""
    return _LABELS.get(name, name)


def numeric(value: Any) -> float | None:
    """``value`` as a float if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(value: Any) -> tuple[float, float] | None:
    """``[low, high]`` as a pair of finite numbers, else None."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = numeric(value[0]), numeric(value[1])
    return None if low is None or high is None else (low, high)


def number(value: Any, digits: int = 2, *, sign: bool = False) -> str:
    """``value`` with ``digits`` decimals and a true minus sign; a dash where there is no number."""
    found = numeric(value)
    if found is None:
        return MISSING
    text = f"{found:{'+' if sign else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:  # no "-0.00"
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def integer(value: Any) -> str:
    """A count with thousands separators; a dash where there is no number."""
    return number(value, 0)


def interval_text(value: Any, digits: int = 2) -> str:
    """``"0.50 to 0.72"``, or an empty string where there is no interval."""
    ends = interval(value)
    return "" if ends is None else f"{number(ends[0], digits)} to {number(ends[1], digits)}"


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """JSON objects, one a line; an unreadable line is counted, not fatal."""
    if not path.is_file():
        problems.append(f"{path.name} is not in the run folder")
        return []
    rows, bad = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:  # counted below, and named in the report
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad += 1
    if bad:
        problems.append(f"{path.name} has {bad} unreadable line{'s' if bad > 1 else ''}, left out here")
    return rows


def _read_metrics(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        problems.append(f"{path.name} is not in the run folder: the run has not been evaluated")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        problems.append(f"{path.name} is not valid JSON ({error})")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path.name} holds a {type(content).__name__}, expected an object")
        return {}
    return content


def _read_config(path: Path, problems: list[str]) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        problems.append(f"{path.name} is not in the run folder")
        return "", {}
    text = path.read_text(encoding="utf-8", errors="replace")
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        problems.append(f"{path.name} is not valid YAML")
        content = None
    return text, content if isinstance(content, dict) else {}


def _date(folder: Path, metrics: Mapping[str, Any]) -> str:
    for key in ("finished", "date", "started"):
        if isinstance(metrics.get(key), str):
            return metrics[key]
    for name in ("metrics.json", "metrics.jsonl"):
        if (folder / name).is_file():
            moment = datetime.fromtimestamp((folder / name).stat().st_mtime, tz=UTC)
            return f"{moment:%d %B %Y, %H:%M} UTC"
    return MISSING


def load_run(folder: Path) -> Run:
    """Read a run folder; whatever is absent or damaged ends up in ``problems``.

    Raises:
        FileNotFoundError: if ``folder`` is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"run folder {folder} does not exist; pass the --output folder of a run")
    problems: list[str] = []
    metrics = _read_metrics(folder / "metrics.json", problems)
    steps: dict[str, list[dict[str, Any]]] = {}
    for row in _read_lines(folder / "metrics.jsonl", problems):
        if isinstance(row.get("phase"), str) and numeric(row.get("step")) is not None:
            steps.setdefault(row["phase"], []).append(row)
    samples = [
        row
        for row in _read_lines(folder / "samples.jsonl", problems)
        if isinstance(row.get("prompt"), str) and isinstance(row.get("policies"), dict)
    ]
    config_text, config = _read_config(folder / "config.yaml", problems)
    return Run(folder, metrics, steps, samples, config_text, config, _date(folder, metrics), problems)
