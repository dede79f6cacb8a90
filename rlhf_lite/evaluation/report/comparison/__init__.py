"""The report of a comparison, as HTML, Markdown and JSON lines, with a draft of a model card.

The folder appears complete or not at all, and nothing but an earlier report of this kind is ever replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lite.errors import ComparisonError
from rlhf_lite.evaluation.compare import Comparison
from rlhf_lite.evaluation.report.charts import charts_in
from rlhf_lite.evaluation.report.comparison.context import front_matter, lead_sentences, report_context
from rlhf_lite.evaluation.report.comparison.figures import SCORES
from rlhf_lite.evaluation.report.render import render
from rlhf_lite.files import atomic_folder, write_bytes, write_json, write_json_lines, write_text
from rlhf_lite.tracking import run_info

__all__ = ["check_output", "sample_rows", "summary", "write_comparison"]

KIND = "rlhf-lite comparison"
_FILES = {"report.html", "report.md", "report.json", "samples.jsonl", "model_card.md", "figures"}


def check_output(folder: Path) -> None:
    """Make sure that a report may be written to ``folder``.

    Raises:
        ComparisonError: if it is a file, or holds anything but an earlier report of this kind.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ComparisonError(f"{folder} is a file; give a folder for the report")
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
        raise ComparisonError(
            f"{folder} holds something else ({what}), which would be lost: give a new folder with --output"
        )


def write_comparison(
    comparison: Comparison,
    folder: Path,
    *,
    card: str | None = None,
    info: Mapping[str, Any] | None = None,
) -> Path:
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
    metrics = _clean(
        run_info(seed=comparison.metrics["settings"]["seed"]) | comparison.metrics | (info or {})
    )
    card = list(metrics["policies"])[-1] if card is None else card
    if card not in metrics["policies"]:
        raise ComparisonError(f"card={card!r} is none of the policies: {', '.join(metrics['policies'])}")
    policy = comparison.answers[card].policy
    metrics["policies"][card]["is_adapter"] = policy.adapter is not None
    rows = sample_rows(comparison)
    context = report_context(metrics, rows)
    with atomic_folder(folder) as place:
        for chart in charts_in(context):
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
        return "HuggingFaceTB/SmolLM2-135M-Instruct"
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
        {
            "prompt": comparison.prompts[row // samples],
            "prompt_number": row // samples + 1,
            "sample": row % samples + 1,
            "policies": {
                name: {
                    "text": answers.texts[row],
                    "tokens": int(answers.tokens[row]),
                    "ended": bool(answers.ended[row]),
                    **{measure: _clean(float(values[row])) for measure, values in answers.scores.items()},
                }
                for name, answers in comparison.answers.items()
            },
        }
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
