"""``rlhf-lite check``: what the readers understand of a preference file, before any training."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from rlhf_lite.cli.options import Settings, load_settings
from rlhf_lite.files import at_home

_MODEL_HELP = "folder, Hub id or smollm2: also count its tokens, and show its chat template"
_SHOWN = 400  # characters of a text
# The forms of rows (data.files.formats) in plain words.
_FORMS = {"explicit": "prompt and answers as text", "implicit": "answers that begin with their prompt",
          "question": "a question and two answers", "conversation": "lists of turns",
          "transcript": "transcripts (Human: ... Assistant: ...)"}


def check(
    data: Annotated[str, typer.Argument(metavar="FILE", help="preference file, datasets folder or Hub id")],
    model: Annotated[str | None, typer.Option("--model", help=_MODEL_HELP)] = None, settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """What a preference file holds: columns, rows, lengths, repetitions, splits. Trains nothing."""
    from rlhf_lite.pipeline import check_file
    from rlhf_lite.pipeline.commands import BUNDLED

    options = {"data.source": data, "model.name": None if model == BUNDLED else model}
    config = load_settings(None, settings, **options)
    named = model or config.model.name
    config = config.on_file(at_home(data), model=None if named == BUNDLED else named)
    found = check_file(config, model=named is not None)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        show(found)


def show(found: dict[str, Any]) -> None:
    """Print what was found as tables, and at the end what deserves a look."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, grid = Console(highlight=False), Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, line in _lines(found):
        grid.add_row(name, Text(line))
    console.print(grid)
    for unit in ("characters", "tokens"):
        if unit in found:
            table = Table(unit.capitalize(), "median", "90 %", "99 %", "longest")
            for name, values in found[unit].items():
                table.add_row(name, *(f"{value:,}" for value in values.values()))
            console.print(table)
    for line in found["warnings"]:
        console.print(Text(f"Warning: {line}", style="yellow"))
    if not found["warnings"]:
        console.print("No warnings.")


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    from rlhf_lite.data.row_counts import rows_line
    from rlhf_lite.pipeline.check import percent

    file, rows, repeats = found["file"], found["rows"], found["repeats"]
    columns = [name if name == role else f"{name} as {role}" for name, role in file["used"].items()]
    forms = ", ".join(f"{n:,} of {_FORMS[form]}" for form, n in file["forms"].items())
    lines = [("File", f"{file['source']}, {file['format']}: {forms}"), ("Columns", ", ".join(columns))]
    if file["unused"]:
        lines.append(("Not used", ", ".join(name or "(no name)" for name in file["unused"])))
    lines += [("Note", note) for note in file["notes"]]
    lines.append(("Rows", f"{rows['read']:,} read, {rows['kept']:,} can be used, {rows['skipped']:,} cannot"))
    lines += [("", f"{reason['rows']:,} x {reason['first']}") for reason in rows["reasons"]]
    if rows["other_reasons"]:
        lines.append(("", f"and {rows['other_reasons']:,} other reasons"))
    lines += [(name.capitalize(), _shortened(text)) for name, text in found["example"].items()]
    lines.append(("Repetitions", f"{repeats['repeated']:,} rows repeat an earlier one, "
                  f"{repeats['both_ways']:,} pairs of texts are there both ways round, {repeats['equal']:,} "
                  "rows have equal texts"))
    for name, what in (("longer", "The longer answer"), ("first_in_alphabet", "The first in the alphabet")):
        cue = found["cues"][name]
        low, high = map(percent, cue["ci95"])
        lines.append((what, f"is chosen in {percent(cue['accuracy'])} of the pairs (95 % interval {low} to "
                      f"{high}); 50 % would be no hint"))
    for use, what in (("run", "Split for a run"), ("reward", "For a reward model")):
        split = found["splits"][use]
        lines.append((what, split.get("summary", "not possible, see the warnings")))
    if "model" in found:
        kind = "chat template" if found["template"] == "chat" else "plain text"
        lines += [(f"As {kind}", _shortened(found["rendered"])),
                  ("Length limit", found["limit"] or f"data.max_tokens={found['max_tokens']}"),
                  ("With it", rows_line(found["fit"]))]
    else:
        lines.append(("Tokens", "name a model to see them, and the length limit of a run: --model smollm2"))
    return lines


def _shortened(text: str) -> str:
    text = text.strip("\n") or "(none)"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} [...] {text[-_SHOWN // 2 :]}"
