"""The report of a comparison, as HTML, Markdown and JSON lines, with a draft of a model card.

The folder appears complete or not at all, and nothing but an earlier report of this kind is ever replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lite.errors import ComparisonError
from rlhf_lite.evaluation.compare import KIND, Comparison
from rlhf_lite.evaluation.report import figures
from rlhf_lite.evaluation.report.figures import SCORES
from rlhf_lite.evaluation.report.render import get_path, integer, number, numeric, render, say
from rlhf_lite.evaluation.report.run import hardware_text
from rlhf_lite.files import atomic_folder, write_bytes, write_json, write_json_lines, write_text
from rlhf_lite.outputs import require_folder
from rlhf_lite.tracking import run_info

_FILES = {"report.html", "report.md", "report.json", "samples.jsonl", "model_card.md", "figures"}
_FIRST = 6
_OPTIMISED = "†"
# measure -> label and digits under a sample
_SHOWN = {"gold": ("gold", 2), "vader": ("VADER", 2), "reward": ("reward model", 2), "kl": ("KL", 1),
          "coherence": ("coherence", 2), "toxicity": ("toxicity", 2), "tokens": ("tokens", 0)}  # fmt: skip
# The bundled model's folder stands for this Hub id; its licence is known.
_BUNDLED = "HuggingFaceTB/SmolLM2-135M-Instruct"
# metrics of a model card, as the Hub lists them
_CARD = {
    "gold_reward": "Gold reward (rating points)", "vader": "VADER sentiment (-1 to 1)",
    "kl_nats_per_seq": "KL from the reference (nats per sequence)", "toxicity": "Toxicity (probability)",
    "coherence_nats_per_token": "Coherence (nats per token)",
    "perplexity_reference": "Perplexity under the reference", "distinct_2": "Distinct-2 (fraction)",
}


def check_output(folder: Path) -> None:
    """Make sure that a report may be written to ``folder``.

    Raises:
        OutputError: if nothing can be written there.
        ComparisonError: if it holds anything but an earlier report of this kind.
    """
    folder = Path(folder)
    require_folder(folder)
    if not folder.exists():
        return
    there = {entry.name for entry in folder.iterdir()}
    if not there:
        return
    try:
        content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        ours = isinstance(content, dict) and content.get("kind") == KIND
    except (OSError, ValueError):  # no report, or not ours: either way it must not be replaced
        ours = False
    others = sorted(there - _FILES)
    if not ours or others:
        what = f"such as {others[0]}" if others else "but no report of a comparison"
        raise ComparisonError(f"{folder} holds something else ({what}), which would be lost: "
                              "give a new folder with --output")


def write_comparison(comparison: Comparison, folder: Path, *, card: str | None = None,
                     info: Mapping[str, Any] | None = None) -> Path:
    """Write all files of a comparison.

    Args:
        comparison: from `compare.compare_policies`.
        folder: new, empty, or an earlier report of this kind, which is replaced.
        card: the policy that the model card is about; the last one if None.
        info: more for the metrics: "seconds", "command", "judges" (what `gold.agreement_with_humans`
            says, as "gold_judge"), and, if they shall not be those of this process, "commit", "versions"
            and "hardware".

    Returns:
        The path of ``report.html``.

    Raises:
        ComparisonError: if the folder holds something else, or there is no policy called ``card``.
    """
    folder = Path(folder)
    check_output(folder)
    about = run_info(seed=comparison.metrics["settings"]["seed"])
    metrics = _clean(about | comparison.metrics | (info or {}))
    card = list(metrics["policies"])[-1] if card is None else card
    if card not in metrics["policies"]:
        raise ComparisonError(f"card={card!r} is none of the policies: {', '.join(metrics['policies'])}")
    policy = comparison.answers[card].policy
    metrics["policies"][card]["is_adapter"] = policy.adapter is not None
    rows = sample_rows(comparison)
    context = report_context(metrics, rows)
    with atomic_folder(folder) as place:
        for chart in figures.charts_in(context):
            write_bytes(place / "figures" / chart.file, chart.content)
        for page in ("report.html", "report.md"):
            write_text(place / page, render(f"{page}.j2", body="comparison.j2", **context))
        matter = front_matter(metrics, card, base_model=_hub_id(policy))
        write_text(place / "model_card.md", render("model_card.md.j2", name=card, matter=matter, **context))
        write_json_lines(place / "samples.jsonl", rows)
        write_json(place / "report.json", metrics)
    return folder / "report.html"


def _hub_id(policy: Any) -> str | None:
    """The base model as the Hub knows it; None for a local folder."""
    name = str(getattr(policy.model.config, "_name_or_path", "") or policy.model.config.name_or_path)
    if Path(name).name.lower() == "smollm2-135m-instruct":
        return _BUNDLED
    return name if name.count("/") == 1 and not Path(name).exists() else None


def _clean(value: Any) -> Any:
    """A copy that JSON can hold: numpy numbers as Python's, NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): _clean(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def sample_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The content of ``samples.jsonl``: per answer the prompt, and every policy's text and scores."""
    samples = comparison.metrics["settings"]["n_samples"]
    return [
        {"prompt": comparison.prompts[row // samples], "prompt_number": row // samples + 1,
         "sample": row % samples + 1,
         "policies": {
             name: {"text": answers.texts[row], "tokens": int(answers.tokens[row]),
                    "ended": bool(answers.ended[row]),
                    **{measure: _clean(float(values[row])) for measure, values in answers.scores.items()}}
             for name, answers in comparison.answers.items()}}
        for row in range(len(comparison.prompts) * samples)
    ]


def summary(metrics: Mapping[str, Any]) -> list[str]:
    """What a terminal should show: what was wrong, one line per policy, one sentence per comparison."""
    judge = metrics["settings"]["judge"]
    columns = ((SCORES[judge].key, judge, 2), ("kl_nats_per_seq", "KL", 1),
               ("coherence_nats_per_token", "coherence", 2), ("toxicity", "toxicity", 3),
               ("distinct_2", "distinct-2", 2), ("length_words", "words", 1))  # fmt: skip
    leads = lead_sentences(metrics).values()
    return render("comparison.txt.j2", metrics=metrics, columns=columns, leads=leads).splitlines()


def lead_sentences(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Each policy against the baseline, in one sentence, by the deciding judge."""
    baseline, judge = metrics["settings"]["baseline"], metrics["settings"]["judge"]
    return {name: say("wins", name, baseline, SCORES[judge].title, entry.get(judge) or {})
            for name, entry in metrics["versus_baseline"].items()}


def report_context(metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that ``comparison.j2`` and the model card print.

    Args:
        metrics: the content of ``report.json``.
        rows: the content of ``samples.jsonl``.
    """
    settings, policies = metrics["settings"], metrics["policies"]
    marks = {name: {"marks": {"rm_reward": f" {_OPTIMISED}"}} if "reward" in entry["optimised_by"] else {}
             for name, entry in policies.items()}  # fmt: skip
    return {
        "title": "Policies compared", "subtitle": f"{', '.join(policies)} on {settings['prompts']} prompts",
        "footer": "is also in report.json, every text in samples.jsonl.",
        "metrics": metrics, "settings": settings, "judges": SCORES, "mark": _OPTIMISED,
        "policies": {name: {**entry, **marks[name]} for name, entry in policies.items()},
        "versus": {name: _with_counts(entry) for name, entry in metrics["versus_baseline"].items()},
        "sources": "; ".join(f"{name}: {entry['source']}" for name, entry in policies.items()
                             if entry["source"]),
        "hardware": hardware_text(metrics.get("hardware")), "leads": lead_sentences(metrics),
        "problems": metrics.get("problems") or [],
        "reasons": sorted({f"{measure}: {why}" for entry in policies.values()
                           for measure, why in entry["missing"].items()}),
        "optimised": any(entry["optimised_by"] for entry in policies.values()),
        "charts": figures.draw_comparison(metrics), "samples": _samples(rows, settings),
        "gold": get_path(metrics, "judges", "gold_judge"),
        "reward": get_path(metrics, "judges", "reward_model"), "command": metrics.get("command"),
        "versions": metrics.get("versions") or {}, "machine": metrics.get("hardware") or {},
    }


def _with_counts(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of every judge, and beside them wins, ties and losses as one text."""
    keys = ("wins", "ties", "losses")
    return {
        judge: {**(row or {}), "counts": " / ".join(integer(get_path(row, key)) for key in keys)
                if any(numeric(get_path(row, key)) is not None for key in keys) else None}
        for judge, row in entry.items()
    }  # fmt: skip


def pick_rows(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], *,
              first: int = _FIRST) -> dict[int, list[str]]:
    """Rows to show and why: the first prompts in their order, then each policy's largest gain and loss."""
    judge, baseline, samples = settings["judge"], settings["baseline"], settings["n_samples"]
    shown = range(min(first, len(rows) // samples))
    picked: dict[int, list[str]] = {prompt * samples: [] for prompt in shown}
    for name in rows[0]["policies"]:
        if name == baseline:
            continue
        pairs = [(row["policies"][name].get(judge), row["policies"][baseline].get(judge)) for row in rows]
        gains = [(own - other, index) for index, (own, other) in enumerate(pairs) if None not in (own, other)]
        most, least = max(gains, default=(0, 0), key=lambda gain: gain[0]), min(gains, default=(0, 0))
        for (gain, index), sign, words in ((most, 1, "largest gain"), (least, -1, "largest loss")):
            if sign * gain > 0:
                picked.setdefault(index, []).append(f"{words} of {name} over {baseline} by {judge}")
    return picked


def _samples(rows: Sequence[Mapping[str, Any]],
             settings: Mapping[str, Any]) -> list[tuple[str, str, list[Any]]]:
    shown = []
    for index, reasons in pick_rows(rows, settings).items():
        row = rows[index]
        label = f"Prompt {row['prompt_number']}"
        label += f", sample {row['sample']}" if settings["n_samples"] > 1 else ""
        label += f": {'; '.join(reasons)}" if reasons else ""
        answers = [
            (name, entry["text"] or "(empty)",
             [(title, number(entry[key], digits)) for key, (title, digits) in _SHOWN.items() if key in entry])
            for name, entry in row["policies"].items()]
        shown.append((label, row["prompt"] + ("\n\n" if settings["chat"] else ""), answers))
    return shown


def front_matter(metrics: Mapping[str, Any], name: str, *, base_model: str | None) -> dict[str, Any]:
    """The metadata of a model card, as the Hub reads them (its documentation of ``model-index``).

    Args:
        metrics: of the comparison.
        name: the policy that the card is about.
        base_model: Hub id of the model it was trained from; None if it has none (a local folder).
    """
    settings, entry = metrics["settings"], metrics["policies"][name]
    values = [{"type": key, "value": round(value, 4), "name": title} for key, title in _CARD.items()
              if (value := numeric(entry.get(key))) is not None]  # fmt: skip
    source = settings.get("prompt_source", "prompts")
    content: dict[str, Any] = {
        "library_name": "peft" if entry.get("is_adapter") else "transformers",
        "pipeline_tag": "text-generation", "license": "apache-2.0" if base_model == _BUNDLED else "unknown",
        "tags": ["rlhf", "rlhf-lite"],
    }
    if base_model is not None:
        content["base_model"] = base_model
    if values:
        task = {"type": "text-generation", "name": "Text generation"}
        dataset = {"type": source, "name": f"{settings['prompts']} prompts from {source}"}
        results = [{"task": task, "dataset": dataset, "metrics": values}]
        content["model-index"] = [{"name": name, "results": results}]
    return content
