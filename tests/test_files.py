"""A file or a folder is complete or absent, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from rlhf_lite.files import (
    at_home,
    atomic_file,
    atomic_folder,
    fingerprint,
    remove_leftovers,
    write_bytes,
    write_json,
    write_json_lines,
    write_text,
)

ROOT = Path(__file__).parents[1]


def content(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir()}


def folder_with(place: Path, name: str) -> Path:
    place.mkdir(parents=True)
    (place / name).write_text(name)
    return place


def test_a_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "deep" / "sft"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists() and folder.parent == target.parent
    assert content(target) == {"a": "1"}
    assert list(target.parent.iterdir()) == [target]


def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path):
    target = tmp_path / "sft"
    for name in ("a", "b"):
        with atomic_folder(target) as folder:
            (folder / name).write_text(name)
    assert content(target) == {"b": "b"}
    assert list(tmp_path.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_what_was_there(tmp_path, existing):
    target = tmp_path / "sft"
    if existing:
        target.mkdir()
        (target / "old").write_text("old")
    with pytest.raises(RuntimeError, match="inside"), atomic_folder(target) as folder:
        (folder / "new").write_text("half")
        raise RuntimeError("inside")
    assert [p.name for p in tmp_path.iterdir()] == (["sft"] if existing else [])
    if existing:
        assert content(target) == {"old": "old"}


KILLED = """
import os, signal, sys
from pathlib import Path
from rlhf_lite.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "new").write_text("half")
    {death}
"""


@pytest.mark.parametrize("death", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_kill_leaves_what_was_there(tmp_path, death, existing):
    target = tmp_path / "sft"
    if existing:
        target.mkdir()
        (target / "old").write_text("old")
    code = KILLED.format(death=death)
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=ROOT, check=False)
    assert done.returncode == (3 if "_exit" in death else -signal.SIGKILL)
    assert target.exists() == existing
    leftovers = [p for p in tmp_path.iterdir() if p != target]
    assert len(leftovers) == 1
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == (["sft"] if existing else [])
    if existing:
        assert content(target) == {"old": "old"}


def test_remove_leftovers_touches_nothing_else(tmp_path):
    for name in ("step-000001", ".git", ".x.abc.tmp", ".x.abc.old"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.tmp").write_text("mine")
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"step-000001", ".git", "notes.tmp"}


def test_remove_leftovers_takes_files_too(tmp_path):
    """``write_json`` killed half-way leaves a file of that kind."""
    (tmp_path / ".metrics.json.77.tmp").write_text("{")
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_write_json_is_atomic_and_strict(tmp_path):
    path = tmp_path / "new" / "metrics.json"
    write_json(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    for bad in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, {"a": bad})
    assert json.loads(path.read_text()) == {"a": [1, None]}


# --- Steps


def test_leftovers_of_one_name_only(tmp_path):
    for name in (".sft.ab.tmp", ".sft.ab.old", ".reward.ab.tmp", ".sft.lock"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "sft")
    assert {p.name for p in tmp_path.iterdir()} == {".reward.ab.tmp", ".sft.lock"}


@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_the_file_that_was_there(tmp_path, existing):
    path = tmp_path / "report.md"
    if existing:
        path.write_text("old")
    with pytest.raises(RuntimeError, match="inside"), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("inside")
    assert content(tmp_path) == ({"report.md": "old"} if existing else {})


def test_texts_and_bytes_and_lines(tmp_path):
    for name, write, given in (
        ("a", write_bytes, b"\x00\n"),
        ("b", write_text, "ü\n"),
        ("c", write_json_lines, ({"ü": n} for n in range(2))),
    ):
        write(tmp_path / "new" / name, given)
    written = {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()}
    assert written == {"a": b"\x00\n", "b": b"\xc3\xbc\n", "c": '{"ü": 0}\n{"ü": 1}\n'.encode()}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json_lines(tmp_path / "new" / "c", [{"a": float("nan")}])
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"a", "b", "c"}


def test_fingerprint():
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})


class Killed(BaseException):
    """Stands for a kill: nothing of the writer runs any more."""


OPERATIONS = ("mkdir", "rename", "replace", "rmdir", "unlink", "open")


def replace_folder(target: Path, *, stop_at: int, monkeypatch) -> int:
    """Replace ``target``; at operation ``stop_at`` of the system the process is gone. The operations seen."""
    count = 0

    def counted(real):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count >= stop_at:
                raise Killed
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch, suppress(Killed):
        for name in OPERATIONS:
            patch.setattr(os, name, counted(getattr(os, name)))
        with atomic_folder(target) as folder:
            (folder / "new").write_text("new")
    return count


def test_a_kill_at_any_operation_leaves_the_old_or_the_new_folder(tmp_path, monkeypatch):
    """Nothing that runs after the kill, the writer's own clearing up included, touches the disk."""
    total = replace_folder(folder_with(tmp_path / "whole", "old"), stop_at=1000, monkeypatch=monkeypatch)
    assert total > 5
    seen = set()
    for stop_at in range(1, total + 1):
        place = tmp_path / str(stop_at)
        target = folder_with(place / "sft", "old")
        replace_folder(target, stop_at=stop_at, monkeypatch=monkeypatch)
        missing = not target.exists()
        remove_leftovers(place)
        assert [entry.name for entry in place.iterdir()] == ["sft"]
        found = content(target)
        assert found in ({"old": "old"}, {"new": "new"})
        seen.add((missing, *found))
    assert seen == {(False, "old"), (True, "old"), (False, "new")}  # also between the two renames


def test_an_error_between_the_two_renames_leaves_the_old_folder(tmp_path, monkeypatch):
    target = folder_with(tmp_path / "sft", "old")
    real, calls = os.replace, []

    def second_fails(source, place):
        calls.append(place)
        if len(calls) == 2:
            raise PermissionError(13, "in use", str(place))
        return real(source, place)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(PermissionError), atomic_folder(target) as folder:
        (folder / "new").write_text("new")
    assert content(target) == {"old": "old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["sft"]


def test_the_next_writer_finds_what_a_kill_hid(tmp_path):
    """A writer that fails does not lose the folder that an earlier kill left under its hidden name."""
    folder_with(tmp_path / ".sft.0123abcd.old", "old")
    with pytest.raises(RuntimeError, match="inside"), atomic_folder(tmp_path / "sft"):
        raise RuntimeError("inside")
    remove_leftovers(tmp_path)
    assert content(tmp_path / "sft") == {"old": "old"}
    with atomic_folder(tmp_path / "sft") as folder:
        (folder / "new").write_text("new")
    assert content(tmp_path / "sft") == {"new": "new"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["sft"]


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/runs") == at_home(Path("~/runs")) == str(tmp_path / "runs")
    for text in ("a/~/b", "~nobody-of-that-name/x", "org/name", "./x//y"):
        assert at_home(text) == text
