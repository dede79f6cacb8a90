"""Apply each mutation to a copy of ``rlhf_lite/functional`` and run the tests that watch it.

Usage: ``python tests/mutation/run_mutations.py [id ...]`` prints one JSON line per mutation, the first one
for the unchanged copy (id ``control``). Everything heavy is imported once; each mutation then runs in a
forked child, which imports the changed package afresh: a fraction of a second instead of several. With
``--part 1/2`` it judges the first of two halves of the list.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
FUNCTIONAL = ROOT / "rlhf_lite" / "functional"
TESTS = ROOT / "tests" / "functional"
SECONDS = 60  # a child that takes longer has made an endless loop

sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
# Plug-ins of other tools are not needed here and take longer to load than most children run.
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"

# Below, not at the head (E402): the path and the variable above must be set before these are imported.
import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import strategies  # noqa: E402, F401  imported once for all children
from mutations import TESTS as WATCHED_BY  # noqa: E402
from mutations import Mutation, all_mutations  # noqa: E402

# -x: one failure is enough. The watcher of unraisable exceptions collects garbage five times in each child.
OPTIONS = ["-x", "-q", "-W", "ignore", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]
OPTIONS += ["--assert=plain", f"--rootdir={ROOT}"]
# Run once in the parent, so that no child has to import what these lines import on their first use.
WARM_UP = """
import hypothesis, pytest, torch
from torch.distributions import Categorical

@hypothesis.given(hypothesis.strategies.lists(hypothesis.strategies.floats(0, 1)))
def test_warm_up(numbers):
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(x, x)
    assert torch.autograd.gradcheck(torch.logsumexp, (x, 0))
    assert Categorical(logits=x).entropy().item() == pytest.approx(0.6931, abs=1e-3)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(x, 2 * x)
"""


class FirstFailure:
    """Remembers the first test that failed."""

    node = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.node:
            self.node = report.nodeid.rpartition("/")[2]


def mutated_copy(mutation: Mutation | None, folder: Path) -> None:
    """A package ``rlhf_lite.functional`` below ``folder`` with the mutation applied."""
    target = folder / "functional"
    shutil.copytree(FUNCTIONAL, target, ignore=shutil.ignore_patterns("__pycache__"))
    if mutation is not None:
        source = (target / mutation.file).read_text(encoding="utf-8")
        if source.count(mutation.old) != 1:
            raise ValueError(f"{mutation.id}: `old` occurs {source.count(mutation.old)} times")
        (target / mutation.file).write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")


def run_child(folder: Path, files: tuple[str, ...], report: int) -> None:
    """In the child: import the copy, run the tests, write the outcome to the pipe. Never returns."""
    outcome = {"status": "broken", "by": ""}
    try:
        signal.alarm(SECONDS)
        import rlhf_lite

        rlhf_lite.__path__.insert(0, str(folder))
        import rlhf_lite.functional

        if not rlhf_lite.functional.__file__.startswith(str(folder)):
            raise RuntimeError(f"the tests would run on {rlhf_lite.functional.__file__}")
        failure = FirstFailure()
        code = pytest.main([*OPTIONS, *(str(TESTS / name) for name in files)], plugins=[failure])
        status = {pytest.ExitCode.OK: "survived", pytest.ExitCode.TESTS_FAILED: "killed"}
        outcome = {"status": status.get(code, "broken"), "by": failure.node or str(code)}
    except BaseException:  # the child must report and leave, whatever happened
        outcome["by"] = traceback.format_exc()
    os.write(report, json.dumps(outcome).encode())
    os._exit(0)


def judge(mutation: Mutation | None, files: tuple[str, ...]) -> dict[str, str | float]:
    """The outcome for one mutation: killed, survived or broken (it does not import), and by which test."""
    with tempfile.TemporaryDirectory() as temporary, open(os.devnull, "w") as silent:
        folder = Path(temporary)
        mutated_copy(mutation, folder)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(silent.fileno(), 1)
            os.dup2(silent.fileno(), 2)
            run_child(folder, files, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read()
        used = os.wait4(child, 0)[2]
    outcome = json.loads(answer) if answer else {"status": "killed", "by": "it never ended"}
    name = mutation.id if mutation else "control"
    return {"id": name, **outcome, "cpu_seconds": round(used.ru_utime + used.ru_stime, 2)}


def warm_up() -> None:
    """Load what the tests load, and keep it out of the way of the children's garbage collection."""
    torch.set_num_threads(1)  # a child forked from a threaded parent would wait for threads that it lacks
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # finding a failure is enough
    hypothesis.settings.register_profile(
        "mutation", derandomize=True, database=None, phases=phases, deadline=None
    )
    hypothesis.settings.load_profile("mutation")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
        path = Path(folder) / "test_warm_up.py"
        path.write_text(WARM_UP, encoding="utf-8")
        if pytest.main([*OPTIONS, str(path)]) != pytest.ExitCode.OK:
            raise RuntimeError(f"the warm-up failed:\n{said.getvalue()}")
    gc.collect()
    gc.freeze()


def main(wanted: list[str], part: str) -> None:
    """Print one JSON line for the control and one per mutation."""
    number, parts = map(int, part.split("/"))
    warm_up()
    every_file = tuple(sorted({name for names in WATCHED_BY.values() for name in names}))
    mutations = [m for m in all_mutations() if not wanted or m.id in wanted][number - 1 :: parts]
    for mutation, files in [(None, every_file), *((m, WATCHED_BY[m.file]) for m in mutations)]:
        print(json.dumps(judge(mutation, files)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Apply mutations and run the tests that watch them.")
    parser.add_argument("ids", nargs="*", help="which mutations (default: all)")
    parser.add_argument("--part", default="1/1", help="2/3: the second of three parts of the list")
    arguments = parser.parse_args()
    main(arguments.ids, arguments.part)
