"""A preference file in splits, such that no text and no prompt of one split is in another.

Pairs hang together through what they share, and each connected group goes to one split as a whole. Shared are

- a whole text (prompt and answer), chosen or rejected: a ranking of texts names each of them many times;
- a prompt, and for a conversation the turns before each answer: files such as HH-RLHF hold one conversation
  at several lengths;
- a beginning. Where a file gives whole texts only, the prompt is what both begin with, and goes on into the
  answers where these begin alike: "Question?" and "Question? The". So a prompt joins another one that goes on
  after it at the end of a word, and so does a prompt up to its last sentence end.

What too much of a file has in common, such as an instruction or the beginning "The", joins nothing.

Without punctuation, and with no pair whose answers differ from their first word on, the end of an implicit
question cannot be seen.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rlhf_lite.data.formatting import plain_text
from rlhf_lite.data.pairs import Split, normalised, split_of, text_keys
from rlhf_lite.errors import DataError, shortened
from rlhf_lite.types import Preference

# A prompt of more than this share of the pairs, and of more pairs than that, is an instruction that the file
# has in common: kept in one split, it would make the shares of all of them untrue.
_COMMON_SHARE, _SMALL = 0.1, 10
_SENTENCES = re.compile(r".*(?:[.?!:](?=\s|$)|[\n。？！：])", re.DOTALL)
Nodes = NDArray[np.int64]


@dataclass(frozen=True)
class SplitReport:
    """How a file was split.

    Attributes:
        source: the file.
        pairs: pairs in each split.
        groups: connected groups of pairs.
        largest: pairs in the largest group.
        crossing: pairs left out, because their two texts fell into different splits.
        shared_prompts: prompts that are in more than one split, since too much of the file has them.
        commonest: the one of these with the most pairs; empty if there is none.
        fingerprint: of every pair with its split, in the file's order.
    """

    source: str
    pairs: dict[str, int]
    groups: int
    largest: int
    crossing: int
    shared_prompts: int
    commonest: str
    fingerprint: str

    def summary(self) -> str:
        """All of it in one line."""
        counts = ", ".join(f"{split} {n}" for split, n in self.pairs.items())
        groups = "1 group" if self.groups == 1 else f"{self.groups} groups without a common text or prompt"
        line = f"{self.source}: pairs for {counts}, of {groups}"
        if self.crossing:
            line += (f"; {self.crossing} pairs left out: most of the file hangs together by its texts, and "
                     "the two texts of these fell into different splits")
        if self.shared_prompts:
            line += (f"; {self.shared_prompts} prompts are too common to be kept in one split, such as "
                     f"{shortened(self.commonest)}: there only the answers are unseen")
        return line


@dataclass(frozen=True)
class PreferenceSplits:
    """The pairs of each split in the file's order, and how they came there."""

    pairs: dict[Split, list[Preference]]
    report: SplitReport


def split_preferences(pairs: Sequence[Preference], *, source: str,
                      held_out: Collection[Split] = ("validation", "test", "gold")) -> PreferenceSplits:
    """Split preferences so that no text, and no prompt that is not common to the file, is in two splits.

    The split of a group is ``split_of`` its first text or prompt in alphabetical order, so it depends neither
    on the order of the rows nor on a seed, and the shares are those of ``split_of``. A prompt of more than a
    tenth of the pairs joins nothing, and where a split would stay empty neither does the most common one that
    is left, and so on. A group of more than half of the pairs (a ranking of few texts) is split text by text,
    and pairs whose two texts fell into different splits are left out.

    Args:
        pairs: of one file.
        source: its name, for errors.
        held_out: the splits that are wanted beside ``train``, which gets the pairs of all others.

    Raises:
        DataError: a split is empty.
    """
    graph, limit = _Graph(pairs), max(_COMMON_SHARE * len(pairs), _SMALL)
    while True:
        labels = graph.components(graph.counts > limit)
        members = np.bincount(labels[graph.first], minlength=1)
        groups, largest = int((members > 0).sum()), int(members.max())
        loose = members[labels[graph.first]] > max(len(pairs) / 2, _SMALL)
        if loose.any():
            labels = graph.components(graph.counts > limit, loose)
        splits = graph.splits(labels, held_out)
        kept: dict[Split, list[Preference]] = {name: [] for name in ("train", *held_out)}
        for pair, split in zip(pairs, splits, strict=True):
            if split is not None:
                kept[split].append(pair)
        empty = [name for name, rows in kept.items() if not rows]
        lower = graph.counts[(graph.counts > 1) & (graph.counts <= limit)]
        if not empty or not lower.size:
            break
        limit = lower.max() - 1
    crossing = splits.count(None)
    if empty:
        left_out = f"; left out for texts in different splits: {crossing}" if crossing else ""
        raise DataError(f"has {len(pairs)} usable pairs, too few: groups without a common text or prompt: "
                        f"{groups}{left_out}; the split by content leaves {', '.join(empty)} empty",
                        file=source, fix="add pairs with other prompts and texts; a run needs at least some "
                        "hundred")
    seen, uses, digest = defaultdict(set), Counter(graph.prompts), hashlib.sha256()
    for pair, prompt, split in zip(pairs, graph.prompts, splits, strict=True):
        seen[prompt].add(split)
        row = "\0".join((split or "", pair.prompt, pair.chosen, pair.rejected, ""))
        digest.update(row.encode("utf-8", "surrogatepass"))
    shared = [prompt for prompt, where in seen.items() if prompt and len(where - {None}) > 1]
    commonest = max(shared, key=lambda prompt: (uses[prompt], prompt), default="")
    sizes = {name: len(rows) for name, rows in kept.items()}
    report = SplitReport(source, sizes, groups, largest, crossing, len(shared), commonest,
                         digest.hexdigest()[:16])
    return PreferenceSplits(kept, report)


class _Graph:
    """Texts and prompts of pairs, numbered in alphabetical order, and what joins them.

    Attributes:
        prompts: each pair's, normalised; "" for none.
        first: node of each pair's chosen text.
        counts: of each node, the pairs whose prompt it is or begins; 0 for texts.
    """

    def __init__(self, pairs: Sequence[Preference]) -> None:
        texts = [text_keys(pair) for pair in pairs]
        self.prompts = [normalised(pair.prompt) for pair in pairs]
        beginnings = sorted({key for pair in pairs for key in _beginnings(pair)}.union(self.prompts) - {""})
        self._names = sorted({*beginnings, *(text for both in texts for text in both)})
        number = {name: i for i, name in enumerate(self._names)}
        self.first, self._second = (np.array([number[both[i]] for both in texts], dtype=np.int64)
                                    for i in (0, 1))
        self._prompt = np.array([number.get(prompt, -1) for prompt in self.prompts], dtype=np.int64)
        self._parent = np.full(len(self._names), -1)
        self.counts = np.bincount(self._prompt[self._prompt >= 0], minlength=len(self._names))
        above: list[str] = []
        for key in beginnings:  # whatever goes on after a beginning stands right behind it
            while above and not key.startswith(above[-1] + " "):
                above.pop()
            if above:
                self._parent[number[key]] = number[above[-1]]
            above.append(key)
        for key in reversed(beginnings):
            if self._parent[number[key]] >= 0:
                self.counts[self._parent[number[key]]] += self.counts[number[key]]

    def components(self, common: NDArray[np.bool_], loose: NDArray[np.bool_] | None = None) -> Nodes:
        """The component of each node; ``common`` prompts join nothing, nor do ``loose`` pairs."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        tight = np.ones(len(self.first), dtype=bool) if loose is None else ~loose
        asked = tight & (self._prompt >= 0)
        asked[asked] = ~common[self._prompt[asked]]
        goes_on = self._parent >= 0
        goes_on[goes_on] = ~common[self._parent[goes_on]]
        ends = [(self.first[tight], self._second[tight]), (self.first[asked], self._prompt[asked]),
                (np.flatnonzero(goes_on), self._parent[goes_on])]
        rows, columns = (np.concatenate(side) for side in zip(*ends, strict=True))
        size = len(self._names)
        joined = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(size, size))
        return connected_components(joined, directed=False)[1].astype(np.int64)

    def splits(self, labels: Nodes, held_out: Collection[Split]) -> list[Split | None]:
        """The split of each pair; None for a pair with its two texts in different ones."""
        own = np.unique(np.concatenate([self.first, self._second, self._prompt[self._prompt >= 0]]))
        groups, places = np.unique(labels[own], return_index=True)
        split = {group: split_of(self._names[own[place]])
                 for group, place in zip(groups.tolist(), places.tolist(), strict=True)}
        split = {group: name if name in held_out else "train" for group, name in split.items()}
        both = zip(labels[self.first].tolist(), labels[self._second].tolist(), strict=True)
        return [split[a] if split[a] == split[b] else None for a, b in both]


def _beginnings(pair: Preference) -> list[str]:
    """Where the prompt may have been asked before: the turns before each answer, or its last sentence end."""
    if pair.dialogue is not None:
        turns = pair.dialogue.prompt
        asked = [n for n, turn in enumerate(turns) if turn.role == "assistant"]
        return [normalised(plain_text(turns[:n], True)) for n in asked
                if any(turn.role == "user" for turn in turns[:n])]
    sentences = _SENTENCES.match(pair.prompt)
    return [] if sentences is None else [normalised(sentences.group())]


def refuse_leaks(groups: Mapping[str, Iterable[str]], *, source: str) -> None:
    """Check that no text is in two groups; case, punctuation and spacing do not count.

    Raises:
        DataError: naming the groups, the number of texts and one of them.
    """
    texts = {name: {normalised(text) for text in group} for name, group in groups.items()}
    for (one, some), (other, more) in combinations(texts.items(), 2):
        if both := some & more:
            raise DataError(f"has {len(both)} texts that are used for {one} and for {other}, so what is "
                            "measured there would be known before", file=source, value=min(both),
                            fix="take the repeated texts out of one of the two")
