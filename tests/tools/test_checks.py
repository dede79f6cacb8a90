"""The checks themselves: each planted fault must be found, and a page in order must pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_lite.teaching.interactive import is_sentence
from tests.tools.conftest import make_notebook, write_notebook
from tools import check_notebooks, setup_cell, state
from tools.website.browser import NOT_FOUND, Browser, find_browser
from tools.website.check_links import check_static
from tools.website.check_site import check_page, colab_prefix, serve

GOOD = """<html lang="en"><head><title>t</title></head><body><main class="bd-main">
<article class="bd-article">
<h1 id="top">A title</h1><p style="color:#222">Words to read, in a readable colour.</p>
<img src="a.png" alt="The reward rises over three steps." style="background:#fff">
<a href="#top">up</a> <a href="https://example.org/">elsewhere</a></article></main></body></html>"""
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63f8ffff3f0005fe02fea72d19f50000000049454e44ae426082"
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "a.png").write_bytes(PNG)
    (folder / "index.html").write_text(GOOD)
    return folder


def static(site: Path) -> list[str]:
    return check_static(site, site, "owner/name/blob/student/")


def test_a_page_in_order_passes(site: Path) -> None:
    assert static(site) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("#top", "#bottom", "anchor"),
        ('href="#top"', 'href="gone.html"', "leads nowhere"),
        ("a.png", "b.png", "does not exist"),
        ('alt="The reward rises over three steps."', 'alt="reward curve"', "not a sentence"),
        ('alt="The reward rises over three steps."', "", "no alt text"),
        ("a.png", "https://example.org/a.png", "loaded from elsewhere"),
        ("<h1", "<script src='//example.org/x.js'></script><h1", "loaded from elsewhere"),
        ("<h1", "<svg role='img'><title>A loop</title></svg><h1", "SVG"),
        (
            "https://example.org/",
            "https://colab.research.google.com/github/owner/name/blob/student/x.ipynb",
            "no notebook",
        ),
    ],
)
def test_static_faults_are_found(site: Path, old: str, new: str, problem: str) -> None:
    page = site / "index.html"
    assert old in GOOD
    page.write_text(GOOD.replace(old, new))
    assert any(problem in text for text in static(site)), static(site)


def test_a_chapter_needs_its_colab_button(site: Path) -> None:
    (site / "notebooks").mkdir()
    page = site / "notebooks" / "one.html"
    page.write_text(GOOD.replace("a.png", "../a.png"))
    (site / "notebooks" / "one.ipynb").touch()
    assert any("no Colab button" in text for text in static(site))
    right = "https://colab.research.google.com/github/owner/name/blob/student/notebooks/one.ipynb"
    page.write_text(page.read_text().replace("https://example.org/", right))
    assert static(site) == []
    page.write_text(page.read_text().replace("blob/student", "blob/main"))
    assert any("no Colab button" in text for text in static(site))


def test_the_buttons_of_this_book_lead_to_the_student_branch() -> None:
    assert colab_prefix(state.REPOSITORY) == "rlhf-lite/rlhf-lite/blob/student/"


def test_sentences() -> None:
    assert is_sentence("The reward rises over three steps.")
    assert not is_sentence("lorenz_us")
    assert not is_sentence("The reward rises over three steps")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("<h1", "<script>console.error('planted')</script><h1", "console"),
        ("<h1", "<script>throw new Error('planted')</script><h1", "console"),
        ("<h1", "<script>fetch('http://127.0.0.1:9/x').catch(() => 0)</script><h1", "another machine"),
        ("<h1", "<link rel='stylesheet' href='gone.css'><h1", "status 404"),
        ("<h1", "<div style='width:900px'>wide</div><h1", "pixels wide"),
        ("color:#222", "color:#aaa", "contrast"),
        ("<h1", "<span class='math'>\\(a^2\\)</span><h1", "maths was not rendered"),
        ("background:#fff", "", "opaque"),
        ("", "", None),
    ],
    ids=["console", "exception", "request", "404", "wide", "contrast", "maths", "transparent", "in order"],
)
def test_faults_that_a_browser_sees(
    site: Path, browser: Browser, old: str, new: str, problem: str | None
) -> None:
    dark = "body { background: #111; color: #eee } p { color: #eee !important } a { color: #9cf }"
    style = f"@media (prefers-color-scheme: dark) {{ {dark} }}"
    text = GOOD.replace(old, new, 1) if old else GOOD
    (site / "index.html").write_text(
        text.replace("<title>", f"<link rel='icon' href='data:,'><style>{style}</style><title>")
    )
    with serve(site) as address:
        found = check_page(browser, address, "index.html")
    if problem is None:
        assert found == []
    else:
        assert any(problem in sentence for sentence in found), found


@pytest.fixture(scope="module")
def browser():
    programs = find_browser()
    if programs is None:
        pytest.skip(NOT_FOUND)
    with Browser(programs) as window:
        yield window


# --- notebooks ---------------------------------------------------------------------------------------


def problems_of(tmp_path: Path, book, name: str = "one") -> list[str]:
    return check_notebooks.source_problems(write_notebook(tmp_path / f"{name}.ipynb", book), state.REPOSITORY)


def test_a_notebook_in_order_passes(tmp_path: Path) -> None:
    assert problems_of(tmp_path, make_notebook("print(1)")) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("See {doc}`here`.", "MyST role"),
        ("```{note}\nx\n```", "MyST directive"),
        (":::{note}\nx\n:::", "colon fence"),
        ("(label)=\n# T", "MyST label"),
        ("The accuracy is 0.87.", "'0.87' is typed"),
        ("It is right in 87 % of cases.", "'87 %' is typed"),
        ("See [a paper](https://arxiv.org/abs/1234.56789).", "1234.56789"),
    ],
)
def test_faults_in_text_are_found(tmp_path: Path, text: str, problem: str) -> None:
    assert any(problem in found for found in problems_of(tmp_path, make_notebook(text=text)))


@pytest.mark.parametrize(
    "text",
    [
        "A 95 % interval, Python 3.11, `0.87`, $\\beta = 0.05$, and $$x = 0.5$$.",
        "```python\nx = 0.87\n```",
        "See [the PPO paper](https://arxiv.org/abs/1707.06347), figure 3.",
        "Version v0.1.0 and the set {a, b}.",
        "$\\mathrm{KL}(\\pi_{\\theta})$ is a `{dict}`.",
    ],
)
def test_text_in_order_passes(tmp_path: Path, text: str) -> None:
    assert problems_of(tmp_path, make_notebook(text=text)) == []


def test_faults_in_cells_are_found(tmp_path: Path) -> None:
    book = make_notebook("import matplotlib.pyplot as plt\nplt.show()")
    assert any("mystnb.image.alt" in text for text in problems_of(tmp_path, book))
    book.cells[2].metadata["mystnb"] = {"image": {"alt": "The reward rises over three steps."}}
    assert problems_of(tmp_path, book) == []
    book.cells[2].execution_count = 3
    assert any("nbstripout" in text for text in problems_of(tmp_path, book))
    assert problems_of(tmp_path, make_notebook("x = 1  #" + "." * 80)) == []  # 88 characters
    found = problems_of(tmp_path, make_notebook("x = 1  #" + "." * 81))
    assert any("more than 88 characters" in text for text in found)
    book = make_notebook("print(1)")
    book.cells[1].source = setup_cell.SOURCE + "\n"
    assert any("set-up cell" in text for text in problems_of(tmp_path, book))
    book = make_notebook("print(1)")
    book.metadata.kernelspec.name = "my-env"
    assert any("kernel" in text for text in problems_of(tmp_path, book))


def test_exercises_must_be_complete(tmp_path: Path) -> None:
    book = make_notebook(exercise=True)
    found = problems_of(tmp_path, book, "00_quickstart")
    assert found == [
        f"lacks the exercise '{name}' of this chapter" for name in ("pairwise_accuracy", "kl_per_sequence")
    ]
    book.cells[-3].source = "## Exercise\n\n*Difficulty: hard. Time: 5 minutes.*"
    assert any("must say" in text for text in problems_of(tmp_path, book, "00_quickstart"))
    book.cells[-1].metadata["nbgrader"]["locked"] = False
    assert any("locked nbgrader test" in text for text in problems_of(tmp_path, book, "00_quickstart"))


def test_set_up_cell_installs_only_in_colab(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda command, check: calls.append(command))
    exec(setup_cell.SOURCE, {})
    assert calls == []
    monkeypatch.setitem(__import__("sys").modules, "google.colab", object())
    exec(setup_cell.SOURCE, {})
    assert calls == [], "rlhf_lite is installed, so nothing is to be done"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(setup_cell.SOURCE, {})
    assert calls[0][-1] == f"git+{setup_cell.REPOSITORY}@{setup_cell.RELEASE_TAG}"
