"""Blocks to one HTML page: style and figures inside, nothing fetched, no script.

Every string passes through `_plain` on its way into the page.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence

from rlhf_lite.evaluation.report.blocks import (
    Block,
    Bullets,
    Chart,
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
from rlhf_lite.evaluation.report.style import CSS

__all__ = ["render_html"]

FOOTER = "Every number on this page was read from the files of the run folder."

# Control characters are not allowed in HTML; a lone surrogate cannot be written as UTF-8.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_STATE = {True: ("good", "✓ passed"), False: ("bad", "✗ not met"), None: ("", "not measured")}


def _plain(value: str) -> str:
    return html.escape(_FORBIDDEN.sub("\ufffd", value), quote=True)


def _text(spans: Text) -> str:
    tags = {"code": "code", "strong": "strong"}
    parts = []
    for kind, content in spans:
        tag = tags.get(kind)
        parts.append(f"<{tag}>{_plain(content)}</{tag}>" if tag else _plain(content))
    return "".join(parts)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _checks(block: Checks) -> str:
    mood = {True: "good", False: "bad", None: ""}[block.passed]
    titles = ("Check", "Target", "Measured", "Result")
    head = "".join(f'<th scope="col" role="columnheader">{title}</th>' for title in titles)
    rows = []
    for name, target, value, passed in block.rows:
        style, words = _STATE[passed]
        rows.append(
            f'<tr role="row"><th scope="row" role="rowheader">{_plain(name)}</th>'
            f'<td role="cell">{_plain(target)}</td><td role="cell">{_plain(value)}</td>'
            f'<td role="cell" class="state {style}">{words}</td></tr>'
        )
    table = (
        f'<table role="table"><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(rows)}</tbody></table>'
        if rows
        else ""
    )
    return f'<div class="verdict {mood}"><p>{_text(block.verdict)}</p>{table}</div>'


def _policy_table(block: PolicyTable) -> str:
    # The roles keep it a table for screen readers where the phone layout lays the rows out as a grid.
    head = "".join(f'<th scope="col" role="columnheader">{_plain(name)}</th>' for name in block.policies)
    rows = []
    for measure in block.measures:
        cells = "".join(
            f'<td role="cell"><span class="value">{_plain(value)}</span>'
            + (f'<span class="ci">{_plain(ends)}</span>' if ends else "")
            + "</td>"
            for value, ends in measure.cells
        )
        unit = f'<span class="unit">{_plain(measure.unit)}</span>' if measure.unit else ""
        rows.append(
            f'<tr role="row"><th scope="row" role="rowheader">{_plain(measure.name)} {unit}</th>{cells}'
            f'<td class="meaning" role="cell">{_plain(measure.meaning)}</td></tr>'
        )
    return (
        f'<table class="numbers" role="table" style="--policies:{max(1, len(block.policies))}">'
        '<thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader">Measure</th>'
        f'{head}<th scope="col" role="columnheader">What it says</th></tr></thead>'
        f'<tbody role="rowgroup">{"".join(rows)}</tbody></table>'
    )


def _data_uri(svg: str) -> str:
    # As an image, not inline: identifiers inside one drawing cannot clash with those of another.
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii")


def _chart(chart: Chart) -> str:
    image = f'<img src="{_data_uri(chart.svg)}" alt="{_plain(chart.alt)}">'
    if chart.narrow_svg:
        narrow = _data_uri(chart.narrow_svg)
        image = f'<picture><source media="(max-width: 46rem)" srcset="{narrow}">{image}</picture>'
    caption = f"<figcaption>{_plain(chart.caption)}</figcaption>" if chart.caption else ""
    return f"<figure>{image}{caption}</figure>"


def _sample(sample: Sample) -> str:
    answers = []
    for policy, continuation, scores in sample.answers:
        listed = "".join(
            f"<div><dt>{_plain(score.label)}</dt><dd>{_plain(score.value)}</dd></div>" for score in scores
        )
        answers.append(
            f'<div class="answer"><h4>{_plain(policy)}</h4>'
            f"<blockquote><b>{_plain(sample.prompt)}</b>{_plain(continuation)}</blockquote>"
            f'<dl class="scores">{listed}</dl></div>'
        )
    label = f"<p>{_plain(sample.label)}</p>"
    return f'<article class="sample">{label}<div class="answers">{"".join(answers)}</div></article>'


def _code(block: Code) -> str:
    listing = f"<pre><code>{_plain(block.content.rstrip())}</code></pre>"
    if not block.summary:
        return listing
    return f"<details><summary>{_plain(block.summary)}</summary>{listing}</details>"


def _block(block: Block) -> str:
    match block:
        case Heading(title, level):
            return f'<h{level} id="{_anchor(title)}">{_plain(title)}</h{level}>'
        case Paragraph(content, lead):
            return f'<p class="lead">{_text(content)}</p>' if lead else f"<p>{_text(content)}</p>"
        case Note(content):
            return f'<p class="note">{_text(content)}</p>'
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>"
        case Facts(items):
            pairs = "".join(f"<dt>{_plain(name)}</dt><dd>{_text(value)}</dd>" for name, value in items)
            return f'<dl class="facts">{pairs}</dl>'
        case Checks():
            return _checks(block)
        case PolicyTable():
            return _policy_table(block)
        case Charts(items, wide):
            style = "charts wide" if wide else "charts"
            across = min(3, max(1, len(items)))
            inside = "".join(_chart(item) for item in items)
            return f'<div class="{style}" style="--across:{across}">{inside}</div>'
        case Samples(items):
            return "".join(_sample(item) for item in items)
        case Code():
            return _code(block)
    raise TypeError(f"no HTML for a block of type {type(block).__name__}")


def render_html(title: str, subtitle: str, blocks: Sequence[Block], *, footer: str = FOOTER) -> str:
    """The whole page as text; ``title`` also names the browser tab."""
    links = "".join(
        f'<a href="#{_anchor(block.title)}">{_plain(block.title)}</a>'
        for block in blocks
        if isinstance(block, Heading) and block.level == 2
    )
    body = "\n".join(_block(block) for block in blocks)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{_plain(title)}: {_plain(subtitle)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
<header>
<h1>{_plain(title)}</h1>
<p>{_plain(subtitle)}</p>
<nav aria-label="Sections">{links}</nav>
</header>
{body}
<footer>{_plain(footer)}</footer>
</main>
</body>
</html>
"""
