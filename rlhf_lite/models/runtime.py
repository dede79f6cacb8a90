"""Where this process computes, how it uses the CPU, and what libraries may print while a model is loaded."""

from __future__ import annotations

import ctypes
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import parse_flag_from_env
from torch import nn
from transformers.utils import logging as transformers_logging

# Parameters of glibc's mallopt: the size above which memory is mapped anew for each tensor, the size above
# which freed memory goes back to the system, and the number of tensors that may be mapped.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4

# Names of the instructions for bfloat16: two of x86, then ARM's.
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


def compute_device() -> torch.device:
    """Where commands and runs put their models: a GPU that CUDA sees, else the CPU.

    In a run of several processes each has its own GPU. ``ACCELERATE_USE_CPU=true`` in the environment keeps a
    machine with a GPU on its CPU. Other accelerators, such as Apple's, are not used.
    """
    if not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def keep_freed_memory() -> bool:
    """Let the C library reuse the memory of freed tensors; returns whether this system knows how.

    By default every large tensor is mapped from the system and unmapped when it is freed, and the kernel
    zeroes each page at the first touch. With a vocabulary of 49,152 the logits of a batch are such a
    tensor, several times per step: on two cores a training step took 0.56 s instead of 0.80 s without
    that. The process keeps its peak memory until it ends.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(
        libc.mallopt(option, value) == 1
        for option, value in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_MMAP_MAX, 0))
    )


def use_cpu(threads: int | None = None) -> int:
    """Set the number of CPU threads (None: torch's choice) and keep freed memory; returns the threads."""
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    return torch.get_num_threads()


def has_bfloat16() -> bool:
    """Whether :func:`compute_device` multiplies bfloat16 matrices in hardware.

    The CPU's flags are torch's own, or the kernel's for a torch that is too old to tell. torch uses such
    instructions through oneDNN, which its builds for macOS lack.
    """
    if compute_device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if hasattr(torch.cpu, "get_capabilities"):
        flags = {name for name, there in torch.cpu.get_capabilities().items() if there is True}
    else:
        told = Path("/proc/cpuinfo")
        flags = set(told.read_text(encoding="utf-8").split()) if told.is_file() else set()
    return torch.backends.mkldnn.is_available() and not flags.isdisjoint(_BFLOAT16)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Try a model out: evaluation mode and no gradients; afterwards every module is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep loading free of progress bars and of notes that say nothing about this program.

    transformers reports every new classification head as untrained (it is: we train it), and PEFT calls a
    method that transformers has renamed.
    """
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
