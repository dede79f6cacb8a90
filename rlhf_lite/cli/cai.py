"""The command ``rlhf-lite cai``. Nothing heavy is imported before it runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def cai(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder of the run")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="settings, YAML")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="settings, such as feedback.judge=FOLDER"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="seeds everything random (same as seed=N)")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="keep finished phases of a stopped run")] = False,
) -> None:
    """Constitutional AI: revise, learn the revisions, ask a model for preferences, learn those, judge."""
    from rlhf_lite.errors import ConfigError
    from rlhf_lite.pipeline.cai.config import load_cai_config
    from rlhf_lite.pipeline.cai.run import run_cai

    given = list(settings or ())
    if seed is not None:
        twice = [text for text in given if text.partition("=")[0].strip() == "seed"]
        if twice:
            raise ConfigError([f"command line: got --seed {seed} and {twice[0]}; give one of them"])
        given.append(f"seed={seed}")
    resolved = load_cai_config(config, given)
    folder = Path(resolved.output) if output is None else output
    try:
        metrics = run_cai(
            resolved, output=folder, resume=resume, command=shlex.join(["rlhf-lite", *sys.argv[1:]])
        )
    except KeyboardInterrupt:
        typer.echo(
            f"Stopped. Finished phases are in {folder}; the same command with --resume goes on.", err=True
        )
        raise typer.Exit(130) from None
    for name, row in metrics["policies"].items():
        low, high = row["toxicity_ci95"]
        typer.echo(
            f"{name}: toxicity {row['toxicity']:.3f} ({low:.3f} to {high:.3f}), VADER {row['vader']:+.2f}, "
            f"KL {row['kl_nats_per_seq']:.2f} nats per answer"
        )
    typer.echo(f"Report: {folder / 'report.md'}")
