"""pyproject.toml, requirements.lock and environment.yml describe one environment; the two commands work."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import rlhf_lite
from tools import check_files, lock, no_downgrade

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CORE = PROJECT["project"]["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
CONSTRAINTS = PROJECT["tool"]["rlhf-lite"]["lock"]["constraints"]


def requirement_lines(path: Path) -> list[str]:
    """Lines of a requirements file, without comments; ``-r`` is followed."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            found += requirement_lines(path.parent / text.removeprefix("-r ").strip())
        elif text:
            found.append(text)
    return found


def locked() -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in requirement_lines(ROOT / "requirements.lock")]
    return {canonicalize_name(item.name): item for item in parsed}


def version_of(requirement: Requirement) -> Version:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


def declared() -> Iterator[tuple[str, Requirement]]:
    for line in CORE:
        yield "core", Requirement(line)
    for extra, lines in EXTRAS.items():
        for line in lines:
            yield extra, Requirement(line)


# --- The three files ---------------------------------------------------------


def test_every_direct_dependency_is_locked_at_a_version_that_fits() -> None:
    versions = locked()
    for place, requirement in declared():
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{requirement} ({place}) is not in requirements.lock: make lock"
        fits = requirement.specifier.contains(version_of(versions[name]), prereleases=True)
        assert fits, f"{place} asks for {requirement}, the lock has {versions[name]}"


def test_pyproject_has_lower_bounds_only() -> None:
    exact = []
    for _, requirement in declared():
        operators = [specifier.operator for specifier in requirement.specifier]
        assert operators, f"{requirement} has no lower bound"
        if operators == ["=="]:
            exact.append(requirement.name)
        else:
            assert operators == [">="], f"{requirement}: an upper bound would make Colab downgrade"
    assert exact == ["jupyter-book"]


def test_the_lock_is_portable() -> None:
    lines = requirement_lines(ROOT / "requirements.lock")
    names = [canonicalize_name(Requirement(line).name) for line in lines]
    assert names == sorted(set(names))
    for line in lines:
        # No local suffix such as +cpu, no hash, address or path.
        assert re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.!]+( ; .+)?", line), line
    assert "torch==2.13.0" in lines
    assert "rlhf-lite" not in names
    assert not [name for name in names if name.startswith(("nvidia-", "triton", "cuda-"))]


def test_the_lock_keeps_what_is_held_back() -> None:
    versions = locked()
    assert {Requirement(line).name for line in CONSTRAINTS} >= {"torch", "myst-nb", "ipykernel", "pytest"}
    for line in CONSTRAINTS:
        requirement = Requirement(line)
        version = version_of(versions[canonicalize_name(requirement.name)])
        assert requirement.specifier.contains(version), line


def test_the_lock_is_closed_under_its_own_requirements() -> None:
    """What a locked package asks for is locked, at a version that it accepts."""
    versions = locked()
    wrong = []
    for name in versions:
        try:
            asks = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # locked for another platform
            continue
        if importlib.metadata.version(name).partition("+")[0] != str(version_of(versions[name])):
            continue
        for line in asks:
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            found = versions.get(canonicalize_name(requirement.name))
            if found is None or not requirement.specifier.contains(version_of(found), prereleases=True):
                wrong.append(f"{name} asks for {requirement}, the lock has {found}")
    # A CUDA build of torch asks for more; pip adds those packages where they are wanted.
    assert [line for line in wrong if not re.search(r"asks for (nvidia|cuda|triton)", line)] == []


def test_environment_yml_has_the_locks_versions() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    python = next(item.partition("=")[2].lstrip("=") for item in conda if item.startswith("python="))
    assert Requirement(f"python{PROJECT['project']['requires-python']}").specifier.contains(f"{python}.0")
    assert [item for item in conda if not item.startswith("python=")] == ["pip"]
    versions = locked()
    lines: list[str] = []
    for item in pip:
        lines += requirement_lines(ROOT / item.removeprefix("-r ")) if item.startswith("-r ") else [item]
    found = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    for _, requirement in declared():
        name = canonicalize_name(requirement.name)
        assert name in found, f"environment.yml does not install {name}"
    for name, requirement in found.items():
        assert version_of(requirement) == version_of(versions[name]), name


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == rlhf_lite.__version__
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "rlhf_lite.__version__"}


def test_every_import_of_the_package_is_declared() -> None:
    """A library that merely happens to be installed is missing on a reader's machine."""
    modules = importlib.metadata.packages_distributions()
    core = {canonicalize_name(Requirement(line).name) for line in CORE}
    optional = {canonicalize_name(Requirement(line).name) for lines in EXTRAS.values() for line in lines}
    # pyarrow comes with datasets, tokenizers and huggingface_hub with transformers, IPython with a notebook's
    # kernel, annotated-types with pydantic. detoxify is somebody's choice on the command line; without it an
    # error says how to install it.
    core |= {"pyarrow", "tokenizers", "huggingface-hub", "annotated-types", "detoxify"}
    wrong = []
    for path in sorted((ROOT / "rlhf_lite").rglob("*.py")):
        allowed = core | optional if "serving" in path.parts else core
        for top, line in top_level_imports(path):
            if top in sys.stdlib_module_names or top in {"rlhf_lite", "__future__", "IPython"}:
                continue
            names = {canonicalize_name(name) for name in modules.get(top, [top])}
            if not names & allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {top}")
    assert wrong == []


def top_level_imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], node.lineno


# --- tools/lock.py and tools/no_downgrade.py ---------------------------------


def test_lock_lines_drop_suffixes_and_gpu_packages_and_add_markers() -> None:
    frozen = ["torch==2.13.0+cpu", "nvidia-cublas-cu12==1", "triton==3.0", "pip==23"]
    frozen += ["Zope.Thing_x==1.0.post1", "ptyprocess==0.7", ""]
    assert lock.lock_lines("\n".join(frozen), {"ptyprocess": "sys_platform != 'win32'"}) == [
        "ptyprocess==0.7 ; sys_platform != 'win32'",
        "torch==2.13.0",
        "zope-thing-x==1.0.post1",
    ]


@pytest.mark.parametrize("line", ["-e git+https://x/y", "torch @ file:///wheels/torch.whl", "torch>=2"])
def test_lock_lines_refuse_what_installs_on_one_machine_only(line: str) -> None:
    with pytest.raises(ValueError, match="expected name==version"):
        lock.lock_lines(line, {})


def test_the_lock_is_what_the_tool_would_write() -> None:
    requirements, constraints, markers = lock.read_project(ROOT / "pyproject.toml")
    assert set(requirements) == {*CORE, *(line for lines in EXTRAS.values() for line in lines)}
    assert constraints == CONSTRAINTS
    lines = requirement_lines(ROOT / "requirements.lock")
    bare = "\n".join(line.partition(" ;")[0] for line in lines)
    assert lock.lock_lines(bare, markers) == lines


def test_no_downgrade(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "before").write_text("numpy==2.4.0\ntorch==2.10.0+cu128\nold @ file:///x\n", encoding="utf-8")
    (tmp_path / "same").write_text("numpy==2.10.0\ntorch==2.10.0+cu128\nnew==1\n", encoding="utf-8")
    (tmp_path / "older").write_text("NumPy==2.3.9\ntorch==2.10.0+cu128\n", encoding="utf-8")
    assert no_downgrade.main(str(tmp_path / "before"), str(tmp_path / "same")) == 0
    assert no_downgrade.main(str(tmp_path / "before"), str(tmp_path / "older")) == 1
    assert "numpy: 2.4.0 became 2.3.9" in capsys.readouterr().out


# --- make --------------------------------------------------------------------

FAKE_PYTHON = """#!/bin/sh
# Stands in for python3 and for .venv/bin/python: writes down how it was called.
echo "$*" >> "$CALLS"
case "$*" in
  *version_info*) exit "${TOO_OLD:-0}" ;;
  "-m venv --clear "*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; exit 0 ;;
  "tools/set_up.py") exit "${INSTALL_FAILS:-0}" ;;
esac
exit 0
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what make needs, in a folder with a space in its name, and a Python that does nothing."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    fake = tmp_path / "python3"
    fake.write_text(FAKE_PYTHON, encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS", "PYTHON"):  # the suite itself may run under make
        monkeypatch.delenv(name, raising=False)
    return folder


def make(tree: Path, *arguments: str, expect: int = 0, **environment: str) -> tuple[list[str], str]:
    """Run make; returns how Python was called, and what was printed."""
    calls = tree.parent / "calls"
    calls.unlink(missing_ok=True)
    command = ["make", f"PYTHON={tree.parent / 'python3'}", *arguments]
    done = subprocess.run(
        command, cwd=tree, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) == bool(expect), done.stdout + done.stderr
    return calls.read_text().splitlines() if calls.exists() else [], done.stdout + done.stderr


def installs(calls: list[str]) -> int:
    return sum(call == "tools/set_up.py" for call in calls)


def fresh(calls: list[str]) -> int:
    return sum("venv --clear" in call for call in calls)


def test_the_two_commands(tree: Path) -> None:
    calls, _ = make(tree, "test", "ARGS=-k nothing")
    assert fresh(calls) == installs(calls) == 1
    assert calls[-1].startswith("-m pytest -n auto --dist loadgroup ") and calls[-1].endswith(" -k nothing")
    calls, _ = make(tree, "check", "ARGS=-k nothing")
    assert calls[0] == "-m ruff check ."
    assert calls[1].endswith(" -m not slow and not notebooks and not site -k nothing")
    calls, _ = make(tree, "book")
    assert calls == ["tools/build_book.py"]  # nothing is set up again


def test_book_is_made_although_a_folder_has_its_name(tree: Path) -> None:
    for name in ("book", "test", "lab"):
        (tree / name).mkdir()
        assert make(tree, name)[0], name


def test_a_second_call_starts_at_once(tree: Path) -> None:
    make(tree, "setup")
    started = time.monotonic()
    calls, _ = make(tree, "setup")
    assert calls == []
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_change_installs_again_into_the_same_environment(tree: Path, name: str) -> None:
    make(tree, "setup")
    future = time.time() + 5
    os.utime(tree / name, (future, future))
    calls, _ = make(tree, "setup")
    assert (installs(calls), fresh(calls)) == (1, 0)


def test_an_interrupted_set_up_is_done_again_from_the_start(tree: Path) -> None:
    make(tree, "test", expect=2, INSTALL_FAILS="1")
    calls, _ = make(tree, "test")
    assert (installs(calls), fresh(calls)) == (1, 1)
    assert make(tree, "book")[0] == ["tools/build_book.py"]


def test_an_interrupted_second_set_up_is_done_again_as_well(tree: Path) -> None:
    make(tree, "setup")
    future = time.time() + 5
    os.utime(tree / "requirements.lock", (future, future))
    make(tree, "setup", expect=2, INSTALL_FAILS="1")
    calls, _ = make(tree, "setup")
    assert (installs(calls), fresh(calls)) == (1, 1)


def test_a_copied_tree_gets_its_own_environment(tree: Path) -> None:
    make(tree, "setup")
    copy = tree.parent / "b clone"
    shutil.copytree(tree, copy)
    calls, _ = make(copy, "setup")
    assert (installs(calls), fresh(calls)) == (1, 1)
    assert make(copy, "setup")[0] == []


def test_an_old_python_is_refused_before_anything_is_made(tree: Path) -> None:
    calls, _ = make(tree, "setup", expect=2, TOO_OLD="1")
    assert fresh(calls) == 0
    assert not (tree / ".venv").exists()


def test_the_version_check_says_what_to_do(tree: Path) -> None:
    text = (tree / "Makefile").read_text(encoding="utf-8").replace("(3, 11, 5) or", "(99, 0, 0) or")
    (tree / "Makefile").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}"], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "RLHF Lite needs Python 3.11.5 or newer" in done.stderr
    assert "make PYTHON=" in done.stderr
    done = subprocess.run(
        ["make", "setup", "PYTHON=no-such-python"], cwd=tree, capture_output=True, text=True, check=False
    )
    assert "There is no program 'no-such-python'" in done.stderr


def test_every_target_is_listed_and_phony(tree: Path) -> None:
    _, out = make(tree)
    text = (tree / "Makefile").read_text(encoding="utf-8")
    phony = next(line for line in text.splitlines() if line.startswith(".PHONY: help")).split()[1:]
    assert set(phony) >= {"book", "test", "quickstart", "lab", "lint", "clean", "student", "lock", "help"}
    for target in phony:
        assert f"make {target} " in out


def test_clean_keeps_environment_and_runs(tree: Path) -> None:
    make(tree, "setup")
    for name in ("runs/a", "stage", "_build/html", "pkg/__pycache__", ".venv/lib/__pycache__"):
        (tree / name).mkdir(parents=True)
    make(tree, "clean")
    left = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_dir()}
    assert left == {".venv", ".venv/bin", ".venv/lib", ".venv/lib/__pycache__", "pkg", "runs", "runs/a"}


@pytest.mark.parametrize("target", ["book", "student"])
def test_the_tools_that_make_calls_exist(target: str) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    body = text.partition(f"\n{target}: ")[2].partition("\n\n")[0]
    script = re.search(r"tools/\w+\.py", body)
    assert script is not None
    assert (ROOT / script[0]).is_file()


# --- Continuous integration, hooks, files ------------------------------------


def test_ci_runs_exactly_the_two_commands() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert "set -eo pipefail" in text
    assert [line for line in text.splitlines() if line.startswith("make ")] == ["make test", "make book"]
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


@pytest.mark.parametrize(("failing", "expected"), [("", ["test", "book"]), ("test", ["test"])])
def test_ci_stops_at_the_first_failure(tmp_path: Path, failing: str, expected: list[str]) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    fake = tmp_path / "bin" / "make"
    fake.parent.mkdir()
    script = f'#!/bin/sh\necho "$1" >> "{tmp_path}/calls"\n[ "$1" != "{failing}" ]\n'
    fake.write_text(script, encoding="utf-8")
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}{os.pathsep}{os.environ['PATH']}", "CI": ""}
    done = subprocess.run([tmp_path / ".ci" / "run"], env=environment, cwd=tmp_path.parent, check=False)
    assert (tmp_path / "calls").read_text().split() == expected
    assert (done.returncode == 0) == (not failing)


def workflows() -> dict[str, tuple[str, Any]]:
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    return {path.stem: (text := path.read_text(encoding="utf-8"), yaml.safe_load(text)) for path in files}


def test_workflows_are_sound_and_say_what_was_never_run() -> None:
    found = workflows()
    assert set(found) >= {"test", "publish", "colab"}
    for name, (text, content) in found.items():
        assert content["jobs"], name
        assert content["permissions"] == {"contents": "read"}, name  # a job asks for more where it needs more
        for job in content["jobs"].values():
            for step in job["steps"]:
                if "uses" in step:
                    assert re.fullmatch(r"[\w.-]+/[\w.-]+@v\d+", step["uses"]), step["uses"]
        assert "Actions are pinned by major version" in text
    for name in ("publish", "colab"):
        assert found[name][0].startswith("# This workflow has never been run")
    jobs = found["test"][1]["jobs"]
    assert any(step.get("run") == ".ci/run" for step in jobs["test"]["steps"])
    versions = {entry["python"] for entry in jobs["versions"]["strategy"]["matrix"]["include"]}
    (first,) = (step["with"]["python-version"] for step in jobs["test"]["steps"] if "with" in step
                and "python-version" in step["with"])
    assert first not in versions and len(versions) >= 2


def test_hooks_use_the_locked_versions() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert set(hooks) >= {"ruff", "nbstripout", "files"}
    assert "--keep-id" in hooks["nbstripout"]["entry"]
    for hook in hooks.values():
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/python ")


def test_nbstripout_keeps_cell_ids_and_drops_outputs(tmp_path: Path) -> None:
    import nbformat

    cell = nbformat.v4.new_code_cell("1 + 1", id="my-own-id", metadata={"tags": ["exercise"]})
    cell["outputs"] = [nbformat.v4.new_output("stream", text="2")]
    cell["execution_count"] = 7
    cell["metadata"]["execution"] = {"shell.execute_reply": "2026-01-01T00:00:00Z"}
    path = tmp_path / "n.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    subprocess.run([sys.executable, "-m", "nbstripout", "--keep-id", path], check=True)
    (stripped,) = nbformat.read(path, as_version=4)["cells"]
    assert (stripped["id"], stripped["outputs"], stripped["execution_count"]) == ("my-own-id", [], None)
    assert stripped["metadata"] == {"tags": ["exercise"]}


def test_check_files_finds_what_must_not_be_committed(tmp_path: Path) -> None:
    good = tmp_path / "good.yml"
    good.write_text("a: 1\n---\nb: 2\n", encoding="utf-8")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [\n", encoding="utf-8")
    big = tmp_path / "big.bin"
    big.write_bytes(b"\xff" * (check_files.MAX_KILOBYTES * 1000 + 1))
    merge = tmp_path / "merge.py"
    merge.write_text("x = 1\n" + "<" * 7 + " HEAD\n", encoding="utf-8")
    assert check_files.problems_of(good) == []
    assert "not valid YAML" in check_files.problems_of(bad)[0]
    assert "at most" in check_files.problems_of(big)[0]
    assert "merge.py:2" in check_files.problems_of(merge)[0]
    assert check_files.main([str(good)]) == 0
    assert check_files.main([str(good), str(bad)]) == 1


def test_the_repository_passes_its_own_file_check() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so it is unknown which files are committed")
    assert check_files.main([]) == 0


def test_ruff_is_clean() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format=concise", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_licences_are_the_ones_that_are_named() -> None:
    code = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in code
    assert "END OF TERMS AND CONDITIONS" in code
    text = (ROOT / "LICENSE-CC-BY-4.0").read_text(encoding="utf-8")
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in text
