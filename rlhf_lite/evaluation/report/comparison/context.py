"""What the templates of a comparison's report need, from ``report.json`` and ``samples.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lite.evaluation.report.comparison import figures
from rlhf_lite.evaluation.report.comparison.figures import SCORES
from rlhf_lite.evaluation.report.numbers import get_path, integer, number, numeric
from rlhf_lite.evaluation.report.render import say
from rlhf_lite.evaluation.report.run.context import hardware_text

__all__ = ["front_matter", "lead_sentences", "pick_rows", "report_context"]

_FIRST = 6
_OPTIMISED = "†"
# measure -> label and digits under a sample
_SHOWN = {"gold": ("gold", 2), "vader": ("VADER", 2), "reward": ("reward model", 2), "kl": ("KL", 1),
          "coherence": ("coherence", 2), "toxicity": ("toxicity", 2), "tokens": ("tokens", 0)}  # fmt: skip
# The bundled model's folder stands for this Hub id; its licence is known.
_BUNDLED = "HuggingFaceTB/SmolLM2-135M-Instruct"
# metrics of a model card, as the Hub lists them
_CARD = {
    "gold_reward": "Gold reward (rating points)",
    "vader": "VADER sentiment (-1 to 1)",
    "kl_nats_per_seq": "KL from the reference (nats per sequence)",
    "toxicity": "Toxicity (probability)",
    "coherence_nats_per_token": "Coherence (nats per token)",
    "perplexity_reference": "Perplexity under the reference",
    "distinct_2": "Distinct-2 (fraction)",
}


def lead_sentences(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Each policy against the baseline, in one sentence, by the deciding judge."""
    baseline, judge = metrics["settings"]["baseline"], metrics["settings"]["judge"]
    return {
        name: say("wins", name, baseline, SCORES[judge].title, entry.get(judge) or {})
        for name, entry in metrics["versus_baseline"].items()
    }


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
        "title": "Policies compared",
        "subtitle": f"{', '.join(policies)} on {settings['prompts']} prompts",
        "footer": "is also in report.json, every text in samples.jsonl.",
        "metrics": metrics,
        "settings": settings,
        "policies": {name: {**entry, **marks[name]} for name, entry in policies.items()},
        "versus": {name: _with_counts(entry) for name, entry in metrics["versus_baseline"].items()},
        "judges": SCORES,
        "mark": _OPTIMISED,
        "sources": "; ".join(f"{name}: {entry['source']}" for name, entry in policies.items()
                             if entry["source"]),
        "hardware": hardware_text(metrics.get("hardware")),
        "leads": lead_sentences(metrics),
        "problems": metrics.get("problems") or [],
        "reasons": sorted({f"{measure}: {why}" for entry in policies.values()
                           for measure, why in entry["missing"].items()}),
        "optimised": any(entry["optimised_by"] for entry in policies.values()),
        "charts": figures.draw(metrics),
        "samples": _samples(rows, settings),
        "gold": get_path(metrics, "judges", "gold_judge"),
        "reward": get_path(metrics, "judges", "reward_model"),
        "command": metrics.get("command"),
        "versions": metrics.get("versions") or {},
        "machine": metrics.get("hardware") or {},
    }  # fmt: skip


def _with_counts(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of every judge, and beside them wins, ties and losses as one text."""
    keys = ("wins", "ties", "losses")
    return {
        judge: {**(row or {}), "counts": " / ".join(integer(get_path(row, key)) for key in keys)
                if any(numeric(get_path(row, key)) is not None for key in keys) else None}
        for judge, row in entry.items()
    }  # fmt: skip


def pick_rows(
    rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], *, first: int = _FIRST
) -> dict[int, list[str]]:
    """Rows to show and why: the first prompts in their order, then each policy's largest gain and loss."""
    judge, baseline, samples = settings["judge"], settings["baseline"], settings["n_samples"]
    picked: dict[int, list[str]] = {
        prompt * samples: [] for prompt in range(min(first, len(rows) // samples))
    }
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


def _samples(
    rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> list[tuple[str, str, list[Any]]]:
    shown = []
    for index, reasons in pick_rows(rows, settings).items():
        row = rows[index]
        label = f"Prompt {row['prompt_number']}"
        label += f", sample {row['sample']}" if settings["n_samples"] > 1 else ""
        label += f": {'; '.join(reasons)}" if reasons else ""
        answers = [
            (name, entry["text"] or "(empty)",
             [(title, number(entry[key], digits)) for key, (title, digits) in _SHOWN.items() if key in entry])
            for name, entry in row["policies"].items()
        ]  # fmt: skip
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
        "pipeline_tag": "text-generation",
        "license": "apache-2.0" if base_model == _BUNDLED else "unknown",
        "tags": ["rlhf", "rlhf-lite"],
    }
    if base_model is not None:
        content["base_model"] = base_model
    if values:
        task = {"type": "text-generation", "name": "Text generation"}
        dataset = {"type": source, "name": f"{settings['prompts']} prompts from {source}"}
        content["model-index"] = [
            {"name": name, "results": [{"task": task, "dataset": dataset, "metrics": values}]}
        ]
    return content
