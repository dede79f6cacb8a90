"""RLHF Lite: a small, readable package for reinforcement learning from human feedback.

Importing the package is cheap: torch and the other heavy libraries are imported
only when a name that needs them is first used.
"""

# ruff: noqa: F401 (the imports are for editors, type checkers and lazy_names)
from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.lazy import lazy_names

if TYPE_CHECKING:
    from rlhf_lite.models import load_policy
    from rlhf_lite.teaching.notebook import record

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
__all__ += ["__version__"]
