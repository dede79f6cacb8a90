"""The built site, in headless Chromium: built once, only if it is not of the present sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import state
from tools.build_book import build, is_current
from tools.website.browser import NOT_FOUND, find_browser
from tools.website.check_links import check_static
from tools.website.check_site import check_in_browser, colab_prefix

pytestmark = pytest.mark.site

ROOT = state.REPOSITORY
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def site() -> Path:
    if not state.notebooks(ROOT):
        pytest.fail("notebooks/ holds no chapter, so there is no site to build")
    return ROOT / "_build" / "html" if is_current(ROOT) else build(ROOT).parent


def test_files_links_and_alt_texts(site: Path) -> None:
    assert check_static(site, ROOT, colab_prefix(ROOT)) == []


def test_size(site: Path) -> None:
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 15 * MEGABYTE


def test_no_page_names_a_content_network(site: Path) -> None:
    networks = ("unpkg.com", "jsdelivr.net", "cdnjs.cloudflare.com", "googleapis.com", "mybinder.org")
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not [network for network in networks if network in text], page


def test_in_a_browser(site: Path) -> None:
    if find_browser() is None:
        pytest.skip(NOT_FOUND)
    assert check_in_browser(site) == []
