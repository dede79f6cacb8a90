"""Checks of the built site that need no browser: links, anchors, pictures, alt texts, Colab buttons."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rlhf_lite.teaching.interactive import is_sentence

COLAB = "https://colab.research.google.com/github/"


@dataclass
class Page:
    """One page of the site: its soup, and the ids that a link may lead to."""

    path: Path
    soup: Any
    ids: set[str] = field(default_factory=set)


def page_files(site: Path) -> list[Path]:
    """All pages of the site; files below ``_static`` are not pages."""
    return [path for path in sorted(site.rglob("*.html")) if "_static" not in path.relative_to(site).parts]


def read_pages(site: Path) -> dict[Path, Page]:
    """All pages of the site, read, by path."""
    from bs4 import BeautifulSoup

    pages: dict[Path, Page] = {}
    for path in page_files(site):
        soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        ids = {tag["id"] for tag in soup.find_all(id=True)} | {
            tag["name"] for tag in soup.find_all("a", attrs={"name": True})
        }
        pages[path] = Page(path, soup, ids)
    return pages


def check_static(site: Path, root: Path, prefix: str) -> list[str]:
    """Problems that can be seen in the files alone, one sentence each.

    Args:
        site: the folder of the built site.
        root: the repository, where the notebooks are.
        prefix: how the path of a Colab button begins, such as ``owner/name/blob/student/``.
    """
    pages = read_pages(site)
    problems: list[str] = []
    for page in pages.values():
        name = page.path.relative_to(site).as_posix()
        problems += [f"{name}: {text}" for text in _links(page, pages, site)]
        problems += [f"{name}: {text}" for text in _resources(page, site)]
        problems += [f"{name}: {text}" for text in _alt_texts(page)]
        problems += [f"{name}: {text}" for text in _colab(page, site, root, prefix)]
    return problems


def _target(base: Path, link: str, site: Path) -> Path:
    path = unquote(urlsplit(link).path)
    target = (site / path.lstrip("/")) if path.startswith("/") else (base.parent / path if path else base)
    target = target.resolve()
    return target / "index.html" if target.is_dir() else target


def _is_external(link: str) -> bool:
    return bool(urlsplit(link).scheme) or link.startswith("//")


def _links(page: Page, pages: dict[Path, Page], site: Path) -> list[str]:
    problems = []
    resolved = {path.resolve(): other for path, other in pages.items()}
    for tag in page.soup.find_all("a", href=True):
        link = tag["href"]
        if _is_external(link) or link == "#":
            continue
        target = _target(page.path, link, site)
        anchor = unquote(urlsplit(link).fragment)
        if not target.is_file():
            problems.append(f"the link {link!r} leads nowhere")
        elif anchor and target in resolved and anchor not in resolved[target].ids:
            problems.append(f"the link {link!r} names an anchor that does not exist")
    return problems


def _resources(page: Page, site: Path) -> list[str]:
    problems = []
    for tag in page.soup.find_all(["img", "script", "link", "source", "iframe", "video", "audio"]):
        link = tag.get("src") or (tag.get("href") if tag.name == "link" else None)
        if not link or link.startswith("data:"):
            continue
        if _is_external(link):
            if tag.name != "link" or not {"canonical", "alternate"} & set(tag.get("rel", [])):
                problems.append(f"<{tag.name}> is loaded from elsewhere: {link}")
        elif not _target(page.path, link, site).is_file():
            problems.append(f"<{tag.name}> names the file {link!r}, which does not exist")
    return problems


def _alt_texts(page: Page) -> list[str]:
    problems = []
    for tag in page.soup.select(".bd-article img"):
        if not is_sentence(tag.get("alt", "")):
            problems.append(
                f"the alt text of {tag.get('src', '')[:60]!r} is not a sentence: {tag.get('alt', '')!r}"
            )
    for tag in page.soup.select(".bd-article svg"):
        title = tag.find("title")
        if tag.get("aria-hidden") != "true" and not is_sentence(title.get_text() if title else ""):
            problems.append("an inline SVG picture has no <title> that is a sentence")
    for tag in page.soup.find_all("img"):
        if tag.get("alt") is None:
            problems.append(f"the picture {tag.get('src', '')[:60]!r} has no alt text")
    return problems


def _colab(page: Page, site: Path, root: Path, prefix: str) -> list[str]:
    """The Colab button of a chapter leads to the student copy that is made from the same notebook."""
    links = [tag["href"] for tag in page.soup.find_all("a", href=True) if tag["href"].startswith(COLAB)]
    own = page.path.relative_to(site).with_suffix(".ipynb").as_posix()
    is_chapter = own.startswith("notebooks/")
    if is_chapter and COLAB + prefix + own not in links:
        return [f"has no Colab button to {COLAB + prefix + own}; it has {links}"]
    problems = []
    for link in links:
        path = re.sub(f"^{re.escape(COLAB + prefix)}", "", unquote(link))
        if not (root / path).is_file():
            problems.append(f"the Colab button leads to {link}, but there is no notebook {path}")
    return problems
