"""Numbers of JSON files to text, and templates to HTML, Markdown and plain text.

The body of a report (``run.j2``, ``comparison.j2``, ``constitutional.j2``) is written once, for every format:
it is made of parts such as ``r.section`` or ``r.table``, which ``parts.html.j2`` and ``parts.md.j2`` define.
Whatever a template prints is escaped for its format, so that a file name or a model's words can never become
markup; only the templates themselves hold any.

Every reader of numbers answers ``None`` for a value that is absent, null, NaN or of the wrong type. A report
says that such a value is missing; it never fills it in.
"""

from __future__ import annotations

import base64
import functools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
from markupsafe import Markup

Measure = tuple[str, str, str, str, int | None, str]

MISSING = "–"
TEMPLATES = Path(__file__).with_name("templates")
# Control characters are not allowed in HTML; a lone surrogate cannot be written as UTF-8.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_SPECIAL = re.compile(r"([\\`*_{}\[\]#+|~$!])")
_LIST_OR_RULE = re.compile(r"^(\s*)(?:([-=])|(\d+)(?=[.)](?:\s|$)))", re.MULTILINE)


def get_path(tree: Any, *path: str) -> Any:
    """Walk nested mappings; None as soon as a key is absent."""
    for key in path:
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree


def numeric(value: Any) -> float | None:
    """``value`` as a float if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(value: Any) -> tuple[float, float] | None:
    """``[low, high]`` as a pair of finite numbers, else None."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = numeric(value[0]), numeric(value[1])
    return None if low is None or high is None else (low, high)


def number(value: Any, digits: int = 2, *, sign: bool = False) -> str:
    """``value`` with ``digits`` decimals and a true minus sign; a dash where there is no number."""
    finite = numeric(value)
    if finite is None:
        return MISSING
    text = f"{finite:{'+' if sign else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:  # no "-0.00"
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def integer(value: Any) -> str:
    """A count with thousands separators; a dash where there is no number."""
    return number(value, 0)


def interval_text(value: Any, digits: int = 2, *, sign: bool = False) -> str:
    """``"0.50 to 0.72"``, or an empty string where there is no interval."""
    ends = interval(value)
    return "" if ends is None else " to ".join(number(end, digits, sign=sign) for end in ends)


def ratio(nats: float) -> str:
    """exp(nats) with the two digits that mean something: 545 becomes 550; large ones as a power of ten."""
    value = math.exp(min(nats, 700.0))
    if value >= 1e6:
        return f"10 to the power {math.log10(value):.0f}"
    return f"{float(f'{value:.2g}'):,g}"


def _clean(value: object) -> str:
    return _FORBIDDEN.sub("\ufffd", re.sub("\r\n?", "\n", str(value)))


def escape_html(value: object) -> Markup:
    """``value`` as text of a page or of an attribute; what is `Markup` already stays."""
    if isinstance(value, Markup):
        return value
    return markupsafe.escape(_clean(value))


def escape_markdown(value: object) -> Markup:
    """``value`` as text that Markdown leaves alone, and HTML too, since Markdown lets HTML through."""
    if isinstance(value, Markup):
        return value
    text = _clean(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A dash gets its backslash in front, a number before the dot that follows it.
    return Markup(_LIST_OR_RULE.sub(_no_list, _SPECIAL.sub(r"\\\1", text)))


def _no_list(start: re.Match[str]) -> str:
    return f"{start[1]}\\{start[2]}" if start[2] else f"{start[1]}{start[3]}\\"


def _one_line(markup: str) -> Markup:
    return Markup(" ".join(markup.split()))


def _compact(markup: str) -> Markup:
    """Without empty lines, which would end a table or a list."""
    return Markup("\n".join(line for line in markup.split("\n") if line.strip()))


def _cell(value: object) -> Markup:
    """A cell of a Markdown table: one line, whatever it holds."""
    return Markup(str(escape_markdown(value)).replace("\n", "<br>"))


def _fence(text: str, shortest: int = 0) -> str:
    """Backticks that close what no run of backticks inside ``text`` can close."""
    return "`" * max(shortest, 1 + max((len(run) for run in re.findall("`+", text)), default=0))


def _code_span(value: object) -> Markup:
    text = _clean(value).replace("\n", " ")
    fence, pad = _fence(text), " " if "`" in text else ""
    return Markup(f"{fence}{pad}{text}{pad}{fence}")


def _code_block(value: object, language: str) -> Markup:
    text = str(value).rstrip()
    fence = _fence(text, shortest=3)
    return Markup(f"{fence}{language}\n{text}\n{fence}")


def _data_uri(svg: str) -> str:
    # As an image, not inline: identifiers inside one drawing cannot clash with those of another.
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii")


def _titles(body: str) -> list[tuple[str, Markup]]:
    """Anchor and title of every section of a page."""
    return [(anchor, Markup(title)) for anchor, title in re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', body)]


def _pick(table: Mapping[str, Any], names: Iterable[str], *path: str) -> list[Any]:
    """The entries under these names, or what lies below them at a path of keys."""
    return [get_path(table, name, *path) for name in names]


def _is_measured(measure: Measure, entries: Iterable[Any]) -> bool:
    key, _, _, _, digits, _ = measure
    values = [get_path(entry, key) for entry in entries]
    return any(value is not None if digits is None else numeric(value) is not None for value in values)


def _rows(measures: Iterable[Measure], entries: Sequence[Any],
          among: Sequence[Any] | None = None) -> list[dict[str, Any]]:
    """The rows of a table of measures, without those that no entry has.

    Args:
        measures: key, key of the interval, name, unit, digits (None for text), what it says.
        entries: one mapping for every column; ``entry["marks"]`` may hold a mark for some keys.
        among: the columns of all parts of a table that is cut into several.
    """
    rows = []
    for measure in measures:
        if not _is_measured(measure, entries if among is None else among):
            continue
        key, ends, name, unit, digits, meaning = measure
        cells = []
        for entry in entries:
            value = get_path(entry, key)
            text = (value or MISSING) if digits is None else number(value, digits)
            mark = get_path(entry, "marks", key) or ""
            cells.append((text + mark, interval_text(get_path(entry, ends), digits or 0)))
        rows.append({"name": name, "unit": unit, "meaning": meaning, "cells": cells})
    return rows


def _absent(measures: Iterable[Measure], entries: Sequence[Any]) -> list[str]:
    """The names of the measures that no entry has."""
    return [measure[2] for measure in measures if not _is_measured(measure, entries)]


def _as_yaml(value: object) -> Markup:
    import yaml

    return Markup(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip())


_FILTERS = {
    "absent": _absent, "anchor": lambda title: re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"),
    "as_json": lambda value: json.dumps(value, indent=2), "as_yaml": _as_yaml, "at": get_path,
    "cell": _cell, "code_block": _code_block, "code_span": _code_span, "compact": _compact,
    "data_uri": _data_uri, "ends": interval_text, "html": escape_html, "integer": integer,
    "number": number, "numeric": numeric, "one_line": _one_line, "pair": interval,
    "pick": _pick, "rows": _rows, "times": ratio, "titles": _titles,
}  # fmt: skip


@functools.cache
def environment(form: str) -> jinja2.Environment:
    """The templates as they are read for a format: "html", "md" or "txt"."""
    env = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=form != "txt",
                             finalize={"html": escape_html, "md": escape_markdown, "txt": None}[form],
                             undefined=jinja2.StrictUndefined, extensions=["jinja2.ext.do"],
                             lstrip_blocks=True)
    env.filters |= _FILTERS
    env.globals |= {"say": say, "listing": listing, "missing": MISSING}
    if form != "txt":
        css = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
        env.globals |= {"css": css, "r": env.get_template(f"parts.{form}.j2").module}
    return env


def say(name: str, *values: object, **named: object) -> str:
    """A sentence of ``sentences.j2`` as plain text: for headlines, alternative texts and terminals."""
    macro = getattr(environment("txt").get_template("sentences.j2").module, name)
    return " ".join(macro(*values, **named).split())


def listing(name: str, **values: object) -> str:
    """A program of ``listings.j2`` as plain text."""
    return getattr(environment("txt").get_template("listings.j2").module, name)(**values).strip("\n")


def _tidy(markdown: str) -> str:
    """One blank line between blocks, except inside code."""
    lines, fence = [], ""
    for line in markdown.strip("\n").split("\n"):
        opening = re.match("`{3,}", line)
        if fence:
            fence = "" if line == fence else fence
        elif opening:
            fence = opening[0]
        elif not line.strip() and lines and not lines[-1]:
            continue
        lines.append(line if fence or line.strip() else "")
    return "\n".join(lines) + "\n"


def render(template: str, **context: object) -> str:
    """A template of the folder ``templates``, filled; its name ends in ``.<format>.j2``.

    The text can be written as UTF-8: half a surrogate pair, which a model may write, is replaced.
    """
    form = template.split(".")[-2]
    text = environment(form).get_template(template).render(**context)
    text = {"html": str, "md": _tidy, "txt": _compact}[form](text)
    return text.encode("utf-8", "replace").decode("utf-8")
