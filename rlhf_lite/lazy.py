"""Public names of a package that are imported when first used (PEP 562), so that importing it is cheap."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package: what it imports under ``TYPE_CHECKING``.

    Editors and type checkers read those imports; they are read here too, so that every name stands once.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.
    """
    home_of = {alias.name: line.module
               for block in ast.parse(Path(file).read_text(encoding="utf-8")).body
               if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
               for line in block.body if isinstance(line, ast.ImportFrom) for alias in line.names}
    public = sorted(home_of)

    def get(name: str) -> Any:
        if name not in home_of:
            known = ", ".join(public)
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {known}")
        value = getattr(import_module(str(home_of[name])), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *public}), public
