"""From ratings to preferences, and from texts to prompts, without a text on both sides of a split.

Two reviews that open with the same words are two continuations of one prompt, and the one that people rated
higher is the preferred one. Among the 10,605 movie reviews, 82 % share their first word with another review
(1.8 million pairs, half of them opening with "The") and 44 % their first two words (52 thousand pairs), so
one word is a good prompt when many pairs are wanted, and two are when the prompt should matter.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_lite.types import Preference, Rating

Split = Literal["train", "validation", "test", "gold"]

# Upper ends of the shares: 50 % train, 10 % validation, 15 % test, 25 % gold.
_ENDS: tuple[tuple[Split, float], ...] = (("train", 0.50), ("validation", 0.60), ("test", 0.75),
                                          ("gold", 1.0))
_WORD = re.compile(r"\S+")


def normalised(text: str) -> str:
    """A text without case, punctuation and spacing, so that near copies become equal.

    A text of punctuation only stays as it is.
    """
    words = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return words or text.strip()


def text_keys(pair: Preference) -> tuple[str, str]:
    """The two whole texts of a pair, normalised: chosen, rejected."""
    return normalised(pair.prompt + pair.chosen), normalised(pair.prompt + pair.rejected)


def _fraction(*parts: str) -> float:
    """A number in [0, 1) that looks random and depends on nothing but the parts."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_of(text: str) -> Split:
    """The split a text belongs to, by a hash of its normalised content.

    There is no seed: a text is in the same split in every run, so no judge can ever have been trained on what
    it judges. ``gold`` is for the judges' own training; policies and reward models never see it.
    """
    place = _fraction("split", normalised(text))
    return next(name for name, end in _ENDS if place < end)


def split_ratings(ratings: Iterable[Rating]) -> dict[Split, list[Rating]]:
    """Ratings by the split of their text, each in the order given. Near copies stay together."""
    splits: dict[Split, list[Rating]] = {name: [] for name, _ in _ENDS}
    for rating in ratings:
        splits[split_of(rating.text)].append(rating)
    return splits


def cut(text: str, words: int) -> tuple[str, str] | None:
    """Prompt (the first ``words`` words) and continuation of a text; None if it has no more words than that.

    ``prompt + continuation == text``: the continuation keeps its leading space. With ``words=0`` the prompt
    is empty.
    """
    ends = [match.end() for match, _ in zip(_WORD.finditer(text), range(words + 1), strict=False)]
    if len(ends) <= words:
        return None
    end = ends[words - 1] if words else 0
    return text[:end], text[end:]


def agreement(chosen: Rating, rejected: Rating) -> float:
    """Probability that a random rater of ``chosen`` scored above one of ``rejected``; ties count half."""
    above = sum((a > b) + 0.5 * (a == b) for a in chosen.ratings for b in rejected.ratings)
    return above / (chosen.n * rejected.n)


def split_prompts(ratings: Iterable[Rating], *, words_min: int, words_max: int, seed: int = 0,
                  unique_prompts: bool = False) -> list[tuple[str, str]]:
    """Prompts for continuing texts: (first words, the rest), with ``prompt + continuation == text``.

    How many words a prompt has is drawn for each text from a hash of its content and ``seed``, so it does not
    depend on the other texts. Texts with no more than ``words_min`` words are left out, and near copies of a
    text after the first one.

    Args:
        ratings: the texts, in the order wanted.
        words_min: fewest words of a prompt, at least 1.
        words_max: most words of a prompt.
        seed: draws other lengths.
        unique_prompts: keep only the first text of those that come to the same prompt.
    """
    if not 1 <= words_min <= words_max:
        raise ValueError("wanted 1 <= words_min <= words_max, got "
                         f"words_min={words_min}, words_max={words_max}")
    result: list[tuple[str, str]] = []
    seen: set[str] = set()
    prompts: set[str] = set()
    for rating in ratings:
        key = normalised(rating.text)
        available = len(_WORD.findall(rating.text)) - 1
        if key in seen or available < words_min:
            continue
        seen.add(key)
        span = words_max - words_min + 1
        words = min(words_min + int(_fraction("opening", str(seed), key) * span), available)
        parts = cut(rating.text, words)
        assert parts is not None
        if unique_prompts and parts[0] in prompts:
            continue
        prompts.add(parts[0])
        result.append(parts)
    return result


def make_pairs(ratings: Sequence[Rating], *, n: int, min_gap: float = 1.0, prompt_words: int = 1,
               seed: int = 0, max_std: float | None = None, min_agreement: float | None = None,
               max_uses: int = 8) -> list[Preference]:
    """Preferences between reviews that open with the same words.

    Reviews are taken about equally often: all may serve once before any serves twice, and so on up to
    ``max_uses``. The result depends on the set of ratings and on ``seed``, not on the order of the ratings.

    Args:
        ratings: of one split only, or the splits leak into each other.
        n: number of pairs.
        min_gap: the mean ratings differ by more than this, in points of the scale (-4 ... 4).
        prompt_words: number of shared opening words that become the prompt; 0 pairs any two with an empty
            prompt.
        seed: draws other pairs.
        max_std: leave out texts whose raters' standard deviation is above this.
        min_agreement: leave out pairs with a lower ``agreement``.
        max_uses: most pairs that one review takes part in.

    Returns:
        ``n`` preferences in random order. ``margin`` is the gap; ``meta`` holds ``agreement``, ``source``,
        ``chosen_id``, ``rejected_id``, ``chosen_mean``, ``rejected_mean``.

    Raises:
        ValueError: a setting makes no sense, or there are fewer than ``n`` such pairs.
    """
    if n < 0 or min_gap < 0 or prompt_words < 0 or max_uses < 1:
        raise ValueError(f"wanted n, min_gap, prompt_words >= 0 and max_uses >= 1, got n={n}, "
                         f"min_gap={min_gap}, prompt_words={prompt_words}, max_uses={max_uses}")

    def fit(one: _Item, other: _Item) -> bool:
        if abs(one.mean - other.mean) <= min_gap:
            return False
        low, high = sorted((one, other), key=lambda item: item.mean)
        return min_agreement is None or agreement(high.rating, low.rating) >= min_agreement

    groups = _group(ratings, prompt_words, max_std)
    chooser = random.Random(seed)
    pairs = _draw(groups, n, fit, max_uses, chooser)
    if len(pairs) < n:
        raise ValueError(f"only {len(pairs)} pairs can be made of {len(ratings)} ratings with "
                         f"min_gap={min_gap}, prompt_words={prompt_words}, max_std={max_std}, "
                         f"min_agreement={min_agreement}, max_uses={max_uses}, and n={n} were asked for: "
                         "lower n, min_gap or prompt_words, or raise max_uses")
    chooser.shuffle(pairs)
    return pairs


@dataclass(frozen=True, eq=False)
class _Item:
    """A rating cut at the prompt, with the group of those that share the prompt."""

    rating: Rating
    prompt: str
    continuation: str
    group: list[_Item]
    key: str
    mean: float


def _group(ratings: Sequence[Rating], prompt_words: int, max_std: float | None) -> list[list[_Item]]:
    """Texts by prompt, near copies once, in an order that does not depend on the order of ``ratings``."""
    groups: dict[str, list[_Item]] = defaultdict(list)
    seen: set[str] = set()
    for rating in sorted(ratings, key=lambda r: (r.source, r.id, r.text)):
        parts = cut(rating.text, prompt_words)
        if parts is None or (max_std is not None and rating.std > max_std):
            continue
        item = _Item(rating, *parts, groups[parts[0]], normalised(rating.text), rating.mean)
        if item.key not in seen:
            seen.add(item.key)
            item.group.append(item)
    return list(groups.values())


def _draw(groups: list[list[_Item]], n: int, fit: Callable[[_Item, _Item], bool], max_uses: int,
          chooser: random.Random) -> list[Preference]:
    """Up to ``n`` pairs, in rounds: in round ``limit`` a text may take part in its ``limit``-th pair."""
    pairs: list[Preference] = []
    made: set[frozenset[str]] = set()
    uses: dict[str, int] = defaultdict(int)
    for limit in range(1, max_uses + 1):
        items = [item for group in groups for item in group]
        chooser.shuffle(items)
        for item in items:
            if len(pairs) == n:
                break
            if uses[item.key] >= limit:
                continue
            for other in _in_random_order(item.group, chooser):
                names = frozenset((item.key, other.key))
                if uses[other.key] < limit and names not in made and fit(item, other):
                    made.add(names)
                    uses[item.key] += 1
                    uses[other.key] += 1
                    pairs.append(_preference(item, other))
                    break
    return pairs


def _in_random_order(group: list[_Item], chooser: random.Random) -> Iterator[_Item]:
    """Every member of a group once, from a random place on with a random stride, without a shuffle of it all.

    A walk by single steps would favour whoever follows a used-up stretch. The stride has to be coprime with
    the size to reach everybody.
    """
    size = len(group)
    start, stride = chooser.randrange(size), chooser.randrange(1, size + 1)
    while math.gcd(stride, size) != 1:
        stride = chooser.randrange(1, size + 1)
    for step in range(size):
        yield group[(start + step * stride) % size]


def _preference(one: _Item, other: _Item) -> Preference:
    high, low = (one, other) if one.mean > other.mean else (other, one)
    meta = {"agreement": agreement(high.rating, low.rating), "source": high.rating.source,
            "chosen_id": high.rating.id, "rejected_id": low.rating.id, "chosen_mean": high.mean,
            "rejected_mean": low.mean}
    return Preference(prompt=high.prompt, chosen=high.continuation, rejected=low.continuation,
                      margin=high.mean - low.mean, meta=meta)
