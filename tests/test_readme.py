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
