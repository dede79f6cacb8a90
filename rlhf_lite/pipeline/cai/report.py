"""The short report of a constitutional run, in Markdown; the same numbers are in ``metrics.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_lite.constitutional import printable
from rlhf_lite.evaluation.report.render import interval_text, number, render
from rlhf_lite.files import write_text
from rlhf_lite.pipeline.cai.rounds import METHODS, read_chains

_TITLES = {"base": "start policy", "sft": "after SFT on revisions", "cai": "after DPO on AI feedback"}
_MEASURES = ("toxicity", "toxic_fraction", "vader", "length_words", "kl_nats_per_seq", "distinct_2",
             "perplexity_reference", "copied_fraction")  # fmt: skip


def _cells(row: Mapping[str, Any], *names: str) -> list[str]:
    """Values with their intervals."""
    cells = []
    for name in names:
        ends = interval_text(row.get(f"{name}_ci95"))
        value = "missing" if row.get(name) is None else number(row[name])
        cells.append(f"{value} ({ends})" if ends else value)
    return cells


def _quoted(text: str) -> str:
    """Text of a model in one line."""
    return printable(" ".join(text.split())) or " "


def _round(row: Mapping[str, Any]) -> list[str]:
    problems = ", ".join(f"{name} {n}" for name, n in row.get("problems", {}).items() if n)
    cells = _cells(row, "toxicity", "vader", "kept_words")
    return [str(row["round"]), *cells, number(row["words"], 1), problems or "none"]


def _method(name: str, row: Mapping[str, Any], used: str) -> list[str]:
    agreement, gap = _cells(row, "agreement", "chosen_minus_rejected_toxicity")
    return [name, "yes" if name == used else "no", str(row.get("pairs", 0)), str(row["n_clear_pairs"]),
            agreement, gap]


def write_report(output: Path, metrics: Mapping[str, Any], *, shown: int) -> Path:
    """Write ``report.md`` from ``metrics.json``, the chains and the samples of a run.

    Args:
        output: folder of the run.
        metrics: the content of ``metrics.json``.
        shown: chains and prompts that are shown as they are.
    """
    policies, feedback = metrics["policies"], metrics["feedback"]
    counted = next(iter(policies.values()))
    lines = (output / "samples.jsonl").read_text("utf-8").splitlines()[:shown]
    context = {
        "title": "Constitutional AI: report of a run", "subtitle": "", "footer": "is also in metrics.json.",
        "metrics": metrics, "judge": Path(feedback["judge"]).name,
        "n_prompts": counted["n_prompts"], "n_answers": counted["n_answers"],
        "rounds": [_round(row) for row in metrics["rounds"]],
        "feedback": [_method(name, feedback[name], feedback["method"])
                     for name in METHODS if name in feedback],
        "bias": feedback.get("pairwise"),
        "policies": [[_TITLES[name], *_cells(row, *_MEASURES)] for name, row in policies.items()],
        "differences": [[name.replace("_", " "), *_cells(row, "toxicity", "vader")]
                        for name, row in metrics["comparisons"].items()],
        "chains": [(_quoted(chain.first),
                    [(step.principle, _quoted(step.revision), step.problem) for step in chain.steps])
                   for chain in read_chains(output)[:shown]],
        "samples": [(_quoted(row["prompt"].splitlines()[-2]),
                     [(_TITLES[name], _quoted(answers[0]["text"]))
                      for name, answers in row["policies"].items()])
                    for row in map(json.loads, lines)],
    }  # fmt: skip
    path = output / "report.md"
    write_text(path, render("report.md.j2", body="constitutional.j2", **context))
    return path
