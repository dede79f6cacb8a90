"""The command ``rlhf-lite``.

Nothing heavy is imported before a command needs it: ``rlhf-lite --help`` stays under a second.
Errors that a user can mend are printed as one message; ``--debug`` shows where they came from.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from rlhf_lite.cli import machine, train, use
from rlhf_lite.cli.check import check
from rlhf_lite.cli.printing import red
from rlhf_lite.errors import RlhfLiteError
from rlhf_lite.files import at_home

app = typer.Typer(
    name="rlhf-lite",
    help="Reinforcement learning from human feedback on a laptop. Start with: rlhf-lite quickstart",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


# What to do when the system refuses.
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ". Make room there, or write to another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), ". Name a place that is open to this user"),
    errno.ENAMETOOLONG: ". Give a shorter name",
    errno.EMFILE: ". Close other programs, or raise the limit with: ulimit -n 4096",
}


def _at_home(command: Callable[..., None]) -> Callable[..., None]:
    """The command with ``~`` as the home folder in every argument and option that is a path."""

    @wraps(command)
    def call(**given: Any) -> None:
        command(**{name: Path(at_home(value)) if isinstance(value, Path) else value
                   for name, value in given.items()})

    return call


# In the order of --help; a command's name is its function's, but for `eval`, which Python has taken.
for _command in (train.quickstart, train.pipeline, train.dpo, train.sweep, check, train.reward,
                 use.score, use.generate, use.compare, train.cai, train.lab, machine.doctor, machine.assets):
    app.command("eval" if _command is use.compare else None)(_at_home(_command))


def main() -> None:
    """Entry point of the command: runs it and ends the process with its exit code.

    Exit codes: 0 done; 1 a phase, an asset or the machine failed; 2 the command line, the settings
    or the data are wrong; 130 stopped by Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):  # a text may hold what the terminal's encoding lacks
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # People add --debug where the cursor is, at the end.
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if unread := [text for text in arguments if any("\ud800" <= char <= "\udfff" for char in text)]:
        red(f"Error: command line: {unread[0]!r} has letters that are not in this system's encoding "
            f"({sys.getfilesystemencoding()}): put PYTHONUTF8=1 in front of the command, or use ASCII")
        raise SystemExit(2)
    try:
        app(args=arguments, prog_name="rlhf-lite")
    except RlhfLiteError as error:
        if debug:
            raise
        red(f"Error: {error}")
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if debug:
            raise
        advice = _ADVICE.get(error.errno, "")
        red(f"Error: {error}{advice}")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
