"""Drive a headless Chromium through chromedriver, with the standard library only.

    with Browser(find_browser()) as page:
        page.open("http://127.0.0.1:8000/")
        title = page.run("return document.title")

It speaks the WebDriver protocol, plus two additions of chromedriver: logs and DevTools commands.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
NOT_FOUND = (
    "no Chromium with chromedriver was found; install both (Debian: apt-get install chromium "
    "chromium-driver), or set RLHF_LITE_CHROMIUM and RLHF_LITE_CHROMEDRIVER to their paths"
)


@dataclass(frozen=True)
class Programs:
    """The two programs needed: the browser and its driver."""

    chromium: str
    chromedriver: str


def find_browser() -> Programs | None:
    """Chromium (or Chrome) and its driver, from the environment or the PATH; None if one is missing."""
    chromium = os.environ.get("RLHF_LITE_CHROMIUM") or _first("chromium", "chromium-browser", "google-chrome")
    driver = os.environ.get("RLHF_LITE_CHROMEDRIVER") or _first("chromedriver", "chromium.chromedriver")
    return Programs(chromium, driver) if chromium and driver else None


def _first(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


class BrowserError(RuntimeError):
    """The browser or its driver did not do what was asked."""


class Browser:
    """One browser window. Use it as a context manager; it ends the processes that it started."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self._size: tuple[int, int] | None = None
        self._dark: bool | None = None

    def __enter__(self) -> Browser:
        self._profile = tempfile.TemporaryDirectory(prefix="rlhf-lite-chromium-", ignore_cleanup_errors=True)
        port = _free_port()
        self._address = f"http://127.0.0.1:{port}"
        self._driver = subprocess.Popen(
            [self.programs.chromedriver, f"--port={port}", "--log-level=SEVERE"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait_for_driver()
            options = {
                "binary": self.programs.chromium,
                "args": [*FLAGS, f"--user-data-dir={self._profile.name}"],
            }
            wanted = {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
            }
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._session = f"/session/{answer['sessionId']}"
            self.devtools("Network.setCacheDisabled", cacheDisabled=False)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrowserError):  # a driver that is gone already is stopped below
            self._call("DELETE", self._session)
        self._stop()

    def open(self, url: str) -> None:
        """Load a page and wait until its load event."""
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page; the script returns its result (promises are awaited)."""
        body = {"script": script, "args": list(arguments)}
        return self._call("POST", f"{self._session}/execute/sync", body)

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Entries of the log ``"browser"`` or ``"performance"`` since the last call."""
        return list(self._call("POST", f"{self._session}/se/log", {"type": kind}))

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Send a command of the Chrome DevTools protocol."""
        return self._call("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def view(self, width: int, height: int, *, dark: bool) -> bool:
        """Set the size of the page in CSS pixels, and the preferred colour scheme; says if either is new."""
        size, before = (width, height), (self._size, self._dark)
        if size != self._size:
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.devtools("Emulation.setDeviceMetricsOverride", **metrics)
        if dark != self._dark:
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self._size, self._dark = size, dark
        return (size, dark) != before

    def screenshot(self, path: Path, *, whole_page: bool = False) -> None:
        """Write a PNG picture of what is seen, or of the whole page."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole_page)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=60
            ) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise BrowserError(f"{method} {path}: {value.get('error')}: {value.get('message')}") from None
        except OSError as error:
            raise BrowserError(f"{method} {path}: {error}") from error

    def _wait_for_driver(self) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(BrowserError):  # it does not listen yet
                if self._call("GET", "/status")["ready"]:
                    return
            if self._driver.poll() is not None:
                raise BrowserError(
                    f"{self.programs.chromedriver} ended at once (exit {self._driver.returncode})"
                )
            time.sleep(0.05)
        raise BrowserError(f"{self.programs.chromedriver} did not answer within 20 seconds")

    def _stop(self) -> None:
        self._driver.terminate()
        try:
            self._driver.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._driver.kill()
        self._profile.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
