"""The short report of a constitutional run, in Markdown; the same numbers are in ``metrics.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lite.constitutional import printable
from rlhf_lite.files import write_text
from rlhf_lite.pipeline.cai.records import read_chains

_TITLES = {"base": "start policy", "sft": "after SFT on revisions", "cai": "after DPO on AI feedback"}
LIMITS = """\
- Toxicity here is a linear model on words: it does not see contempt that uses clean words, and it calls a
  quoted insult toxic. VADER is a lexicon. Neither knows whether an answer makes sense; read the samples.
- A lower toxicity may be bought with less meaning. Look at the kept words and the problems of the revisions,
  at distinct-2, at length and at the KL before calling a drop an improvement.
- The prompts are rude remarks about films, written for this book: nothing is said about other kinds of harm.
- Critiques, revisions and feedback come from a small model. It was not checked that it understands the
  principles; the agreement above is with a word-based judge, not with people.
- Intervals are 95 % percentile bootstraps over prompts of one run with one seed. They do not hold the spread
  between training seeds."""


def _cell(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    value, ends = row.get(name), row.get(f"{name}_ci95")
    if value is None:
        return "missing"
    text = f"{value:.{digits}f}"
    return text if not ends else f"{text} ({ends[0]:.{digits}f} to {ends[1]:.{digits}f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _quoted(text: str) -> str:
    """Text of a model in one line of Markdown, as code: nothing in it is read as markup."""
    return "`" + (printable(" ".join(text.split())).replace("`", "'") or " ") + "`"


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for row in rounds:
        problems = ", ".join(f"{name} {n}" for name, n in row.get("problems", {}).items() if n)
        cells = [_cell(row, name) for name in ("toxicity", "vader", "kept_words")]
        rows.append([str(row["round"]), *cells, f"{row['words']:.1f}", problems or "none"])
    head = ["round", "toxicity", "VADER", "kept words", "words", "problems of the revisions"]
    return _table(head, rows)


def _feedback(stats: Mapping[str, Any]) -> list[str]:
    rows = []
    for method in ("likelihood", "pointwise", "pairwise"):
        if method in stats:
            found = stats[method]
            pairs, used = str(found.get("pairs", 0)), "yes" if stats["method"] == method else "no"
            gap = _cell(found, "chosen_minus_rejected_toxicity")
            rows.append([method, used, pairs, str(found["n_clear_pairs"]), _cell(found, "agreement"), gap])
    head = ["method", "used", "pairs made", "clear pairs", "agreement (0.5 is chance)"]
    lines = _table([*head, "toxicity, chosen minus rejected"], rows)
    if "pairwise" in stats:
        bias = stats["pairwise"]["position_bias_nats"]
        named = ", ".join(f"{name} {value:+.2f}" for name, value in bias.items())
        consistent = stats["pairwise"]["consistent_fraction"]
        lines += [
            f"Liking for the letter A, in nats: {named}. Both orders named the same text in {consistent:.0%} "
            "of the questions.",
            "",
        ]
    return lines


def _policies(metrics: Mapping[str, Any]) -> list[str]:
    columns = ("toxicity", "toxic_fraction", "vader", "length_words", "kl_nats_per_seq")
    plain = ("distinct_2", "perplexity_reference", "copied_fraction")
    rows = [
        [_TITLES[name], *(_cell(row, c) for c in columns), *(_cell(row, c) for c in plain)]
        for name, row in metrics["policies"].items()
    ]
    head = ["policy", "toxicity", "share toxic", "VADER", "words", "KL from the start, nats per answer"]
    lines = _table(
        [*head, "distinct-2", "perplexity under the start policy", "copies of a prompt line"], rows
    )
    rows = [
        [name.replace("_", " "), _cell(row, "toxicity"), _cell(row, "vader")]
        for name, row in metrics["comparisons"].items()
    ]
    return lines + _table(["difference, prompt by prompt", "toxicity", "VADER"], rows)


def write_report(output: Path, metrics: Mapping[str, Any], *, shown: int) -> Path:
    """Write ``report.md`` from ``metrics.json``, the chains and the samples of a run.

    Args:
        output: folder of the run.
        metrics: the content of ``metrics.json``.
        shown: chains and prompts that are shown as they are.
    """
    counts, policies = metrics["counts"], metrics["policies"]
    n = next(iter(policies.values()))
    lines = [
        "# Constitutional AI: report of a run",
        "",
        f"Seed {metrics['seed']}, commit {metrics['commit'] or 'unknown'}. {counts['chains']} chains of "
        f"revisions, {counts['sft_examples']} of them learned from; {counts['dpo_pairs']} preference pairs, "
        f"judged by `{Path(metrics['feedback']['judge']).name}`. Policies answer {n['n_prompts']} test "
        f"prompts {n['n_answers'] // n['n_prompts']} times each. In brackets: 95 % intervals.",
        "",
        "## Revisions, round by round",
        "",
        *_rounds(metrics["rounds"]),
        "## Feedback",
        "",
        *_feedback(metrics["feedback"]),
        "## Policies on test prompts",
        "",
        *_policies(metrics),
        "## Some chains",
        "",
    ]
    for chain in read_chains(output)[:shown]:
        steps = [
            f"  - {s.principle}: {_quoted(s.revision)}" + (f" ({s.problem})" if s.problem else "")
            for s in chain.steps
        ]
        lines += [f"- {_quoted(chain.first)}", *steps]
    lines += ["", "## Some answers to test prompts", ""]
    for text in (output / "samples.jsonl").read_text(encoding="utf-8").splitlines()[:shown]:
        row = json.loads(text)
        lines.append(f"- after {_quoted(row['prompt'].splitlines()[-2])}")
        lines += [
            f"  - {_TITLES[name]}: {_quoted(found[0]['text'])}" for name, found in row["policies"].items()
        ]
    lines += ["", "## Limits", "", LIMITS, ""]
    path = output / "report.md"
    write_text(path, "\n".join(lines))
    return path
