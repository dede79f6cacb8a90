"""The parts a report is made of, before it becomes HTML or Markdown.

Text is a tuple of spans. `text` builds one from a template in which only the template may
hold markup (`` `code` `` and ``**strong**``); the values put into it are always plain, so
that a file name or a model's words can never become markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "Block",
    "Bullets",
    "Chart",
    "Charts",
    "Checks",
    "Code",
    "Facts",
    "Heading",
    "Measure",
    "Note",
    "Paragraph",
    "PolicyTable",
    "Sample",
    "Samples",
    "Score",
    "Span",
    "Text",
    "text",
]

_MARKUP = re.compile(r"(`[^`]+`|\*\*[^*]+\*\*)")


class Span(NamedTuple):
    """A run of text; ``kind`` is "plain", "code" or "strong"."""

    kind: str
    text: str


Text = tuple[Span, ...]


def text(template: str, **values: object) -> Text:
    """Spans of ``template``, each filled with ``values`` by `str.format` after the markup is found."""
    spans = []
    for part in _MARKUP.split(template):
        if part.startswith("`"):
            spans.append(Span("code", part[1:-1].format(**values)))
        elif part.startswith("**"):
            spans.append(Span("strong", part[2:-2].format(**values)))
        elif part:
            spans.append(Span("plain", part.format(**values)))
    return tuple(spans)


@dataclass(frozen=True)
class Heading:
    """A section (level 2) or a part of one (level 3)."""

    title: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Running text; ``lead`` marks the one sentence to read first."""

    content: Text
    lead: bool = False


@dataclass(frozen=True)
class Note:
    """Something that is missing or limits what the report can say."""

    content: Text


@dataclass(frozen=True)
class Bullets:
    """A plain list."""

    items: Sequence[Text]


@dataclass(frozen=True)
class Facts:
    """Name and value pairs, such as the head of the report."""

    items: Sequence[tuple[str, Text]]


@dataclass(frozen=True)
class Checks:
    """The verdict line and one row per check: name, target, value, passed (None: not measured)."""

    verdict: Text
    passed: bool | None
    rows: Sequence[tuple[str, str, str, bool | None]]


@dataclass(frozen=True)
class Measure:
    """One row of the results table; ``cells`` hold ``(value, interval)`` per policy."""

    name: str
    unit: str
    cells: Sequence[tuple[str, str]]
    meaning: str


@dataclass(frozen=True)
class PolicyTable:
    """Measures as rows, policies as columns."""

    policies: Sequence[str]
    measures: Sequence[Measure]


@dataclass(frozen=True)
class Chart:
    """A drawn figure: SVG for the page, PNG for the file, and a sentence that says what it shows."""

    name: str
    svg: str
    png: bytes
    alt: str
    caption: str = ""
    narrow_svg: str = ""  # another drawing of the same, for a phone


@dataclass(frozen=True)
class Charts:
    """Small charts side by side; one alone may be ``wide``."""

    items: Sequence[Chart]
    wide: bool = False


@dataclass(frozen=True)
class Score:
    """A labelled number under a sample."""

    label: str
    value: str


@dataclass(frozen=True)
class Sample:
    """One prompt with the continuation of each policy: ``(policy, continuation, scores)``."""

    label: str
    prompt: str
    answers: Sequence[tuple[str, str, Sequence[Score]]]


@dataclass(frozen=True)
class Samples:
    """Samples in reading order."""

    items: Sequence[Sample]


@dataclass(frozen=True)
class Code:
    """A listing; ``summary`` folds it away where the medium can."""

    content: str
    language: str = "text"
    summary: str = ""


Block = Heading | Paragraph | Note | Bullets | Facts | Checks | PolicyTable | Charts | Samples | Code
