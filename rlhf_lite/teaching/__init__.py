"""What the book needs around the package: exercises, notebook helpers, figures that move, shared runs.

A chapter imports from here what it needs. Names are loaded on first use, so importing this package loads no
heavy library.
"""

# ruff: noqa: F401 (the imports are for editors, type checkers and lazy_names)
from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.lazy import lazy_names

if TYPE_CHECKING:
    from rlhf_lite.teaching.book_runs import cai_chapter_run, chapter_gold, chapter_run, remake, require
    from rlhf_lite.teaching.exercises import check
    from rlhf_lite.teaching.interactive import slider
    from rlhf_lite.teaching.notebook import (
        budget,
        note,
        picture,
        quiet,
        record,
        recorded,
        replay_line,
        show_table,
    )

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
