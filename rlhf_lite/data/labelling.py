"""A small page on which a person judges pairs, and the reader of the file that it saves.

The page is one piece of HTML with its own style and script: it works as the output of a notebook cell (also
in Colab), inside a static site and as a saved file. Nothing is loaded from anywhere and nothing is sent.
"""

from __future__ import annotations

import hashlib
import html
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlhf_lite.data.files.cells import Place
from rlhf_lite.data.files.schema import load_preferences
from rlhf_lite.types import Preference

_PAGE = Path(__file__).with_name("labelling.html")
_ALONE = Path(__file__).with_name("labelling_file.html")  # what makes the page a file of its own
_FILE = "judgements.jsonl"
_FIX = "read the file with the pairs that the page was made of, or judge again"


@dataclass(frozen=True)
class LabellingPage:
    """HTML that a notebook cell shows as it is.

    Attributes:
        html: a ``div`` with style and script.
        title: its heading.
    """

    html: str
    title: str

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | Path) -> Path:
        """Write the page as a file of its own, to be opened in a browser or sent to somebody."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = _ALONE.read_text(encoding="utf-8").replace("__TITLE__", html.escape(self.title))
        path.write_text(whole.replace("__BODY__", self.html), encoding="utf-8")
        return path


@dataclass(frozen=True)
class Judgements:
    """What people said on a labelling page.

    Attributes:
        records: one preference per judgement, with chosen and rejected as that person chose. ``meta`` holds
            ``pair``, ``judge``, ``chose_first``, ``seconds`` and ``question``.
        agrees: for each record, whether it has the order that the page's pair had.
    """

    records: list[Preference]
    agrees: tuple[bool, ...]

    @property
    def agreement(self) -> float:
        """Share of judgements with the order of the page's pair."""
        return sum(self.agrees) / len(self.agrees)

    @property
    def first_share(self) -> float:
        """Share of judgements for the text that stood first; far from one half, it is a habit."""
        return sum(bool(r.meta["chose_first"]) for r in self.records) / len(self.records)


def pair_id(pair: Preference) -> str:
    """A short name of a pair that depends on its texts only, not on which of them was chosen."""
    content = "\0".join([pair.prompt, *sorted((pair.chosen, pair.rejected))])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def labelling_page(pairs: Sequence[Preference], *, question: str = "Which text is more positive?",
                   title: str = "Your own judgement", seed: int = 0) -> LabellingPage:
    """A page that shows one pair after the other, and at the end the agreement and a file to save.

    Which text stands first is drawn for each pair. The order of the pairs is kept. ``meta["agreement"]`` of a
    pair, as ``make_pairs`` writes it, is shown at the end.

    Args:
        pairs: at least one; no pair twice.
        question: what the judge is asked; it goes into the file.
        title: heading, plain text.
        seed: draws other places.

    Raises:
        ValueError: no pair, a pair twice, or a pair whose two texts are the same.
    """
    if not pairs:
        raise ValueError("a labelling page needs at least one pair, got none")
    names = [pair_id(pair) for pair in pairs]
    for place, (name, pair) in enumerate(zip(names, pairs, strict=True)):
        if pair.chosen.strip() == pair.rejected.strip():
            raise ValueError(f"pair {place} shows the same text twice: leave it out")
        if name in names[:place]:
            raise ValueError(f"pairs {names.index(name)} and {place} are the same: leave one out")
    chooser = random.Random(seed)
    rows: list[dict[str, Any]] = [
        {"id": name, "prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected,
         "agreement": pair.meta.get("agreement"), "chosen_first": chooser.random() < 0.5}
        for name, pair in zip(names, pairs, strict=True)]
    # Inside a script, "</script>" or "<!--" in a text would end or open something.
    data = json.dumps({"pairs": rows, "question": question, "file": _FILE}).replace("<", "\\u003c")
    root = "rl-judge-" + hashlib.sha256(data.encode()).hexdigest()[:12]
    page = _PAGE.read_text(encoding="utf-8").replace("__ROOT__", root)
    page = page.replace("__TITLE__", html.escape(title)).replace("__DATA__", data)
    return LabellingPage(page, title)


def read_judgements(path: str | Path, pairs: Sequence[Preference]) -> Judgements:
    """The file that a labelling page saved, checked against the pairs that the page was made of.

    Several people's files may be put together into one (their initials tell them apart).

    Raises:
        DataError: the file is broken, a row is not about one of the pairs, its texts are not that pair's, or
            one person judged a pair twice.
    """
    path = Path(path)
    data = load_preferences(path, skip_with=None)
    known = {pair_id(pair): pair for pair in pairs}
    seen: set[tuple[str, str]] = set()
    agrees = []
    for row, record in enumerate(data.records, start=1):
        error = partial(Place(path.name, row).error, fix=_FIX)
        name, judge = record.meta.get("pair"), record.meta.get("judge", "")
        if name not in known:
            raise error("is not one of the pairs", field="meta.pair", value=name)
        pair = known[name]
        if pair_id(record) != name:
            raise error(f"is not what pair {name} shows", field="chosen", value=record.chosen)
        first = record.meta.get("chose_first")
        if not isinstance(first, bool):
            raise error("is not true or false", field="meta.chose_first", value=first)
        if (name, judge) in seen:
            raise error("was judged before by the same person", field="meta.pair", value=name)
        seen.add((name, judge))
        agrees.append(record.chosen == pair.chosen)
    return Judgements(data.records, tuple(agrees))
