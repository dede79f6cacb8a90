"""Write a comparison: ``report.html``, ``report.md``, ``report.json``, ``samples.jsonl`` and
``model_card.md``.

The folder appears complete or not at all, and nothing but an earlier report of this kind is ever replaced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lite.errors import ComparisonError
from rlhf_lite.evaluation.compare import Comparison
from rlhf_lite.evaluation.report.blocks import (
    Block,
    Charts,
    Code,
    Heading,
    Note,
    Paragraph,
    Sample,
    Samples,
    Score,
    text,
)
from rlhf_lite.evaluation.report.comparison_blocks import (
    SCORES,
    head,
    lead_sentences,
    problems,
    results,
)
from rlhf_lite.evaluation.report.comparison_card import model_card
from rlhf_lite.evaluation.report.comparison_reading import calibration, limits
from rlhf_lite.evaluation.report.data import number
from rlhf_lite.evaluation.report.html import render_html
from rlhf_lite.evaluation.report.markdown import render_markdown
from rlhf_lite.evaluation.report.practice import _listed
from rlhf_lite.files import atomic_folder, write_json
from rlhf_lite.tracking import run_info

__all__ = ["check_output", "pick_rows", "summary", "write_comparison"]

KIND = "rlhf-lite comparison"
_TITLE = "Policies compared"
_FOOTER = "Every number on this page is also in report.json, every text in samples.jsonl."
_FILES = {"report.html", "report.md", "report.json", "samples.jsonl", "model_card.md", "figures"}
_FIRST = 6
# measure -> label and digits under a sample
_SHOWN = {"gold": ("gold", 2), "vader": ("VADER", 2), "reward": ("reward model", 2), "kl": ("KL", 1),
          "coherence": ("coherence", 2), "toxicity": ("toxicity", 2)}  # fmt: skip


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
    entrant = comparison.answers[card].entrant
    metrics["policies"][card]["is_adapter"] = entrant.adapter is not None
    blocks = _blocks(comparison, metrics)
    names = ", ".join(metrics["policies"])
    subtitle = f"{names} on {metrics['settings']['prompts']} prompts"
    with atomic_folder(folder) as place:
        (place / "figures").mkdir()
        for block in blocks:
            if isinstance(block, Charts):
                for chart in block.items:
                    (place / "figures" / f"{chart.name}.png").write_bytes(chart.png)
        pages = {
            "report.html": render_html(_TITLE, subtitle, blocks, footer=_FOOTER),
            "report.md": render_markdown(_TITLE, subtitle, blocks, footer=_FOOTER),
            "model_card.md": model_card(metrics, card, base_model=_hub_id(entrant)),
            "samples.jsonl": "".join(
                json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in _rows(comparison)
            ),
        }
        for name, content in pages.items():
            # A model may write half of a surrogate pair, which UTF-8 cannot hold.
            (place / name).write_bytes(content.encode("utf-8", "replace"))
        write_json(place / "report.json", metrics)
    return folder / "report.html"


def _hub_id(entrant: Any) -> str | None:
    """The base model as the Hub knows it; None for a local folder."""
    name = str(getattr(entrant.model.config, "_name_or_path", "") or entrant.model.config.name_or_path)
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


def _rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """One object per row of the answers: prompt, sample, and every policy's text and scores."""
    samples = comparison.metrics["settings"]["n_samples"]
    for row in range(len(comparison.prompts) * samples):
        yield {
            "prompt": comparison.prompts[row // samples],
            "prompt_number": row // samples + 1,
            "sample": row % samples + 1,
            "policies": {
                name: {
                    "text": found.texts[row],
                    "tokens": int(found.tokens[row]),
                    "ended": bool(found.ended[row]),
                    **{measure: _clean(float(values[row])) for measure, values in found.scores.items()},
                }
                for name, found in comparison.answers.items()
            },
        }


def summary(metrics: Mapping[str, Any]) -> list[str]:
    """What a terminal should show: what was wrong, one line per policy, one sentence per comparison."""
    judge = metrics["settings"]["judge"]
    columns = (
        (SCORES[judge][0], judge, 2),
        ("kl_nats_per_seq", "KL", 1),
        ("coherence_nats_per_token", "coherence", 2),
        ("toxicity", "toxicity", 3),
        ("distinct_2", "distinct-2", 2),
        ("length_tokens", "tokens", 1),
    )
    width = max(len("policy"), *(len(name) for name in metrics["policies"]))
    lines = ["policy".ljust(width) + "".join(title.rjust(12) for _, title, _ in columns)]
    for name, entry in metrics["policies"].items():
        cells = (number(entry.get(key), digits).rjust(12) for key, _, digits in columns)
        lines.append(name.ljust(width) + "".join(cells))
    return [*lines, *lead_sentences(metrics), *(f"Note: {words}" for words in metrics["problems"])]


def pick_rows(comparison: Comparison, *, first: int = _FIRST) -> dict[int, list[str]]:
    """Rows to show and why: the first ones in their order, then each policy's largest gain and loss."""
    settings = comparison.metrics["settings"]
    samples, judge, baseline = settings["n_samples"], settings["judge"], settings["baseline"]
    picked: dict[int, list[str]] = {
        prompt * samples: [] for prompt in range(min(first, len(comparison.prompts)))
    }
    base = comparison.answers[baseline].scores.get(judge)
    for name, found in comparison.answers.items():
        if name == baseline or base is None or judge not in found.scores:
            continue
        gain = found.scores[judge] - base
        if np.isnan(gain).all():
            continue
        for row, words in ((np.nanargmax(gain), "largest gain"), (np.nanargmin(gain), "largest loss")):
            if (gain[row] > 0) == (words == "largest gain") and gain[row] != 0:
                picked.setdefault(int(row), []).append(f"{words} of {name} over {baseline} by {judge}")
    return picked


def _samples(comparison: Comparison) -> list[Block]:
    settings = comparison.metrics["settings"]
    samples, items = settings["n_samples"], []
    gap = "\n\n" if settings["chat"] else ""
    for row, reasons in pick_rows(comparison).items():
        label = f"Prompt {row // samples + 1}" + (f", sample {row % samples + 1}" if samples > 1 else "")
        answers = []
        for name, found in comparison.answers.items():
            scores = [
                Score(title, number(float(found.scores[measure][row]), digits))
                for measure, (title, digits) in _SHOWN.items()
                if measure in found.scores
            ]
            answers.append(
                (
                    name,
                    found.texts[row] or "(empty)",
                    [*scores, Score("tokens", number(found.tokens[row], 0))],
                )
            )
        items.append(
            Sample(
                ": ".join([label, "; ".join(reasons)] if reasons else [label]),
                comparison.prompts[row // samples] + gap,
                answers,
            )
        )
    words = (
        "The prompt is in bold; the rest was written by the policy. First come prompts in their order, good "
        "or "
        "bad, then the largest differences from the baseline."
    )
    return [Heading("Samples side by side"), Paragraph(text(words)), Samples(items)]


def _repeat(metrics: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [Heading("Repeat this comparison")]
    if metrics.get("command"):
        blocks += [Paragraph(text("The command that was run:")), Code(metrics["command"], "bash")]
    else:
        blocks.append(Note(text("The command was not recorded.")))
    for title, key in (("Versions", "versions"), ("Hardware", "hardware")):
        if listed := _listed(metrics.get(key)):
            blocks.append(Code(listed, summary=title))
    blocks.append(Code(json.dumps(metrics["settings"], indent=2), "json", summary="Settings"))
    return blocks


def _blocks(comparison: Comparison, metrics: Mapping[str, Any]) -> list[Block]:
    return [
        head(metrics),
        *problems(metrics),
        *results(metrics),
        *_samples(comparison),
        *calibration(metrics),
        *limits(metrics),
        *_repeat(metrics),
    ]
