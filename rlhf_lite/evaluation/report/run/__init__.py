"""The report of a run: ``report.html`` (one file) and ``report.md``, from what the run folder holds.

Nothing is computed anew and nothing is filled in: a number comes from a file, or the report says that it is
missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_lite.evaluation.report.render import render
from rlhf_lite.files import write_bytes, write_text

__all__ = ["summary_lines", "write_report"]


def write_report(run_dir: Path) -> tuple[Path, Path]:
    """Write ``report.html``, ``report.md`` and ``figures/`` into a run folder.

    Reads ``metrics.json``, ``metrics.jsonl``, ``samples.jsonl`` and ``config.yaml``; each may be absent. An
    existing report is replaced, each file at once.

    Returns:
        The paths of the HTML and of the Markdown file.

    Raises:
        FileNotFoundError: if ``run_dir`` is not a folder.
    """
    from rlhf_lite.evaluation.report.charts import charts_in
    from rlhf_lite.evaluation.report.run.context import report_context
    from rlhf_lite.evaluation.report.run.folder import load_run

    run = load_run(Path(run_dir))
    context = report_context(run)
    for chart in charts_in(context):
        write_bytes(run.folder / "figures" / chart.file, chart.content)
    page, document = run.folder / "report.html", run.folder / "report.md"
    write_text(page, render("report.html.j2", body="run.j2", **context))
    write_text(document, render("report.md.j2", body="run.j2", **context))
    return page, document


def summary_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What a terminal should show at the end of a run: verdict, reward model, one line per policy.

    ``metrics`` is the content of ``metrics.json``; whatever is absent is left out or shown as a dash.
    """
    from rlhf_lite.evaluation.report.run.context import findings

    return render("run.txt.j2", **findings(metrics)).splitlines()
