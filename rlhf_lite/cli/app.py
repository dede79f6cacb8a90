"""The command ``rlhf-lite``.

Nothing heavy is imported before a command needs it: ``rlhf-lite --help`` stays under a second.
Errors that a user can mend are printed as one message; ``--debug`` shows where they came from.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from rlhf_lite.errors import ConfigError, RlhfLiteError

if TYPE_CHECKING:
    from rlhf_lite.config import PipelineConfig

app = typer.Typer(
    name="rlhf-lite",
    help="Reinforcement learning from human feedback on a laptop. Start with: rlhf-lite quickstart",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# Options of several commands.
_SETTINGS_HELP = "such as sft.steps=5; a run's config.yaml lists all"
Settings = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=_SETTINGS_HELP)]
SettingsFile = Annotated[Path | None, typer.Option("--config", "-c", help="settings, YAML")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="folder of the run")]
Seed = Annotated[int | None, typer.Option("--seed", help="seeds everything random (same as seed=N)")]
SampleSeed = Annotated[int, typer.Option("--seed", min=0, help="same seed, same texts")]
Resume = Annotated[bool, typer.Option("--resume", help="continue a killed run where it stopped")]
OnError = Annotated[Literal["raise", "skip"], typer.Option(help="stop at a broken row, or skip and list it")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="length limit, tokens")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 = always the likeliest token")]

Phase = StrEnum("Phase", "sft reward ppo dpo evaluation")  # typer takes no list of Literal
Method = Literal["ppo", "dpo", "both"]
ConfigT = TypeVar("ConfigT")

MODEL_HELP = "a run, RUN/PHASE, a folder, a Hub id, smollm2; or NAME=MODEL"
BASELINE_HELP = "NAME that win rates are against (default: the first)"
REFERENCE_HELP = "NAME or MODEL that KL is from (default: the first one's base model)"
REWARD_HELP = "run or reward model whose scores are shown too"
JUDGE_HELP = "who decides win rates: gold, vader or reward (default: gold)"
TIE_HELP = "smaller differences are ties, judge's unit"
TOXICITY_HELP = "profanity-check (default), detoxify, or MODEL#LABEL"


@app.callback(invoke_without_command=True)
def _global(
    version: Annotated[bool, typer.Option("--version", help="show the version and exit")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    """Options before the command; ``--debug`` itself is read in ``main``, which also sees errors."""
    if version:
        from rlhf_lite import __version__

        typer.echo(f"rlhf-lite {__version__}")
        raise typer.Exit


@app.command()
def quickstart(
    settings: Settings = None, output: Output = None, seed: Seed = None,
    method: Annotated[Method | None, typer.Option(help="how the policy learns (same as method=...)")] = None,
    resume: Resume = False,
) -> None:
    """The whole path on real human ratings, in about five minutes."""
    config = _load(None, settings, output=output, seed=seed, method=method)
    folder = Path(config.output)
    if not resume and "output" not in config.model_fields_set:
        folder = _free(folder)
    _run(config, folder, resume=resume)


@app.command()
def pipeline(
    config: Annotated[Path, typer.Option("--config", "-c", help="settings, YAML")], settings: Settings = None,
    output: Output = None, seed: Seed = None, resume: Resume = False,
    skip: Annotated[list[Phase] | None, typer.Option(help="leave this phase out (repeatable)")] = None,
    only: Annotated[list[Phase] | None, typer.Option(help="run only this phase (repeatable)")] = None,
) -> None:
    """The same machinery at any size, from a settings file."""
    if skip and only:
        raise ConfigError(["command line: got --skip and --only; give one of them"])
    resolved = _load(config, settings, output=output, seed=seed)
    # Two settings files without an output must not write into the same folder.
    folder = resolved.output if "output" in resolved.model_fields_set else f"runs/{config.stem}"
    _run(resolved, Path(folder), resume=resume, skip=skip or [], only=only or [])


@app.command()
def dpo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of a new run, or of one with SFT")],
    config: SettingsFile = None,
    data: Annotated[str | None, typer.Option("--data", help="preference file; default: the ratings")] = None,
    settings: Settings = None, seed: Seed = None,
) -> None:
    """Train a policy on preference pairs by DPO or one of its relatives, and judge it.

    In a folder that holds a run, its settings are taken, its SFT is the reference, and its PPO is kept.
    """
    from rlhf_lite.pipeline.run import method_with_dpo

    saved = output / "config.yaml"
    given = [*(settings or ()), f"method={method_with_dpo(saved)}"]
    given += [] if data is None else [f"data.source={data}"]
    resolved = _load(config or (saved if saved.exists() else None), given, seed=seed)
    _run(resolved, output, resume=saved.exists())


@app.command()
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


@app.command()
def reward(
    data: Annotated[str, typer.Option("--data", help="preference file, datasets folder or Hub id")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the reward model")],
    model: Annotated[str | None, typer.Option("--model", help="folder or Hub id (default: SmolLM2)")] = None,
    on_error: OnError = "raise", settings: Settings = None,
) -> None:
    """Train a reward model on a preference file."""
    config = _load(None, [f"data.on_error={on_error}", *(settings or ())])
    from rlhf_lite.pipeline import train_reward_file

    _show_numbers(train_reward_file(data, model, output, config), f"Reward model in {output}")


@app.command()
def score(
    model_dir: Annotated[Path, typer.Argument(metavar="DIR", help="a reward model made by this program")],
    data: Annotated[str, typer.Argument(metavar="FILE", help="preference file")], on_error: OnError = "raise",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="scores of each row, JSONL")] = None,
) -> None:
    """Accuracy and scores of a reward model on a preference file."""
    from rlhf_lite.pipeline import score_file

    numbers = score_file(model_dir, data, on_error=on_error, output=output)
    _show_numbers(numbers, f"{model_dir} on {data}")
    if output is not None:
        typer.echo(f"Scores of each row: {output}")


@app.command()
def generate(
    model_dir: Annotated[str, typer.Argument(metavar="DIR", help="a run, a model or an adapter")],
    prompt: Annotated[str, typer.Argument(metavar="TEXT", help="opening words")],
    samples: Annotated[int, typer.Option("-n", "--samples", min=1, help="how many continuations")] = 1,
    max_new_tokens: MaxNewTokens = 40, temperature: Temperature = 1.0, seed: SampleSeed = 0,
) -> None:
    """Continue some opening words with a trained policy."""
    from rlhf_lite.pipeline import generate_text

    texts = generate_text(model_dir, prompt, max_new_tokens=max_new_tokens, temperature=temperature,
                          samples=samples, seed=seed)
    for text in texts:
        typer.echo(text)


@app.command("eval")
def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL_HELP)],
    prompts: Annotated[str, typer.Option(help="text file, .jsonl file, or reviews (unseen openings)")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the report")],
    limit: Annotated[int | None, typer.Option(min=1, help="at most this many prompts, spread evenly")] = None,
    baseline: Annotated[str | None, typer.Option(help=BASELINE_HELP)] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE_HELP)] = None,
    reward: Annotated[Path | None, typer.Option(help=REWARD_HELP)] = None,
    gold: Annotated[bool, typer.Option(help="judge by a model of human ratings (reviews only)")] = True,
    judge: Annotated[str | None, typer.Option(help=JUDGE_HELP)] = None,
    tie_margin: Annotated[float, typer.Option(min=0.0, help=TIE_HELP)] = 0.0,
    toxicity: Annotated[str | None, typer.Option(help=TOXICITY_HELP)] = None,
    chat: Annotated[bool, typer.Option(help="put prompts into the chat template")] = False,
    n_samples: Annotated[int, typer.Option("--n-samples", "-n", min=1, help="texts per prompt")] = 1,
    max_new_tokens: MaxNewTokens = 40, temperature: Temperature = 1.0, seed: SampleSeed = 0,
    on_error: OnError = "raise",
) -> None:
    """Compare policies on the same prompts and seeds; writes a report with tables, plots and samples."""
    from rlhf_lite.pipeline.compare import evaluate_models

    metrics = evaluate_models(models, prompts, output, limit=limit, on_error=on_error, baseline=baseline,
                              reference=reference, reward=reward, with_gold=gold, judge=judge,
                              tie_margin=tie_margin, toxicity=toxicity, chat=chat, n_samples=n_samples,
                              max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
                              command=typed_command())
    from rlhf_lite.evaluation.report.comparison import summary

    for line in summary(metrics):
        typer.echo(line)
    typer.echo(f"Report: {output / 'report.html'}")


@app.command()
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


@app.command()
def lab(
    algorithm: Annotated[str, typer.Argument(help="ppo, rloo, dpo, best_of_n, ...; a wrong name lists all")],
    world: Annotated[str, typer.Option(help="dense, order, sparse, deceptive, ...")] = "dense",
    seed: Annotated[int, typer.Option(min=0, help="draws the world, the start and every sample")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="a tenth of the steps")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the result")] = None,
) -> None:
    """Train in a world whose best policy is known exactly, and see how near it came."""
    from rlhf_lite.files import write_json
    from rlhf_lite.pipeline.lab.run import run_lab

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


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False) -> None:
    """What this machine has, what is missing, and how to get it."""
    from rlhf_lite.cli import doctor as checks

    report = checks.examine()
    typer.echo(json.dumps(report, indent=2)) if as_json else checks.show(report)
    if not report["ok"]:
        raise typer.Exit(1)


@app.command()
def assets() -> None:
    """Fetch the model and the human ratings; later runs need no network."""
    from rlhf_lite.data.assets.ensure import ensure_model, ensure_ratings

    for ensure in (ensure_ratings, ensure_model):
        typer.echo(str(ensure()))


def settings_from(load: Callable[[Path | None, Sequence[str]], ConfigT], path: Path | None,
                  overrides: Sequence[str] | None, **options: Path | str | int | None) -> ConfigT:
    """Settings with options such as --seed as overrides; giving one twice is an error, not a guess."""
    given = list(overrides or ())
    for key, value in options.items():
        if value is None:
            continue
        twice = [text for text in given if text.partition("=")[0].strip() == key]
        if twice:
            raise ConfigError([f"command line: got --{key} {value} and {twice[0]}; give one of them"])
        given.append(f"{key}={value}")
    return load(path, given)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Within it, Ctrl-C says how to go on and ends with exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        red(f"Stopped. What was completed is in {folder}; the same command with --resume continues it.")
        raise typer.Exit(130) from None


def typed_command() -> str:
    """What the user typed, for metrics.json; the program's own path does not matter."""
    return shlex.join(["rlhf-lite", *sys.argv[1:]])


def red(message: str) -> None:
    """Print on standard error, in one line, nothing of it read as markup."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(message, style="bold red", markup=False, highlight=False)


def _load(path: Path | None, overrides: Sequence[str] | None, **options: Any) -> PipelineConfig:
    from rlhf_lite.config import load_config

    return settings_from(load_config, path, overrides, **options)


def _run(config: PipelineConfig, folder: Path, *, resume: bool, **phases: Sequence[str]) -> None:
    from rlhf_lite.pipeline import run_pipeline

    with resumable(folder):
        metrics = run_pipeline(config, output=folder, resume=resume, command=typed_command(), **phases)
    _show_checks(metrics.get("checks") or [])
    if metrics.get("policies"):
        from rlhf_lite.evaluation.report.run import summary_lines

        typer.echo("\n".join(summary_lines(metrics)))
    if (folder / "report.html").exists():
        typer.echo(f"Report: {folder / 'report.html'}")


def _free(folder: Path) -> Path:
    """The folder itself, or ``folder-2``, ``folder-3``, ...: the first that holds no run yet."""
    candidates = (folder if n == 1 else folder.with_name(f"{folder.name}-{n}") for n in count(1))
    return next(place for place in candidates if not (place / "config.yaml").exists())


def _show_checks(checks: Sequence[dict[str, Any]]) -> None:
    if not checks:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("Check", "Target", "Value", "")
    for check in checks:
        verdict = "[green]met" if check.get("passed") else "[red]not met"
        table.add_row(*(_text(check.get(key)) for key in ("name", "target", "value")), verdict)
    Console().print(table)


def _show_numbers(numbers: dict[str, Any], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False)
    for name, value in numbers.items():
        if isinstance(value, (str, int, float)) or (isinstance(value, list) and len(value) <= 2):
            table.add_row(name, _text(value))
    Console().print(table)


def _text(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, list):
        return " to ".join(map(_text, value))
    return "missing" if value is None else escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def main() -> None:
    """Entry point of the command: runs it and ends the process with its exit code.

    Exit codes: 0 done; 1 a phase, an asset or the machine failed; 2 the command line, the settings
    or the data are wrong; 130 stopped by Ctrl-C.
    """
    # People add --debug where the cursor is, at the end.
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments, prog_name="rlhf-lite")
    except RlhfLiteError as error:
        if debug:
            raise
        red(f"Error: {error}")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
