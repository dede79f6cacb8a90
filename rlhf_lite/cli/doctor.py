"""``rlhf-lite doctor``: what this machine has, what is missing, and how to get it.

Works with half of the libraries missing, for that is when it is needed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# The browser that checks the built site: name, environment variable, and what it is called in Debian,
# Ubuntu and by Google.
BROWSER = (("Chromium", "RLHF_LITE_CHROMIUM", ("chromium", "chromium-browser", "google-chrome")),
           ("ChromeDriver", "RLHF_LITE_CHROMEDRIVER", ("chromedriver", "chromium.chromedriver")))
FREE_GB_WANTED = 3.0

_EXTRA = re.compile(r"""extra == ["']([^"']+)["']""")


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        group: heading.
        name: what was looked at.
        value: what was found, in words.
        state: ``"ok"``; ``"note"`` if something optional is missing; ``"missing"`` if it is needed.
        fix: how to mend it; empty if there is nothing to mend.
    """

    group: str
    name: str
    value: str
    state: str = "ok"
    fix: str = ""


def examine() -> dict[str, Any]:
    """Look at everything.

    Returns:
        ``{"ok": bool, "checks": [...], "run_info": {...}}``; ``ok`` is False if a check has the state
        ``"missing"``.
    """
    from rlhf_lite.tracking import run_info

    info = run_info()
    checks = [*_machine(info), *_python(info), *_libraries(), *_cache(), *_tools()]
    ok = all(check.state != "missing" for check in checks)
    return {"ok": ok, "checks": [asdict(check) for check in checks], "run_info": info}


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    marks = {"ok": "[green]ok", "note": "[yellow]note", "missing": "[bold red]missing"}
    table = Table()
    for heading in ("", "Looked at", "Found", "State", "How to get it"):
        table.add_column(heading, overflow="fold")
    for group, checks in groupby(report["checks"], key=itemgetter("group")):
        heading = f"[bold]{escape(group)}"
        for check in checks:
            name, value, fix = (escape(check[key]) for key in ("name", "value", "fix"))
            table.add_row(heading, name, value, marks[check["state"]], fix)
            heading = ""
        table.add_section()
    console = Console()
    console.print(table)
    console.print("All that is needed is here." if report["ok"] else "[bold red]Something needed is missing.")


def _machine(info: dict[str, Any]) -> Iterator[Check]:
    hardware = info["hardware"]

    def known(value: Any, unit: str = "") -> str:
        return "unknown" if value is None else f"{value}{unit}"

    yield Check("Machine", "system", hardware["platform"])
    yield Check("Machine", "processor", known(hardware["cpu"]))
    cores = f"{known(hardware['physical_cores'])} physical, {known(hardware['logical_cores'])} logical"
    yield Check("Machine", "cores", cores)
    yield Check("Machine", "memory", known(hardware["memory_gb"], " GB"))
    yield Check("Machine", "torch threads", known(hardware["torch_threads"]))
    yield Check("Machine", "GPU", hardware["gpu"] or "none that torch sees; none is needed")
    with suppress(Exception):  # of a library that is missing or broken: its own line says so
        from rlhf_lite.models.runtime import compute_device

        yield Check("Machine", "runs and commands use", str(compute_device()))


def _python(info: dict[str, Any]) -> Iterator[Check]:
    yield Check("Python", "python", platform.python_version())
    yield Check("Python", "rlhf_lite", info["versions"]["rlhf_lite"])
    commit = info["commit"]
    if commit is None:
        yield Check("Python", "git commit", "no checkout, or no git", "note", "runs record no commit")
    else:
        yield Check("Python", "git commit", commit[:12] + (", with changes" if info["dirty"] else ""))


def requirements() -> dict[str, list[Requirement]]:
    """What the package asks for, by extra; the core is the extra ``""``."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("rlhf-lite") or []
    except metadata.PackageNotFoundError:  # a checkout on the path
        lines = _declared(Path(__file__).resolve().parents[2] / "pyproject.toml")
    by_extra: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, lines):
        extra = _EXTRA.search(str(requirement.marker))
        by_extra.setdefault(extra[1] if extra else "", []).append(requirement)
    return by_extra


def _declared(project_file: Path) -> list[str]:
    """The same lines from a checkout that is used without being installed; empty if it is none."""
    try:
        project = tomllib.loads(project_file.read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return []
    extras = project.get("optional-dependencies", {}).items()
    optional = [f"{line} ; extra == '{extra}'" for extra, lines in extras for line in lines]
    return [*project["dependencies"], *optional]


def _libraries() -> Iterator[Check]:
    try:
        by_extra = requirements()
    except ImportError:  # whoever lacks this lacks more, but the bounds cannot be read without it
        yield Check("Libraries", "packaging", "not installed", "missing", "pip install packaging")
        return
    if not by_extra:
        fix = "pip install -e . in the checkout"
        yield Check("Libraries", "rlhf-lite", "not installed, so its needs are unknown", "missing", fix)
    for requirement in by_extra.pop("", []):
        yield _library(requirement)
    for extra, needed in sorted(by_extra.items()):
        absent = [requirement.name for requirement in needed if _library(requirement).state != "ok"]
        if absent:
            fix = f'pip install "rlhf-lite[{extra}]"'
            yield Check("Extras", extra, f"without {', '.join(absent)}", "note", fix)
        else:
            yield Check("Extras", extra, "complete")


def _library(requirement: Requirement) -> Check:
    name, bounds = requirement.name, requirement.specifier
    fix = f'pip install "{name}{bounds}"'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check("Libraries", name, "not installed", "missing", fix)
    if not bounds.contains(version, prereleases=True):
        return Check("Libraries", name, f"{version}, wanted {bounds}", "missing", fix)
    try:
        if name == "torch":
            import torch  # noqa: F401  (imported to see whether it can be)
    except Exception as error:  # a half-installed torch raises OSError and others
        trouble = f"{type(error).__name__}: {error}".splitlines()[0][:100]
        value = f"{version} does not import: {trouble}"
        return Check("Libraries", name, value, "missing", "install torch anew")
    return Check("Libraries", name, version)


def _cache() -> Iterator[Check]:
    try:
        from rlhf_lite.data.assets import ensure as assets

        folder, states = assets.cache_dir(), assets.verify(full=True)
    except Exception as error:
        value = f"cannot be examined ({type(error).__name__}: {error})"
        yield Check("Cache", "assets", value, "missing", "mend the libraries above first")
        return
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    yield Check("Cache", str(folder), f"{size / 1e6:.0f} MB")
    yield _free_space(folder)
    for state in states:
        if state.ready:
            yield Check("Cache", state.asset.name, f"verified, {state.megabytes:.0f} MB")
        else:
            fix = f"rlhf-lite assets (fetches {state.asset.archive.megabytes:.0f} MB)"
            yield Check("Cache", state.asset.name, f"{state.problem}", "note", fix)


def _free_space(folder: Path) -> Check:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free / 1e9
    if free >= FREE_GB_WANTED:
        return Check("Cache", "free space", f"{free:.0f} GB")
    fix = "make room, or set RLHF_LITE_CACHE to a folder on another disk"
    return Check("Cache", "free space", f"{free:.1f} GB, wanted {FREE_GB_WANTED:.0f} GB", "note", fix)


def _tools() -> Iterator[Check]:
    for name, variable, names in BROWSER:
        if path := os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None):
            yield Check("Tools", name, path)
        else:
            fix = f"apt-get install chromium chromium-driver, or set {variable}; for tests of the site only"
            yield Check("Tools", name, "not found", "note", fix)
    if path := shutil.which("git"):
        yield Check("Tools", "git", path)
    else:
        yield Check("Tools", "git", "not found", "note", "install git, so that runs record their commit")
