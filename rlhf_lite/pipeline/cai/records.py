"""Chains of revisions and judged answers as JSON lines, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlhf_lite.constitutional import Chain, RevisionStep
from rlhf_lite.errors import DataError
from rlhf_lite.files import write_json_lines


def write_chains(path: Path, chains: Sequence[Chain]) -> None:
    """The chains as JSON lines: everything that was asked, answered, kept and thrown away."""
    write_json_lines(path, map(asdict, chains))


def read_chains(path: Path) -> list[Chain]:
    """The chains of a file, or of a run's folder (``revise/chains.jsonl``).

    Raises:
        DataError: if a line is no chain; it names the line.
    """
    path = Path(path)
    path = path / "revise" / "chains.jsonl" if path.is_dir() else path
    chains = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            steps = tuple(RevisionStep(**step) for step in row.pop("steps"))
            chains.append(Chain(steps=steps, **row))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problem = f"is not a chain of revisions ({type(error).__name__}: {error})"
            fix = "make the file anew with rlhf-lite cai"
            raise DataError(problem, file=str(path), row=number, fix=fix) from error
    return chains
