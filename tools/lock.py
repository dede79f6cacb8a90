"""Write requirements.lock: resolve pyproject.toml in a fresh environment and freeze it.

Standard library only, so that it runs before anything is installed: ``make lock``.
What is held back, and why, stands in pyproject.toml under ``[tool.rlhf-lite.lock]``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Pulled in by a CUDA build of torch only; pip fetches the ones a machine needs by itself.
GPU_ONLY = re.compile(r"^(nvidia-|cuda-|triton\b|pytorch-triton)", re.IGNORECASE)
LEFT_OUT = {"pip", "rlhf-lite"}
HEADER = """\
# Exact versions of everything the book, its tools and its tests use. Made by `make lock`
# from pyproject.toml with Python {python}; change pyproject.toml, not this file.
#
#   pip install -r requirements.lock
#   pip install --no-deps -e .
#
# torch has no local suffix (such as +cpu) and nothing has a hash, so that each platform takes
# the build that fits it. Left out: packages that only a CUDA build of torch needs (pip adds them).
"""


def read_project(path: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """Requirements with all locked extras, constraints, and markers by normalised name."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    settings = data["tool"]["rlhf-lite"]["lock"]
    requirements = list(data["project"]["dependencies"])
    for extra in settings["extras"]:
        requirements += data["project"]["optional-dependencies"][extra]
    markers = {normalise(name): marker for name, marker in settings.get("markers", {}).items()}
    return requirements, settings["constraints"], markers


def normalise(name: str) -> str:
    """The spelling under which the index knows a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lock_lines(frozen: str, markers: dict[str, str]) -> list[str]:
    """Turn the output of ``pip freeze --all`` into the lines of the lock, sorted by name.

    Raises:
        ValueError: a line is not ``name==version``: it would install from a place on one machine.
    """
    lines: dict[str, str] = {}
    for line in filter(None, map(str.strip, frozen.splitlines())):
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;@+]+)(\+\S+)?", line)
        if match is None:
            raise ValueError(f"pip freeze: got {line!r}; expected name==version")
        name = normalise(match[1])
        if name in LEFT_OUT or GPU_ONLY.match(name):
            continue
        marker = f" ; {markers[name]}" if name in markers else ""
        lines[name] = f"{name}=={match[2]}{marker}"
    return [lines[name] for name in sorted(lines)]


def resolve(folder: Path, requirements: list[str], constraints: list[str]) -> str:
    """Install into a fresh environment in ``folder``; returns what pip freeze says."""
    venv.create(folder, with_pip=True, clear=True)
    python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    limits = folder / "constraints.txt"
    limits.write_text("\n".join(constraints) + "\n", encoding="utf-8")
    install = [python, "-m", "pip", "install", "-c", str(limits)]
    subprocess.run([*install, *requirements, "setuptools"], check=True)  # setuptools: for -e .
    subprocess.run([python, "-m", "pip", "check"], check=True)
    freeze = [python, "-m", "pip", "freeze", "--all"]
    return subprocess.run(freeze, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "requirements.lock")
    parser.add_argument("--venv", type=Path, help="keep the environment in this folder")
    options = parser.parse_args()
    requirements, constraints, markers = read_project(ROOT / "pyproject.toml")
    with tempfile.TemporaryDirectory() as scratch:
        frozen = resolve(options.venv or Path(scratch) / "venv", requirements, constraints)
    lines = lock_lines(frozen, markers)
    header = HEADER.format(python=f"{sys.version_info.major}.{sys.version_info.minor}")
    text = header + "\n".join(lines) + "\n"
    temporary = options.output.with_name(f".{options.output.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, options.output)
    print(f"{options.output}: {len(lines)} packages")


if __name__ == "__main__":
    main()
