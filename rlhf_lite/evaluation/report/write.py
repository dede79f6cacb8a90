"""The report of a run: `report.html` (one file) and `report.md`, from what the run folder holds.

Nothing is computed anew and nothing is filled in: a number comes from a file, or the report
says that it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_lite.evaluation.report.blocks import Block, Charts, Heading, Note, Paragraph, Samples, text
from rlhf_lite.evaluation.report.data import MISSING, Run, dig, interval_text, load_run, number, numeric
from rlhf_lite.files import write_bytes

__all__ = ["summary_lines", "write_report"]

_TITLE = "RLHF run report"
_SAMPLES_SHOWN = 8


def write_report(run_dir: Path) -> tuple[Path, Path]:
    """Write ``report.html``, ``report.md`` and ``figures/*.png`` into a run folder.

    Reads ``metrics.json``, ``metrics.jsonl``, ``samples.jsonl`` and ``config.yaml``; each may be
    absent. An existing report is replaced, each file at once.

    Returns:
        The paths of the HTML and of the Markdown file.

    Raises:
        FileNotFoundError: if ``run_dir`` is not a folder.
    """
    from rlhf_lite.evaluation.report.html import render_html
    from rlhf_lite.evaluation.report.markdown import render_markdown

    run = load_run(Path(run_dir))
    blocks = _blocks(run)
    for block in blocks:
        if isinstance(block, Charts):
            for chart in block.items:
                write_bytes(run.folder / "figures" / f"{chart.name}.png", chart.png)
    titles = {"sft": "SFT", "reward": "reward model", "ppo": "PPO", "dpo": "DPO"}
    phases = [title for phase, title in titles.items() if phase in run.steps] or list(titles.values())[:3]
    subtitle = f"{', '.join(phases)} and evaluation of the run {run.folder.resolve().name}"
    page, document = run.folder / "report.html", run.folder / "report.md"
    write_bytes(page, render_html(_TITLE, subtitle, blocks).encode("utf-8"))
    write_bytes(document, render_markdown(_TITLE, subtitle, blocks).encode("utf-8"))
    return page, document


def summary_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What a terminal should show at the end of a run: verdict, reward model, one line per policy.

    ``metrics`` is the content of ``metrics.json``; whatever is absent is left out or shown as a dash.
    """
    from rlhf_lite.evaluation.report.results import comparison_sentence, summary_rows, verdict

    lines = []
    accuracy = numeric(dig(metrics, "reward_model", "accuracy"))
    if accuracy is not None:
        ends = interval_text(dig(metrics, "reward_model", "ci95"), 3)
        n = numeric(dig(metrics, "reward_model", "n_pairs"))
        lines.append(
            f"Reward model: {number(accuracy, 3)} of {number(n, 0)} held-out pairs ranked as people did"
            + (f" (95 % interval {ends})" if ends else "")
        )
    rows = summary_rows(metrics)
    if rows:
        head = ["gold", "VADER", "KL", "tokens", "distinct-2"]
        width = max(len("policy"), *(len(name) for name, _ in rows))
        lines.append("policy".ljust(width) + "".join(title.rjust(12) for title in head))
        lines += [name.ljust(width) + "".join(cell.rjust(12) for cell in cells) for name, cells in rows]
    if sentence := comparison_sentence(metrics):
        lines.append(sentence)
    total = numeric(dig(metrics, "seconds", "total"))
    lines.append(f"Time: {MISSING if total is None else number(total / 60, 1)} minutes")
    lines.append(verdict(metrics)[0])
    return lines


def _training(run: Run) -> list[Block]:
    from rlhf_lite.evaluation.report import figures

    blocks: list[Block] = [Heading("Training curves")]
    notes = {
        "sft": "The loss is the mean surprise per token of real review text. Train and validation "
        "falling "
        "together is learning; validation turning up is learning by heart.",
        "reward": "The loss is the surprise at what raters preferred. Guessing costs 0.693 nats, ln 2.",
        "ppo": "Reward should rise while KL stays near its target. Falling entropy means less varied "
        "text; many "
        "clipped tokens mean steps that are too large; explained variance near 0 means a value head that "
        "does not help.",
        "dpo": "The implicit reward of chosen texts should rise above that of rejected ones. Both "
        "log-probabilities may fall: only their difference is trained.",
    }
    titles = {
        "sft": "Supervised fine-tuning",
        "reward": "Reward model training",
        "ppo": "PPO training",
        "dpo": "DPO training",
    }
    for phase, note in notes.items():
        if phase in ("ppo", "dpo") and phase not in run.steps and _other(phase) in run.steps:
            continue  # the run chose the other method
        blocks.append(Heading(titles[phase], level=3))
        charts, absent = figures.training_charts(run, phase)
        if charts:
            blocks += [Paragraph(text(note)), Charts(charts)]
        else:
            blocks.append(Note(text("This run logged no steps of this phase.")))
        if charts and absent:
            blocks.append(Note(text("Not logged: {names}.", names="; ".join(absent))))
    if trajectory := figures.trajectory_chart(run):
        words = (
            "Reward bought per nat of drift, one point per step. Where the curve flattens, drift buys little."
        )
        blocks += [Paragraph(text(words)), Charts([trajectory])]
    return blocks


def _other(phase: str) -> str:
    return "dpo" if phase == "ppo" else "ppo"


def _samples(run: Run) -> list[Block]:
    from rlhf_lite.evaluation.report.samples import pick_samples

    heading = Heading("Samples side by side")
    shown = run.setting("evaluation", "samples_shown")
    picked: Samples | None = pick_samples(run, first=_SAMPLES_SHOWN if shown is None else max(0, int(shown)))
    if picked is None:
        return [heading, Note(text("This run saved no samples."))]
    words = (
        "The opening, in bold, comes from a review that no training step has seen; the rest was written by "
        "the policy. "
        "First come the samples in their order, good or bad, then the extremes."
    )
    return [heading, Paragraph(text(words)), picked]


def _blocks(run: Run) -> list[Block]:
    from rlhf_lite.evaluation.report import figures, practice, reading, results

    return [
        results.head(run),
        results.checks(run),
        *results.results(run),
        *_samples(run),
        Heading("How the run works"),
        Charts([figures.pipeline_chart()], wide=True),
        *_training(run),
        *reading.reward_section(run),
        *reading.gold_section(run),
        *reading.meaning(run),
        *practice.loading(run),
        *practice.reproducing(run),
    ]
