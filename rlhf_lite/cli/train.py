"""The commands that train: a whole run, a part of one, many runs, and the lab."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rlhf_lite.cli.options import (
    Output,
    Resume,
    Seed,
    Settings,
    SettingsFile,
    load_settings,
    resumable,
    settings_from,
    typed_command,
)
from rlhf_lite.cli.printing import show_checks, show_numbers
from rlhf_lite.errors import ConfigError

if TYPE_CHECKING:
    from rlhf_lite.config import PipelineConfig

Phase = StrEnum("Phase", "sft reward ppo dpo evaluation")  # typer takes no list of Literal
Method = Literal["ppo", "dpo", "both"]
_ON_ERROR_HELP = "stop at a broken row (raise, the default), or skip and list it"


def quickstart(
    settings: Settings = None, output: Output = None, seed: Seed = None,
    method: Annotated[Method | None, typer.Option(help="how the policy learns (same as method=...)")] = None,
    resume: Resume = False,
) -> None:
    """The whole path on real human ratings, in about five minutes."""
    config = load_settings(None, settings, output=output, seed=seed, method=method)
    folder = Path(config.output)
    if "output" not in config.model_fields_set:
        folder = _last(folder) if resume else _free(folder)
    _run(config, folder, resume=resume)


def pipeline(
    config: Annotated[Path, typer.Option("--config", "-c", help="settings, YAML")], settings: Settings = None,
    output: Output = None, seed: Seed = None, resume: Resume = False,
    skip: Annotated[list[Phase] | None, typer.Option(help="leave this phase out (repeatable)")] = None,
    only: Annotated[list[Phase] | None, typer.Option(help="run only this phase (repeatable)")] = None,
) -> None:
    """The same machinery at any size, from a settings file."""
    if skip and only:
        raise ConfigError(["command line: got --skip and --only; give one of them"])
    resolved = load_settings(config, settings, output=output, seed=seed)
    # Two settings files without an output must not write into the same folder.
    folder = resolved.output if "output" in resolved.model_fields_set else f"runs/{config.stem}"
    _run(resolved, Path(folder), resume=resume, skip=skip or [], only=only or [])


def dpo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of a new run, or of one with SFT")],
    config: SettingsFile = None,
    data: Annotated[str | None, typer.Option("--data", help="preference file; default: the ratings")] = None,
    settings: Settings = None, seed: Seed = None, resume: Resume = False,
) -> None:
    """Train a policy on preference pairs by DPO or one of its relatives, and judge it.

    In a folder that holds a run, its settings are taken, its SFT is the reference, and its PPO is kept.
    """
    from rlhf_lite.pipeline.folder import SETTINGS, has_results, method_with_dpo

    if own := [text for text in settings or () if text.partition("=")[0].strip() == "method"]:
        raise ConfigError([f"command line: got {own[0]}, but dpo sets the method itself; leave it out"])
    there = has_results(output)
    resolved = load_settings(config or (output / SETTINGS if there else None), settings, seed=seed,
                             **{"data.source": data, "method": method_with_dpo(output)})
    _run(resolved, output, resume=resume or there)


def cai(output: Output = None, config: SettingsFile = None, settings: Settings = None, seed: Seed = None,
        resume: Resume = False) -> None:
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
        typer.echo(f"{name}: toxicity {row['toxicity']:.3f}{ends}, VADER {row['vader']:+.2f}, KL "
                   f"{row['kl_nats_per_seq']:.2f} nats per answer")
    typer.echo(f"Report: {folder / 'report.md'}")


def reward(
    data: Annotated[str, typer.Option("--data", help="preference file, datasets folder or Hub id")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the reward model")],
    model: Annotated[str | None, typer.Option("--model", help="folder or Hub id (default: SmolLM2)")] = None,
    on_error: Annotated[Literal["raise", "skip"] | None, typer.Option(help=_ON_ERROR_HELP)] = None,
    settings: Settings = None, resume: Resume = False,
) -> None:
    """Train a reward model on a preference file."""
    options = {"data.source": data, "model.name": model, "data.on_error": on_error}
    config = load_settings(None, settings, **options)
    from rlhf_lite.pipeline import train_reward_file

    with resumable(output):
        numbers = train_reward_file(data, model, output, config, resume=resume)
    show_numbers(numbers, f"Reward model in {output}")


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="phases, seeds and arms, YAML")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for one JSON file per run")],
    arm: Annotated[list[str] | None, typer.Option(help="run only this arm (repeatable)")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="these seeds, not the file's (repeatable)")] = None,
) -> None:
    """Many runs from one file: settings varied, several seeds. Goes on where it was stopped."""
    from rlhf_lite.pipeline.sweep import run_sweep

    files = run_sweep(file, output, arms=arm, seeds=seed)
    typer.echo(f"{len(files)} files in {output}")


def lab(
    algorithm: Annotated[str, typer.Argument(help="ppo, rloo, dpo, best_of_n, ...; a wrong name lists all")],
    world: Annotated[str, typer.Option(help="dense, order, sparse, deceptive, ...")] = "dense",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="draws world, start and every sample")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="a tenth of the steps")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the result")] = None,
) -> None:
    """Train in a world whose best policy is known exactly, and see how near it came."""
    from rlhf_lite.files import write_json
    from rlhf_lite.outputs import require_file
    from rlhf_lite.pipeline.lab.run import run_lab

    if output is not None:
        require_file(output)
    def show(point: Any) -> None:
        # + 0.0 turns a rounded -0.0 into 0.0
        fraction, kl = round(point.fraction, 4) + 0.0, round(point.kl_to_reference, 3) + 0.0
        typer.echo(f"{point.step:6}  {fraction:8.4f}  {point.expected_reward:8.3f}  {kl:8.3f}")

    typer.echo("  step  of best    reward  KL to reference (nats per sequence)")
    try:
        result = run_lab(algorithm, world=world, seed=seed, quick=quick, on_point=show)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(f"{result.algorithm} reached {100 * result.fraction:.1f} % of what is possible above the "
               f"reference, in {result.seconds:.0f} s; it aims at {result.aims_at}")
    if output is not None:
        write_json(output, result.as_json())


def _run(config: PipelineConfig, folder: Path, *, resume: bool, **phases: Sequence[str]) -> None:
    from rlhf_lite.pipeline import run_pipeline

    with resumable(folder):
        metrics = run_pipeline(config, output=folder, resume=resume, command=typed_command(), **phases)
    show_checks(metrics.get("checks") or [])
    if metrics.get("policies"):
        from rlhf_lite.evaluation.report.run import summary_lines

        typer.echo("\n".join(summary_lines(metrics)))
    if (folder / "report.html").exists():
        typer.echo(f"Report: {folder / 'report.html'}")


def _numbered(folder: Path) -> Iterator[Path]:
    """The folder itself, ``folder-2``, ``folder-3``, ..."""
    return (folder if n == 1 else folder.with_name(f"{folder.name}-{n}") for n in count(1))


def _free(folder: Path) -> Path:
    """The first of the numbered folders that holds no run yet."""
    return next(place for place in _numbered(folder) if not (place / "config.yaml").exists())


def _last(folder: Path) -> Path:
    """The last of the numbered folders that was started and not finished, else the last one, or the first."""
    started = [*takewhile(lambda place: (place / "config.yaml").exists(), _numbered(folder))] or [folder]
    return ([place for place in started if not (place / "metrics.json").exists()] or started)[-1]

