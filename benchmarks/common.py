"""What every benchmark shares: two processes that take turns, ratios with their spread, and the roofline.

Each side runs in a process of its own, so that its peak memory and its start-up time are its own. The parent
gives the turns: one step here, one step there. A machine that gets slower in between slows both, so that the
ratio holds where the seconds do not.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "bench"
# Marks the lines of a worker that are meant for the parent; libraries print to the same pipe.
MARK = "\x1e"


# --- The worker's end


class Gate:
    """Lets a worker run one step per turn. The clock runs from the parent's word to the end of the step."""

    def __init__(self) -> None:
        self._started = 0.0
        self._seconds: float | None = None

    def ready(self) -> None:
        """Report that the first step could begin, and wait for the word."""
        self._tell({"ready": True})
        self.wait()

    def wait(self) -> None:
        """Wait for the next turn; the word ``stop`` ends the process after its peak memory is reported."""
        if sys.stdin.readline().strip() != "go":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            megabytes = peak / (1024**2 if platform.system() == "Darwin" else 1024)
            self._tell({"peak_megabytes": megabytes})
            os._exit(0)
        self._started, self._seconds = time.perf_counter(), None

    def stop_clock(self) -> None:
        """The step is over; what follows (logging) is not counted."""
        if self._seconds is None:
            self._seconds = time.perf_counter() - self._started

    def report(self, **numbers: float) -> None:
        """Report the finished step and wait for the next turn."""
        self.stop_clock()
        self._tell({"seconds": self._seconds, **numbers})
        self.wait()

    @staticmethod
    def _tell(record: dict[str, Any]) -> None:
        sys.stdout.write(f"{MARK}{json.dumps(record)}\n")
        sys.stdout.flush()


def e_share(text: str) -> float:
    """The reward of RLOO and GRPO: the fraction of letters that are an e. It costs nothing."""
    return text.count("e") / max(1, len(text))


def random_score(model: Any, seed: int) -> None:
    """Give a sequence classifier's score the same random weights on both sides."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".score." in f".{name}" and name.endswith("weight"):
            parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


# --- The parent's end


class WorkerError(RuntimeError):
    """A side stopped before it was told to; the message ends with what it printed last."""


@dataclass
class Worker:
    """One side of a comparison, running in its own process."""

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 (lives as long as the worker)
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | self.environment,
        )
        try:
            self._read()
        except WorkerError:
            self.close()
            raise
        self.start_seconds = time.perf_counter() - begun

    def step(self) -> dict[str, float]:
        """One turn; returns ``seconds`` and whatever else the worker reports."""
        self._send("go")
        return self._read()

    def stop(self) -> float:
        """End the process; returns its peak memory in megabytes."""
        self._send("stop")
        peak = self._read()["peak_megabytes"]
        self._process.wait(timeout=60)
        return peak

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _send(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        self._process.wait()
        self._errors.seek(0)
        raise WorkerError(f"{self.name} ended early:\n{self._errors.read()[-3000:]}")


@dataclass(frozen=True)
class Side:
    """What was measured of one side; ``steps`` leaves out the first step, which warms caches up."""

    name: str
    start_seconds: float
    peak_megabytes: float
    first_step: dict[str, float]
    steps: list[dict[str, float]]

    def record(self) -> dict[str, Any]:
        """For the JSON file."""
        seconds = [step["seconds"] for step in self.steps]
        return {
            "start_seconds": self.start_seconds,
            "peak_megabytes": self.peak_megabytes,
            "first_step_seconds": self.first_step["seconds"],
            "seconds_per_step": spread(seconds),
            "steps": [self.first_step, *self.steps],
        }


def take_turns(starts: Sequence[Callable[[], Worker]], *, rounds: int) -> list[Side]:
    """Start all sides one after the other, then let them step in turn; the order alternates.

    Args:
        starts: each starts one worker.
        rounds: counted steps of each, after one that is not counted.

    Returns:
        One side per worker, in the order of ``starts``.
    """
    workers: list[Worker] = []
    try:
        for start in starts:
            workers.append(start())
        done: list[list[dict[str, float]]] = [[] for _ in workers]
        for number in range(rounds + 1):
            order = range(len(workers))
            for which in order if number % 2 == 0 else reversed(order):
                done[which].append(workers[which].step())
        peaks = [worker.stop() for worker in workers]
    finally:
        for worker in workers:
            worker.close()
    return [
        Side(worker.name, worker.start_seconds, peak, steps[0], steps[1:])
        for worker, peak, steps in zip(workers, peaks, done, strict=True)
    ]


def spread(numbers: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Spread of ``theirs / ours``, round by round: above 1, ours is faster."""
    return spread([a / b for a, b in zip(theirs, ours, strict=True)])


# --- The machine


def roofline(*, repeats: int = 7) -> dict[str, float]:
    """What this machine can do at best: memory bandwidth and matrix products. Medians of ``repeats``.

    Returns:
        ``read_gigabytes_per_second`` (summing 512 MB that no cache holds) and ``fp32_gigaflops``,
        ``bf16_gigaflops`` (a product of two 1,536 x 1,536 matrices, 2 n^3 operations).
    """
    import torch

    def seconds(run: Callable[[], object]) -> float:
        run()
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    big = torch.ones(128 * 1024**2)
    speeds = {"read_gigabytes_per_second": big.nbytes / seconds(big.sum) / 1e9}
    n = 1536
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.ones(n, n, dtype=dtype), torch.ones(n, n, dtype=dtype)
        speeds[f"{name}_gigaflops"] = 2 * n**3 / seconds(lambda a=a, b=b: a @ b) / 1e9
    return speeds


def write_result(name: str, record: dict[str, Any]) -> Path:
    """Write ``results/bench/NAME.json``, whole or not at all."""
    from rlhf_lite.files import write_json

    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_json(path, record)
    return path
