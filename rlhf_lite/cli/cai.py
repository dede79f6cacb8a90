"""The command ``rlhf-lite cai``. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path

import typer

from rlhf_lite.cli.common import (
    Output,
    Resume,
    Seed,
    Settings,
    SettingsFile,
    resumable,
    settings_from,
    typed_command,
)


def cai(
    output: Output = None,
    config: SettingsFile = None,
    settings: Settings = None,
    seed: Seed = None,
    resume: Resume = False,
) -> None:
    """Constitutional AI: revise, learn the revisions, ask a model for preferences, learn those, judge."""
    from rlhf_lite.pipeline.cai.config import load_cai_config
    from rlhf_lite.pipeline.cai.run import run_cai

    resolved = settings_from(load_cai_config, config, settings, output=output, seed=seed)
    folder = Path(resolved.output)
    with resumable(folder):
        metrics = run_cai(resolved, output=folder, resume=resume, command=typed_command())
    for name, row in metrics["policies"].items():
        low, high = row["toxicity_ci95"]
        ends = "" if low is None else f" ({low:.3f} to {high:.3f})"
        typer.echo(
            f"{name}: toxicity {row['toxicity']:.3f}{ends}, VADER {row['vader']:+.2f}, "
            f"KL {row['kl_nats_per_seq']:.2f} nats per answer"
        )
    typer.echo(f"Report: {folder / 'report.md'}")
