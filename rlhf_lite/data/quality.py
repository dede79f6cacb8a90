"""Before training: broken texts, near copies, texts that leak between splits, pairs that length decides."""

from __future__ import annotations

import html
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

from rlhf_lite.data.pairs import normalised, text_keys
from rlhf_lite.types import Preference

_ENTITY = re.compile(r"&(#\d+|#x[0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
_ADDRESS = re.compile(r"https?://|www\.")
# What UTF-8 looks like when it was read as Latin-1 or Windows-1252.
_MOJIBAKE = re.compile("[\u00c2\u00c3][\u0080-\u00bf]|\u00e2(?:\u20ac|\u0080)|\ufffd")
_LOST = re.compile(r"\S {2,}\S")
_MEETINGS = 4
_SAME_WORD = re.compile(r"\b(\w+)(?:\W+\1\b){3,}", re.IGNORECASE)


def text_problems(text: str, *, words_min: int = 3) -> list[str]:
    """What looks wrong with a text, in words; an empty list if nothing does.

    The rules are simple and wrong now and then: they choose what a person should look at.

    Args:
        text: as it would be trained on.
        words_min: a text with fewer words is called short.
    """
    letters = [c for c in text if c.isalpha()]
    signs = {
        "short": len(text.split()) < words_min, "no letters": not letters,
        "HTML entity": any(html.unescape(match.group()) != match.group() for match in _ENTITY.finditer(text)),
        "web address": _ADDRESS.search(text), "wrong encoding": _MOJIBAKE.search(text),
        "lost character": _LOST.search(text),
        "one word again and again": _SAME_WORD.search(text),
        "capitals": len(letters) >= 20 and sum(c.isupper() for c in letters) > 0.7 * len(letters),
    }
    return [problem for problem, sign in signs.items() if sign]


def character_ngrams(text: str, n: int = 5) -> frozenset[str]:
    """All runs of ``n`` characters of the text without case, punctuation and spacing.

    A text shorter than ``n`` is its own only run.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    plain = normalised(text)
    return frozenset(plain[i : i + n] for i in range(max(len(plain) - n, 0) + 1)) - {""}


def jaccard(a: Set[str], b: Set[str]) -> float:
    """Size of the intersection over size of the union, 0 ... 1. Two empty sets are equal: 1.

    Source: Jaccard 1901.
    """
    union = len(a | b)
    return len(a & b) / union if union else 1.0


class NearDuplicate(NamedTuple):
    """Two places in a list of texts, ``first < second``, and how alike the texts are (0 ... 1)."""

    first: int
    second: int
    similarity: float


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.7, n: int = 5) -> list[NearDuplicate]:
    """All pairs of texts whose character n-grams have a Jaccard similarity of ``threshold`` or more.

    Exact, without comparing all pairs. With the n-grams of every text sorted from rare to common, two texts
    that are alike enough share several of their first ones (prefix filter), so only texts that meet there
    several times are compared in full.

    Source: Bayardo, Ma and Srikant 2007, *Scaling Up All Pairs Similarity Search*.

    Returns:
        Most alike first.

    Raises:
        ValueError: ``threshold`` outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    grams = [character_ngrams(text, n) for text in texts]
    how_common = Counter(gram for one in grams for gram in one)
    seen_at: dict[str, list[int]] = defaultdict(list)
    duplicates = []
    for second, one in enumerate(grams):
        # A partner shares at least `needed` of these n-grams, so it misses at most len(one) - needed of them,
        # and shares at least `meetings` of the first len(one) - needed + meetings.
        # The small term guards against rounding up.
        needed = math.ceil(threshold * len(one) - 1e-9)
        meetings = min(_MEETINGS, needed)
        prefix = sorted(one, key=lambda gram: (how_common[gram], gram))[: len(one) - needed + meetings]
        met = Counter(itertools.chain.from_iterable(seen_at[gram] for gram in prefix))
        for first, times in met.items():
            other = grams[first]
            if times >= meetings and len(other) >= needed and (alike := jaccard(one, other)) >= threshold:
                duplicates.append(NearDuplicate(first, second, alike))
        for gram in prefix:
            seen_at[gram].append(second)
    return sorted(duplicates, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def leaked_pairs(train: Iterable[Preference], test: Sequence[Preference]) -> list[int]:
    """Places of the test pairs that hold a text which also stands in a training pair.

    Texts are whole (prompt and continuation), and compared without case, punctuation and spacing. It does not
    matter whether a text was chosen or rejected.
    """
    known = {text for pair in train for text in text_keys(pair)}
    return [place for place, pair in enumerate(test) if not known.isdisjoint(text_keys(pair))]


class LengthCount(NamedTuple):
    """In how many pairs the chosen answer has more words, fewer, or equally many."""

    longer: int
    shorter: int
    equal: int


def length_count(pairs: Iterable[Preference]) -> LengthCount:
    """How often the chosen answer is the longer one, in words."""
    differences = [len(pair.chosen.split()) - len(pair.rejected.split()) for pair in pairs]
    return LengthCount(sum(d > 0 for d in differences), sum(d < 0 for d in differences),
                       sum(d == 0 for d in differences))
