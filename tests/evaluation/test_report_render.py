"""Templates: whatever is printed stays text, in HTML, in Markdown and in the tables of Markdown."""

from __future__ import annotations

import html
import re

import jinja2
import pytest
from markupsafe import Markup

from rlhf_lite.evaluation.report import render as rendering
from rlhf_lite.evaluation.report.render import escape_html, escape_markdown, render, say

NASTY = [
    "<script>alert(1)</script>", "a | b | c", "# title", "- item",
    "+ item", "1. item", "2) item", "=====", "---",
    "```\ncode", "`a` **b** _c_ ~~d~~ $x$ ![i](u)", "a\n\nb", "a\r\nb\rc", "<!-- -->", "&amp; &lt;",
    "\\", "\\|",
    "{{ 7 * 7 }}", "{% raw %}", 'x" onload="y', "\x00\x1b[0m\ud800", "http://example.invalid | x",
]  # fmt: skip


def page(body: str, form: str, **context: object) -> str:
    """``body`` as a template of the given format."""
    return rendering.environment(form).from_string(body).render(**context)


@pytest.mark.parametrize("value", NASTY)
def test_html_shows_a_value_as_it_is(value):
    shown = str(escape_html(value))
    assert "<" not in shown and '"' not in shown and ">" not in shown
    expected = re.sub("[\x00\x1b\ud800]", "\ufffd", re.sub("\r\n?", "\n", value))
    assert html.unescape(shown) == expected
    assert page('<img alt="{{ value }}">', "html", value=value) == f'<img alt="{shown}">'


@pytest.mark.parametrize("value", NASTY)
def test_markdown_shows_a_value_as_it_is(value):
    markdown_it = pytest.importorskip("markdown_it")
    read = markdown_it.MarkdownIt("gfm-like", {"linkify": False})
    shown = read.render(page("{{ r.table(['t'], [[value, 'next']]) }}", "md", value=value))
    cells = re.findall(r"<td>(.*?)</td>", shown, flags=re.DOTALL)
    expected = re.sub("[\x00\x1b\ud800]", "\ufffd", re.sub("\r\n?", "\n", value)).strip()
    assert [html.unescape(cell.replace("<br>", "\n")) for cell in cells] == [expected]
    tokens = read.parse(page("{% call r.p() %}{{ value }}{% endcall %}", "md", value=value))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children} <= {"text", "text_special"}
    assert tokens[1].children and "".join(child.content for child in tokens[1].children) == " ".join(
        expected.split()
    )


@pytest.mark.parametrize("value", NASTY)
def test_code_stays_code(value):
    markdown_it = pytest.importorskip("markdown_it")
    read = markdown_it.MarkdownIt("commonmark")
    (_, inline, _) = read.parse(page("{% call r.p() %}{{ r.code(value) }}{% endcall %}", "md", value=value))
    assert [child.type for child in inline.children] == ["code_inline"]
    fences = [t for t in read.parse(page("{{ r.listing(value) }}", "md", value=value)) if t.type == "fence"]
    assert len(fences) == 1 and fences[0].content.rstrip("\n") == value.rstrip().replace(
        "\r\n", "\n"
    ).replace("\r", "\n").replace("\x00", "\ufffd")


def test_markup_of_templates_stays_and_only_theirs():
    body = "{% call r.p() %}{{ r.strong(name) }} of {{ r.code(name) }} {{ name }}{% endcall %}"
    assert page(body, "html", name="<b>").strip() == (
        "<p><strong>&lt;b&gt;</strong> of <code>&lt;b&gt;</code> &lt;b&gt;</p>"
    )
    assert page(body, "md", name="*a*").strip() == r"**\*a\*** of `*a*` \*a\*"
    assert escape_html(Markup("<b>")) == "<b>" and escape_markdown(Markup("*")) == "*"


def test_sentences_are_plain_text():
    assert say("wins", "a<b>_c", "base", "gold", {"n": 0, "reason": "no | score"}) == (
        "a<b>_c cannot be compared with base: no | score."
    )


def test_what_a_context_lacks_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        page("{{ nothing }}", "html")
    with pytest.raises(jinja2.UndefinedError):
        render("report.html.j2", body="run.j2", title="t", subtitle="s", footer="f")


def test_both_formats_define_the_same_parts():
    names = [set(rendering.environment(form).globals["r"].__dict__) for form in ("html", "md")]
    assert {name for name in names[0] if not name.startswith("_")} == {
        name for name in names[1] if not name.startswith("_")
    }


@pytest.mark.parametrize("form", ["html", "md"])
def test_prose_of_shared_templates_holds_no_markup(form):
    # Their literal text goes into HTML and Markdown as it is, so it may hold nothing that either would read.
    for path in rendering.TEMPLATES.rglob("*.j2"):
        if path.name.count(".") > 1 or path.stem in ("listings", "sentences"):
            continue
        literal = re.sub(
            r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", "", path.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        assert not re.search(r"[<>*_`#|&\[\]\\]", literal), path.name
