"""Install requirements.lock and this package into the environment whose Python runs this script.

Standard library only, for nothing else is there yet: ``make setup`` calls it. It chooses two things:

- *Which torch.* On Linux the torch of the common index brings CUDA libraries of 2.6 GB. Where no NVIDIA GPU
  is found, PyTorch's own index gives the build without them. The variable ``RLHF_LITE_TORCH_INDEX`` names
  another index for torch, with or without a GPU; ``none`` means none. An index that does not answer within
  seconds or lacks the locked version is passed over, and so is this choice where pip is told where to look.
- *Which installer.* ``uv`` where it is installed, which is several times faster, else pip.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
VARIABLE = "RLHF_LITE_TORCH_INDEX"
# Where pip or uv were told to look for packages; their settings files are asked as well.
PLACES = re.compile(r"(PIP|UV)_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS)")
ANSWER_SECONDS = 8
# Compressed sizes of the locked packages for Linux on x86-64, in GB.
REST_GB, CPU_TORCH_GB, CUDA_TORCH_GB = 0.3, 0.2, 2.6


def locked_torch(lock: Path = LOCK) -> str:
    """The version of torch in the lock."""
    match = re.search(r"^torch==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    assert match is not None, f"{lock} names no torch"
    return match[1]


def has_nvidia_gpu() -> bool:
    """Whether the driver of an NVIDIA GPU is there."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def is_configured(environment: Mapping[str, str]) -> bool:
    """Whether pip or uv is told where to look, by the environment or by pip's settings files."""
    if any(PLACES.fullmatch(name) and value for name, value in environment.items()):
        return True
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return re.search(r"\.(index-url|extra-index-url|find-links)=", listed) is not None


def page_of_torch(index: str) -> str:
    """What an index says about torch; empty without an answer in time, for a name's look-up may hang too."""
    answer: list[str] = []

    def ask() -> None:
        try:
            with urlopen(f"{index.rstrip('/')}/torch/", timeout=ANSWER_SECONDS) as page:
                answer.append(page.read().decode("utf-8", "replace"))
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return "".join(answer)


def torch_index(environment: Mapping[str, str], *, gpu: bool, system: str, configured: bool,
                page: Callable[[str], str] = page_of_torch) -> tuple[str | None, str]:
    """The index that torch comes from besides the common one, and a sentence that says why.

    Args:
        environment: may hold ``RLHF_LITE_TORCH_INDEX``.
        gpu: an NVIDIA GPU is there.
        system: as ``platform.system`` says.
        configured: pip or uv is told where to look.
        page: asks an index about torch.
    """
    wanted = environment.get(VARIABLE, "").strip()
    if wanted.lower() == "none":
        return None, f"torch comes from where pip looks, since {VARIABLE} is none"
    if not wanted and system != "Linux":
        return None, "torch is the build for this system"
    if not wanted and gpu:
        return None, "torch is the build with CUDA, since an NVIDIA GPU was found"
    if not wanted and configured:
        return None, "torch comes from where pip is told to look"
    index = wanted or TORCH_INDEX
    if f"torch-{locked_torch()}" not in page(index):
        what = f"{index} gave no answer or has no torch {locked_torch()}"
        return None, f"torch comes from where pip looks: {what}"
    return index, f"torch comes from {index}" + ("" if wanted else ", since no NVIDIA GPU was found")


def install_commands(index: str | None, uv: str | None, python: str = sys.executable) -> list[list[str]]:
    """The two commands: everything in the lock, then this package, which changes with its folder."""
    if uv is None:
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    else:
        install = [uv, "pip", "install", "--quiet", "--python", python]
    extra = [] if index is None else ["--extra-index-url", index]
    # By default uv takes every package from the first index that has any version of it.
    extra += ["--index-strategy", "unsafe-best-match"] if index is not None and uv is not None else []
    return [[*install, *extra, "-r", str(LOCK)],
            [*install, "--no-deps", "--no-build-isolation", "-e", str(ROOT)]]


def size(index: str | None, why: str) -> str:
    """What the download will be, in words."""
    if index == TORCH_INDEX or platform.system() != "Linux":
        return f"about {REST_GB + CPU_TORCH_GB:.1f} GB"
    if "with CUDA" in why:
        return f"about {REST_GB + CUDA_TORCH_GB:.1f} GB"
    return (f"{REST_GB + CPU_TORCH_GB:.1f} to {REST_GB + CUDA_TORCH_GB:.1f} GB, without or with CUDA "
            f"libraries ({VARIABLE}=URL names an index whose torch has none)")


def main() -> None:
    """Say what will be downloaded, then install; without the extra index if that fails."""
    index, why = torch_index(os.environ, gpu=has_nvidia_gpu(), system=platform.system(),
                             configured=is_configured(os.environ))
    uv = shutil.which("uv")
    print(f"Downloading {size(index, why)}: {why}; installer: {'pip' if uv is None else 'uv'}", flush=True)
    packages, package = install_commands(index, uv)
    done = subprocess.run(packages, check=False).returncode
    if done and index is not None:
        print(f"The packages could not be installed with {index}; trying without it", flush=True)
        done = subprocess.run(install_commands(None, uv)[0], check=False).returncode
    raise SystemExit(done or subprocess.run(package, check=False).returncode)


if __name__ == "__main__":
    main()
