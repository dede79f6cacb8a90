"""The test of the tests: every mistake in the list must make a test fail.

The list would rot silently if an edit no longer applied, so that is checked too: every ``old`` text occurs
once, every public function has at least one mutation, and the unchanged copy passes.
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from mutations import TESTS, all_mutations

import rlhf_lite.functional

FUNCTIONAL = Path(rlhf_lite.functional.__file__).parent
MUTATIONS = all_mutations()
PARTS = 2  # on two cores the halves are judged at the same time


def test_there_are_enough_and_each_has_its_own_name():
    counts = collections.Counter(mutation.id for mutation in MUTATIONS)
    assert [name for name, count in counts.items() if count > 1] == []
    assert len(MUTATIONS) >= 60
    edits = collections.Counter((mutation.file, mutation.old, mutation.new) for mutation in MUTATIONS)
    assert max(edits.values()) == 1


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.id)
def test_the_edit_still_applies(mutation):
    source = (FUNCTIONAL / mutation.file).read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1, "change `old` to what the source says now"
    compile(source.replace(mutation.old, mutation.new), mutation.file, "exec")
    assert mutation.old != mutation.new
    assert mutation.mistake.endswith(".") and mutation.symptom.rstrip(")").endswith(".")


def test_every_public_name_can_go_wrong():
    assert {mutation.function for mutation in MUTATIONS} == set(rlhf_lite.functional.__all__)


def test_every_file_is_watched():
    paths = {path.relative_to(FUNCTIONAL) for path in FUNCTIONAL.rglob("*.py") if path.name != "__init__.py"}
    files = {path.as_posix() for path in paths} - {"checks.py"}
    assert files == set(TESTS) == {mutation.file for mutation in MUTATIONS}


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=pytest.mark.xdist_group(f"mutations-{part}")) for part in range(PARTS)]
)
def test_every_mistake_is_found(part):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_mutations.py")), "--part", f"{part + 1}/{PARTS}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = {line["id"]: line for line in map(json.loads, done.stdout.splitlines())}
    control = outcomes.pop("control")
    assert control["status"] == "survived", f"the unchanged copy fails: {control['by']}"
    assert set(outcomes) == {mutation.id for mutation in MUTATIONS[part::PARTS]}
    not_found = {name: line["by"] for name, line in outcomes.items() if line["status"] != "killed"}
    assert not_found == {}, "write a test that fails for these mistakes"
