"""What the commands print: tables, and messages on standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def red(message: str) -> None:
    """Print on standard error, in one line, nothing of it read as markup."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(message, style="bold red", markup=False, highlight=False)


def show_checks(checks: Sequence[dict[str, Any]]) -> None:
    """Print the bar that a run is held against."""
    if not checks:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("Check", "Target", "Value", "")
    for check in checks:
        verdict = "[green]met" if check.get("passed") else "[red]not met"
        table.add_row(*(_text(check.get(key)) for key in ("name", "target", "value")), verdict)
    Console().print(table)


def show_numbers(numbers: dict[str, Any], title: str) -> None:
    """Print the numbers, texts and intervals of a result."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=_text(title), show_header=False)
    for name, value in numbers.items():
        if isinstance(value, (str, int, float)) or (isinstance(value, list) and len(value) <= 2):
            table.add_row(name, _text(value))
    Console().print(table)


def _text(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, list):
        return " to ".join(map(_text, value))
    return "missing" if value is None else escape(f"{value:.4g}" if isinstance(value, float) else str(value))
