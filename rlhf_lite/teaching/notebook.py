"""Small helpers for notebooks: computed sentences, pictures, recorded runs, numbers for the book's pages.

Only IPython is needed, and only inside a notebook, so that the same cells run in Colab, in JupyterLab and
as a plain script.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lite.config import budget

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.figure import Figure

__all__ = ["budget", "note", "picture", "quiet", "record", "recorded", "replay_line", "show_table"]
# The prefix under which MyST-NB looks for recorded values; front ends show nothing for this type.
RECORD_PREFIX = "application/papermill.record/"


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
        raise ValueError(f"record({name!r}): the value is {plain}; a page cannot "
                         "quote a number that is not finite")
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


def show_table(rows: Sequence[Mapping[str, Any]], formats: Mapping[str, str] | None = None, *,
               caption: str = "") -> None:
    """Show rows as a table, by pandas. Outside IPython it is printed.

    Example: ``show_table([{"arm": "rank 1", "loss (nats)": 3.214}], {"loss (nats)": ".2f"})``

    Args:
        rows: for each row the value under every column's title; titles name the unit.
        formats: how the numbers of a column are written, as in an f-string. A tuple of three, such as an
            ``Interval``, becomes "estimate [low, high]".
        caption: what the table shows, with n and seed.
    """
    import pandas as pd

    formats = formats or {}
    cells = [{title: _cell(value, formats.get(title, "")) for title, value in row.items()} for row in rows]
    frame = pd.DataFrame(cells).fillna("")
    if not _in_ipython():
        print("\n".join([frame.to_string(index=False), *([caption] if caption else [])]))
        return
    from IPython.display import display

    text = {title for title in frame if all(isinstance(row.get(title, ""), str) for row in rows)}
    left = [{"selector": "", "props": "text-align: left"}]
    right = [{"selector": "", "props": "text-align: right"},
             {"selector": "td", "props": "white-space: nowrap"}]  # an interval stays on its line
    styles = {title: left if title in text else right for title in frame}
    shown = frame.style.hide(axis="index").format(escape="html").set_table_styles(styles)
    shown.set_table_attributes('class="dataframe"')  # by this name the site's theme knows a table at night
    shown.set_table_styles([{"selector": "caption", "props": "text-align: left"}], overwrite=False)
    display(shown.set_caption(caption) if caption else shown)


def _cell(value: Any, spec: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, tuple):
        estimate, low, high = (format(float(number), spec) for number in value)
        return f"{estimate} [{low}, {high}]"
    return format(value.item() if hasattr(value, "item") else value, spec)


def picture(figure: Figure, width: int = 560) -> Image:
    """A matplotlib figure for the end of a cell: PNG with enough dots for every screen.

    Args:
        figure: the figure; see ``rlhf_lite.plotting``.
        width: how wide it is shown, in CSS pixels.
    """
    from IPython.display import Image

    from rlhf_lite.plotting import to_png

    return Image(to_png(figure), width=width)


def quiet() -> None:
    """Silence what other libraries say about themselves, and keep the chapter on the CPU.

    A chapter's cells put their tensors there, and its numbers were made there. Whoever wants a GPU sets
    ``ACCELERATE_USE_CPU=false`` before.
    """
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # see models.runtime.compute_device
    warnings.filterwarnings("ignore", category=FutureWarning)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def recorded(name: str) -> list[dict[str, Any]]:
    """The recorded runs in ``results/<name>/``, in the order of their file names.

    They are found beside the package, in a checkout as well as in an installed package.

    Raises:
        FileNotFoundError: if nothing is recorded under this name; it says what there is.
    """
    package = Path(__file__).parents[1]
    homes = [package.parent / "results", package / "recorded"]
    for home in homes:
        files = sorted((home / name).glob("*.json"))
        if files:
            return [json.loads(path.read_text(encoding="utf-8")) for path in files]
    known = sorted({folder.name for home in homes if home.is_dir() for folder in home.iterdir()})
    raise FileNotFoundError(f"there are no recorded runs called {name!r}; recorded are {', '.join(known)}")


def replay_line(runs: Sequence[Mapping[str, Any]]) -> str:
    """The sentence that belongs to every replayed figure: which commit, which seeds, which machine.

    Args:
        runs: entries of ``recorded``. Commit and hardware stand in the entry itself or under ``run``; seeds
            under ``seed``, or under ``summary`` where one file holds several.

    Raises:
        ValueError: without a run.
    """
    if not runs:
        raise ValueError("replay_line: expected at least one recorded run, got none")
    about = [run.get("run", run) for run in runs]
    commits = sorted({str(entry["commit"])[:10] for entry in about})
    seeds = sorted({seed for run in runs for seed in _seeds(run)})
    hardware = [entry["hardware"] for entry in about]
    machines = sorted({f"{one['cpu']}, {one['physical_cores']} cores" for one in hardware})
    what = "a recorded run" if len(runs) == len(seeds) == 1 else "recorded runs"
    return f"Replay of {what}: commit {', '.join(commits)}; {_name_seeds(seeds)}; {'; '.join(machines)}."


def _seeds(run: Mapping[str, Any]) -> list[int]:
    if isinstance(run.get("seed"), int):
        return [run["seed"]]
    return list(run.get("seeds") or run.get("summary", {}).get("seeds") or [])


def _name_seeds(seeds: Sequence[int]) -> str:
    if not seeds:
        return "no seed recorded"
    if len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _in_ipython() -> bool:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:  # a plain install, without the book's tools
        return False
    return get_ipython() is not None
