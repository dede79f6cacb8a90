"""Check the built site, in headless Chromium over a local server.

    python tools/website/check_site.py
    python tools/website/check_site.py --screenshots shots

Every page is opened at desktop and phone size, in light and dark. It must have rendered maths, an empty
console, no request to another machine, nothing wider than a phone, readable colours, and figures on opaque
paper. Links, anchors, alt texts and Colab buttons are checked in the files themselves.
"""

from __future__ import annotations

import argparse
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools import state
from tools.website.browser import NOT_FOUND, Browser, find_browser
from tools.website.check_links import check_static, page_files
from tools.website.page_scripts import COLOURS, MATHS, OVERFLOW, PAPER, SETTLE, STILL

DESKTOP = (1400, 900)
PHONE = (390, 844)
MIN_CONTRAST = 4.5
MIN_CONTRAST_LARGE = 3.0


def check_site(root: Path = state.REPOSITORY, *, screenshots: Path | None = None) -> list[str]:
    """All problems of the site in ``root/_build/html``, one sentence each; an empty list is what one wants.

    Raises:
        SystemExit: if the site has not been built.
        RuntimeError: if there is no browser; ``check_links.check_static`` works without one.
    """
    site = root / "_build" / "html"
    if not (site / "index.html").is_file():
        raise SystemExit(f"{site} holds no site; run python tools/build_book.py first")
    return check_static(site, root, colab_prefix(root)) + check_in_browser(site, screenshots=screenshots)


def check_in_browser(site: Path, *, screenshots: Path | None = None) -> list[str]:
    """The problems of a site that only a browser sees.

    Raises:
        RuntimeError: if there is no browser.
    """
    programs = find_browser()
    if programs is None:
        raise RuntimeError(NOT_FOUND)
    problems: list[str] = []
    with serve(site) as address, Browser(programs) as browser:
        for path in page_files(site):
            name = path.relative_to(site).as_posix()
            problems += [f"{name}: {text}" for text in check_page(browser, address, name, screenshots)]
    return problems


def check_page(browser: Browser, address: str, name: str, screenshots: Path | None = None) -> list[str]:
    """What a browser finds wrong with one page."""
    browser.log("browser"), browser.log("performance")  # forget what earlier pages wrote
    browser.view(*DESKTOP, dark=False)
    browser.open(f"{address}/{name}")
    browser.run(STILL)
    browser.run(SETTLE)
    problems: list[str] = list(browser.run(MATHS))
    for label, size, dark in (("desktop", DESKTOP, False), ("dark", DESKTOP, True), ("phone", PHONE, False)):
        if browser.view(*size, dark=dark):
            browser.run(SETTLE)
        if label == "phone":
            problems += [f"at {size[0]} pixels: {text}" for text in browser.run(OVERFLOW)]
        else:
            found = browser.run(COLOURS, MIN_CONTRAST, MIN_CONTRAST_LARGE, dark)
            problems += [f"{label}: {text}" for text in [*found, *browser.run(PAPER)]]
        if screenshots is not None:
            browser.screenshot(
                screenshots / f"{name.removesuffix('.html').replace('/', '-')}-{label}.png", whole_page=True
            )
    problems += console_problems(browser.log("browser"))
    problems += request_problems(browser.log("performance"), address)
    return problems


def console_problems(entries: list[dict[str, Any]]) -> list[str]:
    """Errors that the page wrote to the console."""
    return [f"console: {entry['message']}" for entry in entries if entry["level"] in ("SEVERE", "ERROR")]


def request_problems(entries: list[dict[str, Any]], address: str) -> list[str]:
    """Requests to other machines, and answers that are errors."""
    problems = []
    for entry in entries:
        message = json.loads(entry["message"])["message"]
        parameters = message.get("params", {})
        if message["method"] == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith((address + "/", "data:", "blob:", "about:")):
                problems.append(f"requests {url[:200]} from another machine")
        elif message["method"] == "Network.responseReceived" and parameters["response"]["status"] >= 400:
            problems.append(
                f"gets status {parameters['response']['status']} for {parameters['response']['url']}"
            )
    return problems


def colab_prefix(root: Path) -> str:
    """How the path of a Colab button begins: owner, name and branch from ``_config.yml``."""
    import yaml

    repository = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
    owner_and_name = repository["url"].removeprefix("https://github.com/").strip("/")
    folder = repository["path_to_book"].strip("/")
    return f"{owner_and_name}/blob/{repository['branch']}/{folder + '/' if folder else ''}"


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine; yields the address."""
    handler = partial(_QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Command line: exit code 1 if there is a problem."""
    parser = argparse.ArgumentParser(description="Check the built site in headless Chromium.")
    parser.add_argument("--root", type=Path, default=state.REPOSITORY, help="the repository")
    parser.add_argument("--screenshots", type=Path, help="also write pictures of every page to this folder")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    try:
        problems = check_site(root, screenshots=arguments.screenshots)
    except RuntimeError as error:
        print(f"{error}\nOnly the checks that need no browser were made.")
        problems = check_static(root / "_build" / "html", root, colab_prefix(root))
    for problem in problems:
        print(problem)
    if problems:
        raise SystemExit(f"{len(problems)} problems")
    print("The site is in order.")


if __name__ == "__main__":
    main()
