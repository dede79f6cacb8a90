"""RLHF Lite: a small, readable package for reinforcement learning from human feedback.

Importing the package is cheap: torch and the other heavy libraries are imported
only when a name that needs them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_lite.models import load_policy
    from rlhf_lite.teaching.notebook import record

__version__ = "0.1.0"
__all__ = ["__version__", "load_policy", "record"]

_LAZY = {
    "load_policy": "rlhf_lite.models",
    "record": "rlhf_lite.teaching.notebook",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'rlhf_lite' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
