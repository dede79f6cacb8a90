"""Public names of a package that are imported when first used (PEP 562), so that importing it is cheap."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Editors and type checkers do not see these names, so the package imports them under ``TYPE_CHECKING`` too.

    Args:
        package: its ``__name__``.
        homes: module within the package -> its public names, separated by white space.
    """
    home_of = {name: home for home, names in homes.items() for name in names.split()}
    public = sorted(home_of)

    def get(name: str) -> Any:
        if name not in home_of:
            known = ", ".join(public)
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {known}")
        value = getattr(import_module(f"{package}.{home_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *public}), public
