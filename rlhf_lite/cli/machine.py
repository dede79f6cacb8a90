"""The commands that look after the machine: what it has, and what later runs need from the network."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False) -> None:
    """What this machine has, what is missing, and how to get it."""
    from rlhf_lite.cli.doctor import examine, show

    report = examine()
    typer.echo(json.dumps(report, indent=2)) if as_json else show(report)
    if not report["ok"]:
        raise typer.Exit(1)


def assets() -> None:
    """Fetch the model and the human ratings; later runs need no network."""
    from rlhf_lite.data.assets.ensure import ensure_model, ensure_ratings

    for ensure in (ensure_ratings, ensure_model):
        typer.echo(str(ensure()))
