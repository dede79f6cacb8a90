"""The metrics page explains every metric that a trainer logs, and none that it does not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"[a-z_]+/[a-z0-9_]+")
# Logged without a unit: a length, a rate and a price.
PLAIN = {"grad_norm", "learning_rate", "kl_coef"}
# Names in saved states, not metrics.
STATE = {"best", "weight", "adam"}
KINDS = {"kind": ("desirable", "undesirable"), "name": ("<name>",)}


def logged() -> set[str]:
    """Strings of the trainers' sources that look like ``group/name_unit``, f-strings filled in."""
    found = set(PLAIN)
    for path in sorted((ROOT / "rlhf_lite" / "training").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(v) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for v in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                found |= {node.value} if NAME.fullmatch(node.value) else set()
            elif isinstance(node, ast.JoinedStr):
                found |= filled(node)
    return {name for name in found if name.split("/")[0] not in STATE | {"<name>"}}


def filled(node: ast.JoinedStr) -> set[str]:
    names = {""}
    for part in node.values:
        if isinstance(part, ast.Constant):
            names = {name + part.value for name in names}
        elif isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name):
            names = {name + kind for name in names for kind in KINDS.get(part.value.id, ("?",))}
    return {name for name in names if NAME.fullmatch(name.replace("<name>", "name"))}


def explained() -> set[str]:
    """The names in the first column of the page's tables."""
    page = (ROOT / "book" / "metrics.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_metric_is_explained_and_every_explained_metric_is_logged() -> None:
    # val_ names are explained once, at the head of the page.
    names = {name.removeprefix("val_") for name in logged()}
    assert "reward/part_<name>" in names and "logp/desirable_nats_per_seq" in names
    assert names == explained()


def test_every_row_says_what_a_healthy_run_looks_like() -> None:
    page = (ROOT / "book" / "metrics.md").read_text(encoding="utf-8")
    for line in page.splitlines():
        if line.startswith("| `"):
            # A bar inside a formula would break the table.
            assert line.count("|") == 5, line
            assert line.split("|")[4].strip(), line
