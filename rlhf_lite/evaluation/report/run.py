"""The report of a run: ``report.html`` (one file) and ``report.md``, from what the run folder holds.

Nothing is computed anew and nothing is filled in: a number comes from a file, or the report says that it is
missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf_lite.data.row_counts import rows_line
from rlhf_lite.evaluation.report import figures
from rlhf_lite.evaluation.report.render import (
    MISSING,
    get_path,
    integer,
    interval,
    number,
    numeric,
    render,
    say,
)
from rlhf_lite.files import write_bytes, write_text

_LABELS = {"reference": "Reference", "sft": "SFT", "ppo": "PPO", "dpo": "DPO"}
_PHASES = {"load": "loading", "sft": "SFT", "reward": "reward model", "ppo": "PPO", "dpo": "DPO"}
_SAMPLES_SHOWN = 8
# key, label and digits of a number under a sample
_SCORES = (("gold", "gold", 2), ("vader", "VADER", 2), ("rm", "reward model", 2), ("kl_nats", "KL", 1),
           ("toxicity", "toxicity", 2), ("tokens", "tokens", 0))  # fmt: skip
_SUMMARY = (("gold_reward", 2), ("vader", 2), ("kl_nats_per_seq", 1), ("length_tokens", 1), ("distinct_2", 2))


def write_report(run_dir: Path) -> tuple[Path, Path]:
    """Write ``report.html``, ``report.md`` and ``figures/`` into a run folder.

    Reads ``metrics.json``, ``metrics.jsonl``, ``samples.jsonl`` and ``config.yaml``; each may be absent. An
    existing report is replaced, each file at once.

    Returns:
        The paths of the HTML and of the Markdown file.

    Raises:
        FileNotFoundError: if ``run_dir`` is not a folder.
    """
    run = load_run(Path(run_dir))
    context = report_context(run)
    for chart in figures.charts_in(context):
        write_bytes(run.folder / "figures" / chart.file, chart.content)
    page, document = run.folder / "report.html", run.folder / "report.md"
    write_text(page, render("report.html.j2", body="run.j2", **context))
    write_text(document, render("report.md.j2", body="run.j2", **context))
    return page, document


def summary_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What a terminal should show at the end of a run: verdict, reward model, one line per policy.

    ``metrics`` is the content of ``metrics.json``; whatever is absent is left out or shown as a dash.
    """
    return render("run.txt.j2", **findings(metrics)).splitlines()


def _ordered(names: Sequence[str]) -> list[str]:
    """Reference, SFT, PPO and DPO first, others after them."""
    return [name for name in _LABELS if name in names] + [name for name in names if name not in _LABELS]


def _label(name: str) -> str:
    return _LABELS.get(name, name)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _shown(value: Any) -> str:
    """A target or a value of a check."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if numeric(value) is not None:
        return f"{value:.4g}".replace("-", "−")
    if isinstance(value, list | tuple):
        return " to ".join(_shown(item) for item in value)
    return MISSING if value is None else str(value)


def hardware_text(entry: Any) -> str:
    """Processor, cores, memory and platform in one line."""
    if not isinstance(entry, Mapping):
        return entry if isinstance(entry, str) else MISSING
    parts = [entry[key] for key in ("cpu", "gpu") if isinstance(entry.get(key), str)]
    cores = numeric(entry.get("physical_cores")) or numeric(entry.get("logical_cores"))
    if cores is not None:
        parts.append(f"{cores:g} core{'s' if cores != 1 else ''}")
    if numeric(entry.get("memory_gb")) is not None:
        parts.append(f"{entry['memory_gb']:g} GB memory")
    if isinstance(entry.get("platform"), str):
        parts.append(entry["platform"])
    return ", ".join(parts) or MISSING


def findings(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a run found, from ``metrics.json`` alone.

    ``policies`` and ``labels`` are the evaluated policies in the order of the tables, ``trained`` those that
    learned from preferences ("ppo" if there is none), ``gains`` says how these compare with SFT, and
    ``checks`` holds name, target, value and whether it passed (None: not measured).
    """
    given = _mapping(metrics.get("policies"))
    policies = {name: given[name] for name in _ordered(list(given)) if isinstance(given[name], Mapping)}
    trained = [name for name in ("ppo", "dpo") if name in policies] or ["ppo"]
    checks = metrics.get("checks")
    total = numeric(get_path(metrics, "seconds", "total"))
    return {
        "policies": policies,
        "rows": [(_label(name), [number(entry.get(key), digits) for key, digits in _SUMMARY])
                 for name, entry in policies.items()],
        "trained": trained,
        "gains": " ".join(filter(None, (_gain(metrics, name) for name in trained))),
        "accuracy": numeric(get_path(metrics, "reward_model", "accuracy")),
        "n_pairs": numeric(get_path(metrics, "reward_model", "n_pairs")),
        "reward_interval": get_path(metrics, "reward_model", "ci95"),
        "minutes": None if total is None else total / 60,
        "checks": [
            {"name": str(row.get("name", "unnamed")), "target": _shown(row.get("target")),
             "value": _shown(row.get("value")),
             "passed": row.get("passed") if isinstance(row.get("passed"), bool) else None}
            for row in (checks if isinstance(checks, list) else []) if isinstance(row, Mapping)
        ],
    }  # fmt: skip


def _gain(metrics: Mapping[str, Any], name: str) -> str:
    entry = _mapping(get_path(metrics, "comparisons", f"{name}_minus_sft"))
    gain = numeric(entry.get("gold_reward"))
    if gain is None:
        return ""
    return say("gain", name.upper(), gain, interval(entry.get("gold_ci95")), numeric(entry.get("n_prompts")))


def report_context(run: Run) -> dict[str, Any]:
    """Everything that ``run.j2`` prints; ``value`` and ``number_at`` read further numbers by their path."""
    found = findings(run.metrics)
    policies = found["policies"]
    phases = [_PHASES[phase] for phase in figures.PHASES if phase in run.steps]
    states = {check["passed"] for check in found["checks"]}
    counts, seconds = _mapping(run.get("steps")), _mapping(run.get("seconds"))
    command, shown = run.get("command"), numeric(get_path(run.config, "evaluation", "samples_shown"))
    return found | {
        "title": "RLHF run report",
        "subtitle": f"{', '.join(phases or ['SFT', 'reward model', 'PPO'])} and evaluation of the run "
        f"{run.folder.resolve().name}",
        "footer": "was read from the files of the run folder.",
        "value": run.get, "number_at": run.value, "date": run.date, "seed": run.value("seed"),
        "hardware": hardware_text(run.get("hardware")),
        "steps": ", ".join(f"{_label(name)} {integer(n)}" for name, n in counts.items()
                           if numeric(n) is not None) or MISSING,
        "passed": False if False in states else True if states == {True} else None,
        "labels": [_label(name) for name in policies],
        "charts": figures.draw_run(run, [(_label(name), name, row) for name, row in policies.items()]),
        "training": figures.training(run),
        "samples": _samples(run, _SAMPLES_SHOWN if shown is None else max(0, int(shown))),
        "merged": [name for name in ("ppo", "dpo")
                   if (run.folder / name / "merged" / "config.json").is_file()],
        "adapters": [name for name in ("ppo", "dpo", "sft") if _adapter(run, name) is not None],
        "has_reward_adapter": _mapping(_adapter(run, "reward")).get("task_type") == "SEQ_CLS",
        "command": command if isinstance(command, str) else "", "config_text": run.config_text,
        "versions": _mapping(run.get("versions")), "machine": _mapping(run.get("hardware")),
        "seconds": [(_PHASES.get(name, name), value) for name, value in seconds.items()
                    if name != "total" and numeric(value) is not None],
        "rows": [(_PHASES.get(name, name), rows_line(record))
                 for name, record in _mapping(run.get("rows")).items() if isinstance(record, Mapping)],
        "problems": run.problems,
    }  # fmt: skip


def _adapter(run: Run, name: str) -> Any:
    """The settings of an adapter in the folder; None without one, "" if they are not readable."""
    path = run.folder / name / "adapter" / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a broken file is still an adapter; it is no classifier that the page could name
        return ""


def _samples(run: Run, first: int) -> list[tuple[str, str, list[Any]]]:
    """The first samples, then best, worst and furthest from the reference, each named for what it is."""
    rows = run.samples
    names = _ordered(sorted({name for row in rows for name in row["policies"]}))
    labels: dict[int, list[str]] = {index: [] for index in range(min(first, len(rows)))}
    if names:
        policy = next((name for name in ("ppo", "dpo") if name in names), names[-1])
        extremes: tuple[tuple[str, Callable[..., Any], str], ...] = (
            ("gold", max, f"best {_label(policy)} text by gold reward"),
            ("gold", min, f"worst {_label(policy)} text by gold reward"),
            ("kl_nats", max, f"{_label(policy)} text furthest from its start"),
        )
        for key, pick, words in extremes:
            scored = [(score, index) for index, row in enumerate(rows)
                      if (score := numeric(get_path(row, "policies", policy, key))) is not None]
            if scored:
                _, index = pick(scored, key=lambda pair: pair[0])
                labels.setdefault(index, []).append(f"{words} of all {len(rows)}")
    return [(f"Sample {index + 1}" + (f": {'; '.join(words)}" if words else ""), rows[index]["prompt"],
             _answers(rows[index]["policies"]))
            for index, words in labels.items()]


def _answers(policies: Mapping[str, Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    entries = {name: policies[name] for name in _ordered(list(policies))
               if isinstance(get_path(policies, name, "text"), str)}  # fmt: skip
    # The same scores under every text, so that columns line up; one that nobody has is left out.
    columns = [column for column in _SCORES
               if any(numeric(entry.get(column[0])) is not None for entry in entries.values())]  # fmt: skip
    return [(_label(name), entry["text"],
             [(title, number(entry.get(key), digits)) for key, title, digits in columns])
            for name, entry in entries.items()]


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

    def column(self, phase: str, name: str) -> tuple[list[float], list[float | None]]:
        """Steps and values of one logged quantity; steps that did not log it are left out."""
        rows = [row for row in self.steps.get(phase, []) if name in row]
        return [row["step"] for row in rows], [numeric(row[name]) for row in rows]


def _read(path: Path, problems: list[str], consequence: str = "") -> str | None:
    """The text of a file; None if it is not there, which is a problem of the run."""
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    problems.append(f"{path.name} is not in the run folder{consequence}")
    return None


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """JSON objects, one a line; an unreadable line is counted, not fatal."""
    rows, bad = [], 0
    for line in filter(str.strip, (_read(path, problems) or "").split("\n")):
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
    text = _read(path, problems, ": the run has not been evaluated")
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except ValueError as error:
        problems.append(f"{path.name} is not valid JSON ({error})")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path.name} holds a {type(content).__name__}, expected an object")
        return {}
    return content


def _read_config(path: Path, problems: list[str]) -> tuple[str, Mapping[str, Any]]:
    import yaml

    text = _read(path, problems) or ""
    try:
        return text, _mapping(yaml.safe_load(text))
    except yaml.YAMLError:
        problems.append(f"{path.name} is not valid YAML")
        return text, {}


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
    samples = [row for row in _read_lines(folder / "samples.jsonl", problems)
               if isinstance(row.get("prompt"), str) and isinstance(row.get("policies"), dict)]
    config_text, config = _read_config(folder / "config.yaml", problems)
    return Run(folder, metrics, steps, samples, config_text, config, _date(folder, metrics), problems)
