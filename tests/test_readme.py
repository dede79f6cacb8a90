"""The commands that README names exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_make_targets() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert {"book", "test", "quickstart"} <= named
    assert named <= targets


def test_commands_of_the_program() -> None:
    from rlhf_lite.cli.app import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"rlhf-lite ([a-z]+)\b", README))
    assert named
    assert named <= commands


def test_links_and_pictures_point_to_files() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_settings_files_it_names_exist() -> None:
    for name in re.findall(r"configs/[a-z_]+\.yaml", README):
        assert (ROOT / name).is_file(), name


# --- Where things are --------------------------------------------------------

PACKAGE = ROOT / "rlhf_lite"
TREE = README.split("## Where things are", 1)[1].split("```")[1]
READING = re.findall(r"^\| (`[^|]+`) \| ([\d,]+) \|", README, flags=re.M)


def lines_of(cell: str) -> int:
    """Lines of the files and folders that a cell of the reading path names, all of them below the package."""
    paths = [PACKAGE / name for name in re.findall(r"`([^`]+)`", cell)]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.glob("*.py")))]
    assert files and all(path.exists() for path in paths), cell
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def test_the_tree_names_every_room() -> None:
    rooms = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}
    without_python = {"chapters"}  # named in its parent's line
    for room in rooms:
        assert room.name in without_python or re.search(rf"\b{room.name}/", TREE), room
    for name in re.findall(r"\b[a-z_]+\.py\b", TREE):
        assert list(PACKAGE.rglob(name)), name


def test_files_that_are_pointed_at_exist() -> None:
    """Each line names files first and what to look for in them second."""
    table = README.split("| looking for | open", 1)[1].split("\n\n")[0]
    for line in table.splitlines()[2:]:
        names = re.findall(r"`([\w/]+\.(?:py|yaml))`", line)
        assert names, line
        paths = [path for name in names for path in (*PACKAGE.rglob(name), ROOT / name) if path.is_file()]
        assert len(paths) >= len(names), line
        text = "".join(path.read_text(encoding="utf-8") for path in paths)
        for symbol in re.findall(r"`([A-Za-z_.]+)`", line):
            if not symbol.endswith((".py", ".yaml")):
                assert all(re.search(rf"\b(def|class) {part}\b", text) for part in symbol.split(".")), symbol


def test_the_reading_path_has_the_lines_it_says() -> None:
    assert len(READING) >= 6
    for cell, said in READING:
        actual = lines_of(cell)
        assert abs(int(said.replace(",", "")) - actual) <= 0.1 * actual, f"{cell}: {actual} lines now"
    total = int(re.search(r"core in about ([\d,]+) lines", README)[1].replace(",", ""))
    assert abs(total - sum(lines_of(cell) for cell, _ in READING)) <= 150


def test_the_size_of_the_package_is_what_it_says() -> None:
    said = int(re.search(r"`rlhf_lite/` has ([\d,]+) lines", README)[1].replace(",", ""))
    actual = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py"))
    assert abs(said - actual) <= 500, f"{actual} lines now"
