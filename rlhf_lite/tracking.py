"""What a run leaves behind: one line of JSON per step, and where the numbers came from.

``MetricsLog`` writes ``metrics.jsonl``; ``run_info`` records seed, commit, versions and hardware.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rlhf_lite.files import write_text

RESERVED = ("phase", "step", "seconds")
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets")
# Where a container says how many bytes of memory it may use, in version 2 and 1 of control groups.
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class MetricsLog:
    """An append-only file of metrics that survives a kill at any moment.

    Each line is ``{"phase": ..., "step": ..., "seconds": ..., "<name/unit>": value, ...}`` and is
    flushed when it is written. A line that a kill cut short is dropped when the log is next opened.
    One process writes; any number may read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_torn_line()
        self._file = self.path.open("a", encoding="utf-8")

    def log(self, phase: str, step: int, values: Mapping[str, Any], *, seconds: float) -> None:
        """Append one line.

        Args:
            phase: ``"sft"``, ``"reward"`` or ``"ppo"``.
            step: number of the completed step.
            values: metric name with its unit (``"kl/nats_per_seq"``) -> number, bool, None or
                a 0-d tensor. NaN and infinity are written as null, for JSON has neither.
            seconds: time since the phase began, in seconds.

        Raises:
            ValueError: a name is reserved, or a value is not a single number.
        """
        taken = [name for name in values if name in RESERVED]
        if taken:
            raise ValueError(f"metric name {taken[0]!r} is reserved, as are {RESERVED}; rename it")
        line: dict[str, Any] = {"phase": phase, "step": int(step), "seconds": round(float(seconds), 3)}
        line.update({name: _scalar(name, value) for name, value in values.items()})
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def truncate_after(self, phase: str, step: int) -> int:
        """Drop this phase's lines whose step is above ``step``; returns how many were dropped.

        Used on resume: the checkpoint of ``step`` is the truth, and lines that a killed run wrote
        after it will be written again. ``step=-1`` drops the whole phase. Other phases are kept.
        """
        lines = read_metrics(self.path)
        remaining = [line for line in lines if line["phase"] != phase or line["step"] <= step]
        if len(remaining) < len(lines):
            self._file.close()
            text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in remaining)
            write_text(self.path, text)
            self._file = self.path.open("a", encoding="utf-8")
        return len(lines) - len(remaining)

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop_torn_line(self) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Read a metrics file, also while a run is writing it; a torn last line is left out.

    Raises:
        ValueError: a complete line is not a JSON object with phase and step.
    """
    path = Path(path)
    *lines, _torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # refused below, with the number of its line
            record = None
        if not isinstance(record, dict) or not {"phase", "step"} <= record.keys():
            shown = line if len(line) <= 60 else f"{line[:57]}..."
            raise ValueError(f"{path}, line {number}: got {shown!r}; expected a JSON object with phase and "
                             "step. Delete that line to go on")
        records.append(record)
    return records


def _scalar(name: str, value: Any) -> float | int | bool | None:
    if hasattr(value, "item"):  # 0-d torch tensors and numpy scalars, without importing either
        try:
            value = value.item()
        except (RuntimeError, ValueError) as error:
            kind = type(value).__name__
            raise ValueError(f"metric {name!r}: got a {kind} of many values; expected one number") from error
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise ValueError(f"metric {name!r}: got {value!r} ({type(value).__name__}); expected one number")


# --- Where numbers came from -------------------------------------------------


def run_info(*, seed: int | None = None) -> dict[str, Any]:
    """What someone needs to judge or repeat a run. Names no host, user or path.

    Returns:
        ``{"seed", "commit", "dirty", "versions", "hardware"}``. ``commit`` is None when the package
        does not run from a git checkout; ``dirty`` is True when its code or ``configs/`` differ from
        that commit, and None without one.
    """
    commit, dirty = git_state()
    return {"seed": seed, "commit": commit, "dirty": dirty, "versions": versions(), "hardware": hardware()}


def git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout this package runs from, and whether its code differs from it."""
    package = Path(__file__).resolve().parent
    # Installed inside somebody else's repository, git would answer with that repository's commit.
    if _git(package, "ls-files", "--error-unmatch", "--", "__init__.py") is None:
        return None, None
    commit = _git(package, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None, None
    changes = _git(package.parent, "status", "--porcelain", "--", package.name, "configs")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    # A git hook sets GIT_DIR and friends, which would point git at another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return _output(["git", *arguments], cwd=folder, env=environment)


def _output(command: list[str], **options: Any) -> str | None:
    """What a command prints, or None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, **options)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str | None]:
    """Versions of Python, this package and the libraries that shape the numbers; None if missing."""
    from rlhf_lite import __version__

    installed: dict[str, str | None] = {"python": platform.python_version(), "rlhf_lite": __version__}
    for name in LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = None
    return installed


def hardware() -> dict[str, Any]:
    """CPU model, cores this process may use, torch threads, memory in GB, GPU and platform."""
    torch = _library("torch")
    return {"cpu": _cpu_model(),
            "physical_cores": _physical_cores(), "logical_cores": _logical_cores(),
            "torch_threads": None if torch is None else torch.get_num_threads(),
            "memory_gb": _memory_gb(), "gpu": _gpu(torch),
            "platform": f"{platform.system()} {platform.machine()}"}


def _cpu_model() -> str | None:
    if sys.platform == "darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or None
    with contextlib.suppress(OSError):  # on Linux only
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or None


def _library(name: str) -> Any | None:
    """A library, or None: ``rlhf-lite doctor`` has to work with half of them missing or broken."""
    try:
        return importlib.import_module(name)
    except Exception:  # a half-installed torch raises OSError or worse
        return None


def _logical_cores() -> int | None:
    """Those that this process may use, which a container or ``taskset`` may have made fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _physical_cores() -> int | None:
    psutil = _library("psutil")
    physical = psutil and psutil.cpu_count(logical=False)
    return min(physical, _logical_cores() or physical) if physical else None


def _memory_gb() -> float | None:
    """Memory this process may use: the machine's, or less where a container sets a limit."""
    psutil = _library("psutil")
    if psutil is None:
        return None
    sizes = [psutil.virtual_memory().total]
    for limit in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max": no limit
            sizes.append(int(Path(limit).read_text(encoding="ascii")))
    return round(min(sizes) / 1e9, 1)


def _gpu(torch: Any | None) -> str | None:
    if torch is None:
        return None
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    if torch.backends.mps.is_available():
        return "Apple GPU (MPS)"
    return None
