"""Small helpers for notebooks: numbers for the book's pages, computed sentences, and the budget.

Only IPython is needed, and only inside a notebook, so that the same cells run in Colab, in JupyterLab and
as a plain script.
"""

from __future__ import annotations

import os
from typing import Any

BUDGETS = ("fast", "full")
# The prefix under which MyST-NB looks for recorded values; front ends show nothing for this type.
RECORD_PREFIX = "application/papermill.record/"


def budget() -> str:
    """How long the notebook may take: ``"fast"`` (the default) or ``"full"``, from ``RLHF_LITE_BUDGET``.

    Raises:
        ValueError: if the variable holds anything else.
    """
    value = os.environ.get("RLHF_LITE_BUDGET", "") or "fast"
    if value not in BUDGETS:
        raise ValueError(f"RLHF_LITE_BUDGET is {value!r}; use one of {', '.join(BUDGETS)}")
    return value


def record(name: str, value: Any) -> Any:
    """Record a number or a short text, so that the book's pages can quote it.

    A page quotes it as ``{glue:text}`../notebooks/00_quickstart.ipynb::name:.2f` ``. Nothing is shown in the
    notebook. Outside IPython the value is printed.

    Args:
        name: the key, a Python identifier.
        value: a bool, int, float or str, or a scalar of numpy or torch (turned into a Python number).

    Returns:
        The value as a plain Python object.

    Raises:
        TypeError: if the value is none of these.
        ValueError: if the name is not an identifier, or the number is not finite.
    """
    if not name.isidentifier():
        raise ValueError(f"record: the name is {name!r}; use letters, digits and underscores only")
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, bool | int | float | str):
        raise TypeError(f"record({name!r}): received {type(value).__name__}; pass a number or a text")
    if isinstance(plain, float) and plain - plain != 0.0:
        raise ValueError(
            f"record({name!r}): the value is {plain}; a page cannot quote a number that is not finite"
        )
    if not _in_ipython():
        print(f"{name} = {plain!r}")
        return plain
    from IPython.display import display

    metadata = {"scrapbook": {"name": name, "mime_prefix": RECORD_PREFIX}}
    display({f"{RECORD_PREFIX}text/plain": repr(plain)}, raw=True, metadata=metadata)
    return plain


def note(markdown: str) -> None:
    """Show a computed sentence as text of the page. Outside IPython it is printed.

    Example: ``note(f"The reward model is right on **{accuracy:.0%}** of {n} pairs.")``
    """
    if not _in_ipython():
        print(markdown)
        return
    from IPython.display import Markdown, display

    display(Markdown(markdown))


def _in_ipython() -> bool:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    return get_ipython() is not None
