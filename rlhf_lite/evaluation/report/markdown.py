"""Blocks to Markdown (GitHub's dialect); figures become PNG files beside it.

Text from the run is escaped for Markdown and for HTML, since Markdown lets HTML through.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from rlhf_lite.evaluation.report.blocks import (
    Block,
    Bullets,
    Charts,
    Checks,
    Code,
    Facts,
    Heading,
    Note,
    Paragraph,
    PolicyTable,
    Sample,
    Samples,
    Text,
)

__all__ = ["render_markdown"]

FOOTER = "Every number above was read from the files of the run folder."

_SPECIAL = re.compile(r"([\\`*_{}\[\]#+|~$!])")
_LIST_OR_RULE = re.compile(r"^(\s*)([-=]|\d+(?=[.)](?:\s|$)))", re.MULTILINE)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_STATE = {True: "✓ passed", False: "✗ not met", None: "not measured"}


def _plain(value: str) -> str:
    """One line of text that Markdown and HTML leave alone."""
    escaped = _SPECIAL.sub(r"\\\1", html.escape(_CONTROL.sub("\ufffd", value), quote=False))
    # "&#..." never comes out of html.escape with quote=False, so escaping "#" is safe.
    return _LIST_OR_RULE.sub(_break_list, escaped)


def _break_list(found: re.Match[str]) -> str:
    # A dash gets its backslash in front, a number before the dot that follows it.
    mark = found[2]
    return found[1] + (mark + "\\" if mark.isdigit() else "\\" + mark)


def _line(value: str) -> str:
    return _plain(value).replace("\n", "<br>")


def _code_span(value: str) -> str:
    # A fence longer than any run of backticks inside keeps the span closed.
    longest = max((len(run) for run in re.findall("`+", value)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{_CONTROL.sub(chr(0xFFFD), value).replace(chr(10), ' ')}{pad}{fence}"


def _text(spans: Text) -> str:
    parts = []
    for kind, content in spans:
        if kind == "code":
            parts.append(_code_span(content))
        elif kind == "strong":
            parts.append(f"**{_plain(content)}**")
        else:
            parts.append(_plain(content))
    return "".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _checks(block: Checks) -> str:
    verdict = f"> **{_text(block.verdict)}**"
    if not block.rows:
        return verdict
    rows = [[_line(name), _line(target), _line(value), _STATE[ok]] for name, target, value, ok in block.rows]
    return verdict + "\n\n" + _table(["Check", "Target", "Measured", "Result"], rows)


def _policy_table(block: PolicyTable) -> str:
    rows = []
    for measure in block.measures:
        name = f"**{_line(measure.name)}**" + (f"<br>{_line(measure.unit)}" if measure.unit else "")
        cells = [_line(value) + (f"<br>({_line(ends)})" if ends else "") for value, ends in measure.cells]
        rows.append([name, *cells, _line(measure.meaning)])
    return _table(["Measure", *(_line(name) for name in block.policies), "What it says"], rows)


def _charts(block: Charts, folder: str) -> str:
    # Markdown's own image has no width, and small charts belong side by side.
    width = "100%" if block.wide else "420"
    images = [
        f'<img src="{folder}/{chart.name}.png" width="{width}" alt="{html.escape(chart.alt)}">'
        for chart in block.items
    ]
    captions = [f"*{_plain(chart.caption)}*" for chart in block.items if chart.caption]
    return "\n\n".join(["\n".join(images), *captions])


def _sample(sample: Sample) -> str:
    labels: list[str] = []
    for _, _, scores in sample.answers:
        labels += [score.label for score in scores if score.label not in labels]
    rows = []
    for policy, continuation, scores in sample.answers:
        values = {score.label: score.value for score in scores}
        shown = f"<b>{_line(sample.prompt)}</b>{_line(continuation)}"
        rows.append([_line(policy), shown, *(_line(values.get(label, "–")) for label in labels)])
    return f"{_plain(sample.label)}\n\n" + _table(["Policy", "Text", *map(_line, labels)], rows)


def _code(block: Code) -> str:
    longest = max((len(run) for run in re.findall("`+", block.content)), default=0)
    fence = "`" * max(3, longest + 1)
    listing = f"{fence}{block.language}\n{block.content.rstrip()}\n{fence}"
    if not block.summary:
        return listing
    # Inside an HTML block Markdown is not read, so a backslash would show.
    return f"<details>\n<summary>{html.escape(block.summary)}</summary>\n\n{listing}\n\n</details>"


def _block(block: Block, folder: str) -> str:
    match block:
        case Heading(title, level):
            return "#" * level + " " + _plain(title)
        case Paragraph(content, lead):
            return f"**{_text(content)}**" if lead else _text(content)
        case Note(content):
            return f"> {_text(content)}"
        case Bullets(items):
            return "\n".join(f"- {_text(item)}" for item in items)
        case Facts(items):
            return "\n".join(f"- **{_plain(name)}:** {_text(value)}" for name, value in items)
        case Checks():
            return _checks(block)
        case PolicyTable():
            return _policy_table(block)
        case Charts():
            return _charts(block, folder)
        case Samples(items):
            return "\n\n".join(_sample(item) for item in items)
        case Code():
            return _code(block)
    raise TypeError(f"no Markdown for a block of type {type(block).__name__}")


def render_markdown(
    title: str, subtitle: str, blocks: Sequence[Block], *, figures: str = "figures", footer: str = FOOTER
) -> str:
    """The whole document; pictures are referred to as ``<figures>/<name>.png``."""
    parts = [f"# {_plain(title)}", _plain(subtitle), *(_block(block, figures) for block in blocks)]
    parts.append(f"*{_plain(footer)}*")
    return "\n\n".join(part for part in parts if part) + "\n"
