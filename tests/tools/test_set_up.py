"""Which torch is installed, from where, and by what; nothing here asks the network."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest

from tools import set_up

PAGE = f'<a href="torch-{set_up.locked_torch()}%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl">'
CHOICE = {"gpu": False, "system": "Linux", "configured": False, "page": lambda index: PAGE}


def index(environment: dict[str, str] | None = None, **differs: object) -> tuple[str | None, str]:
    return set_up.torch_index(environment or {}, **(CHOICE | differs))


def test_linux_without_a_gpu_takes_the_build_without_cuda() -> None:
    place, why = index()
    assert place == set_up.TORCH_INDEX and "no NVIDIA GPU" in why
    assert set_up.size(place, why) == "about 0.5 GB"


@pytest.mark.parametrize(("differs", "reason"), [
    ({"gpu": True}, "an NVIDIA GPU was found"), ({"system": "Darwin"}, "this system"),
    ({"system": "Windows"}, "this system"), ({"configured": True}, "where pip is told to look"),
    ({"page": lambda index: ""}, "no answer"), ({"page": lambda index: "torch-2.0.0%2Bcpu"}, "has no torch"),
])
def test_otherwise_nothing_is_added(differs: dict[str, object], reason: str) -> None:
    place, why = index(**differs)
    assert place is None and reason in why


def test_the_variable_names_an_index_or_none() -> None:
    mine = {"RLHF_LITE_TORCH_INDEX": "https://example.org/cu"}
    assert index(mine, gpu=True, configured=True)[0] == "https://example.org/cu"
    assert index({"RLHF_LITE_TORCH_INDEX": "none"})[0] is None
    place, why = index(mine, page=lambda index: "")
    assert place is None and "https://example.org/cu gave no answer" in why


def test_an_index_that_hangs_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and says nothing, and an address with nobody behind it."""
    monkeypatch.setattr(set_up, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        started = time.monotonic()
        assert set_up.page_of_torch(f"http://127.0.0.1:{port}") == ""
    assert set_up.page_of_torch(f"http://127.0.0.1:{port}") == ""
    assert set_up.page_of_torch("no address") == ""
    assert time.monotonic() - started < 30  # a hang would be minutes


def test_the_page_is_read(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "index.html").write_text(PAGE, encoding="utf-8")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        assert set_up.page_of_torch(f"http://127.0.0.1:{server.server_port}/") == PAGE
        thread.join()


@pytest.mark.parametrize(("environment", "told"), [
    ({}, False), ({"PIP_DEFAULT_TIMEOUT": "9", "PIP_FIND_LINKS": ""}, False),
    ({"PIP_FIND_LINKS": "/wheels"}, True), ({"UV_EXTRA_INDEX_URL": "https://x"}, True),
])
def test_what_the_environment_says_about_indexes(environment: dict[str, str], told: bool,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    said = subprocess.CompletedProcess((), 0, "global.cert='x'")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: said)
    assert set_up.is_configured(environment) is told
    said = subprocess.CompletedProcess((), 0, "global.index-url='https://x'")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: said)
    assert set_up.is_configured(environment)


def test_uv_must_not_take_everything_from_the_first_index() -> None:
    (install, package), uv = set_up.install_commands("https://i", "/bin/uv", "py"), "/bin/uv"
    assert install[:5] == [uv, "pip", "install", "--quiet", "--python"] and install[5] == "py"
    assert install[install.index("--extra-index-url") + 1] == "https://i"
    assert install[install.index("--index-strategy") + 1] == "unsafe-best-match"
    assert package[-2:] == ["-e", str(set_up.ROOT)] and "--no-deps" in package
    install, _ = set_up.install_commands(None, None, "py")
    assert install[:4] == ["py", "-m", "pip", "install"] and "--extra-index-url" not in install


@pytest.mark.parametrize(("results", "calls", "code"), [
    ([0, 0], 2, 0), ([1, 0, 0], 3, 0), ([1, 1], 2, 1), ([0, 3], 2, 3),
])
def test_an_index_that_breaks_down_is_left_out(results: list[int], calls: int, code: int,
                                               monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    made: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        made.append(command)
        return subprocess.CompletedProcess(command, results[len(made) - 1])

    monkeypatch.setattr(set_up, "is_configured", lambda environment: False)
    monkeypatch.setattr(set_up, "torch_index", lambda *a, **k: (set_up.TORCH_INDEX, "why"))
    monkeypatch.setattr(set_up.subprocess, "run", run)
    with pytest.raises(SystemExit) as end:
        set_up.main()
    assert (end.value.code, len(made)) == (code, calls)
    assert capsys.readouterr().out.startswith("Downloading about ")
    if calls == 3:
        assert "--extra-index-url" in made[0] and "--extra-index-url" not in made[1]


def test_it_needs_nothing_that_is_not_there_yet() -> None:
    code = f"import sys; sys.path.insert(0, {str(set_up.ROOT)!r}); import tools.set_up"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
