"""The files of a run folder, as a report reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf_lite.evaluation.report.numbers import MISSING, get_path, numeric

__all__ = ["Run", "load_run"]


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
        return get_path(self.metrics, *path)

    def value(self, *path: str) -> float | None:
        """Finite number below ``metrics``, or None."""
        return numeric(self.get(*path))

    def setting(self, *path: str) -> float | None:
        """Finite number in the saved settings, or None."""
        return numeric(get_path(self.config, *path))

    def column(self, phase: str, name: str) -> tuple[list[float], list[float | None]]:
        """Steps and values of one logged quantity; steps that did not log it are left out."""
        rows = [row for row in self.steps.get(phase, []) if name in row]
        return [row["step"] for row in rows], [numeric(row[name]) for row in rows]


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
