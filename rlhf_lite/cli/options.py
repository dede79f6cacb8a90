"""Options that several commands have, and the settings they make."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from rlhf_lite.cli.printing import red
from rlhf_lite.errors import ConfigError

if TYPE_CHECKING:
    from rlhf_lite.config import PipelineConfig

_SETTINGS_HELP = "such as sft.steps=5; a run's config.yaml lists all"
Settings = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=_SETTINGS_HELP)]
SettingsFile = Annotated[Path | None, typer.Option("--config", "-c", help="settings, YAML")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="folder of the run")]
Seed = Annotated[int | None, typer.Option("--seed", help="seeds everything random (same as seed=N)")]
SampleSeed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="same seed, same texts")]
Resume = Annotated[bool, typer.Option("--resume", help="continue a killed run where it stopped")]
OnError = Annotated[Literal["raise", "skip"], typer.Option(help="stop at a broken row, or skip and list it")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="length limit, tokens")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 = always the likeliest token")]
Precision = Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="of the weights; auto = bf16 if the "
                                                                    "processor has it")]

ConfigT = TypeVar("ConfigT")
_TYPED = {"data.source": "the file", "model.name": "--model", "data.on_error": "--on-error"}


def settings_from(load: Callable[[Path | None, Sequence[str]], ConfigT], path: Path | None,
                  overrides: Sequence[str] | None, **options: Path | str | int | None) -> ConfigT:
    """Settings with options such as --seed as overrides; giving one twice is an error, not a guess."""
    given = list(overrides or ())
    for key, value in options.items():
        if value is None:
            continue
        twice = [text for text in given if text.partition("=")[0].strip() == key]
        if twice:
            raise ConfigError([f"command line: got {_TYPED.get(key, f'--{key}')} {value} and {twice[0]}; "
                               "give one of them"])
        given.append(f"{key}={value}")
    return load(path, given)


def load_settings(path: Path | None, overrides: Sequence[str] | None, **options: Any) -> PipelineConfig:
    """Settings of a run from a file, ``key=value`` arguments and options."""
    from rlhf_lite.config import load_config

    return settings_from(load_config, path, overrides, **options)


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
