"""Scores of plain text that need no policy: diversity, repetition, length, sentiment, toxicity.

Words are lower-cased runs of letters and digits, with inner apostrophes kept
("don't" is one word). The two judges are loaded at the first call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "LengthStats",
    "distinct_n",
    "length_stats",
    "repetition_rate",
    "toxicity_scores",
    "vader_scores",
    "words",
]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


class LengthStats(NamedTuple):
    """Words per text over a set of ``n`` texts."""

    n: int
    mean: float
    median: float
    minimum: int
    maximum: int
    empty_fraction: float


def _texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError(f"texts: expected a list of strings, got one string {texts!r:.60}; wrap it in a list")
    items = list(texts)
    for index, text in enumerate(items):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}]: expected a string, got {type(text).__name__} {text!r:.60}")
    return items


def words(text: str) -> list[str]:
    """Lower-cased words of ``text``; punctuation and emoticons are left out."""
    return _WORD.findall(text.lower())


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    tokens = words(text)
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def _check_n(n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n: expected a whole number of 1 or more, got {n!r}")


def distinct_n(texts: Iterable[str], n: int = 2) -> float:
    """Distinct n-grams divided by all n-grams, over the whole set; in (0, 1].

    The n-grams of one text are counted inside that text and pooled over the set, so
    both a loop within a text and a phrase shared by all texts lower the value. It
    also falls as the set grows: compare sets of equal size and similar length.
    Texts with fewer than ``n`` words (an empty one, say) add nothing; NaN if that is all of them.

    Source: Li et al. 2016, section 5.2.

    Raises:
        ValueError: if ``n`` is not a positive whole number.
        TypeError: if an item is not a string.
    """
    _check_n(n)
    grams = [gram for text in _texts(texts) for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def repetition_rate(texts: Iterable[str], n: int = 3) -> float:
    """Share of n-grams that already occurred in the same text, averaged over texts; in [0, 1).

    0 means no text repeats itself; a text that loops comes near 1. Texts with fewer
    than ``n`` words are left out of the mean; NaN if that is all of them.

    Raises:
        ValueError: if ``n`` is not a positive whole number.
        TypeError: if an item is not a string.
    """
    _check_n(n)
    shares = []
    for text in _texts(texts):
        grams = _ngrams(text, n)
        if grams:
            shares.append(1.0 - len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else float("nan")


def length_stats(texts: Iterable[str]) -> LengthStats:
    """Words per text: mean, median, smallest, largest, and the share of texts without a word.

    An empty text counts with length 0.

    Raises:
        ValueError: if there is no text at all.
        TypeError: if an item is not a string.
    """
    import numpy as np

    lengths = np.array([len(words(text)) for text in _texts(texts)])
    if lengths.size == 0:
        raise ValueError("texts: expected at least one text, got none")
    return LengthStats(
        n=int(lengths.size),
        mean=float(lengths.mean()),
        median=float(np.median(lengths)),
        minimum=int(lengths.min()),
        maximum=int(lengths.max()),
        empty_fraction=float((lengths == 0).mean()),
    )


@lru_cache(maxsize=1)
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def vader_scores(texts: Iterable[str]) -> NDArray[np.float64]:
    """VADER's compound sentiment per text, shape ``[n]``, from −1 (negative) to +1 (positive).

    A rule set over a lexicon of rated words: it is not fitted to any of our data. An
    empty text, or one without a word of the lexicon, scores exactly 0.

    Source: Hutto and Gilbert 2014; the package ``vaderSentiment``.

    Raises:
        TypeError: if an item is not a string.
    """
    import numpy as np

    items = _texts(texts)
    analyser = _vader()
    return np.array([analyser.polarity_scores(text)["compound"] for text in items], dtype=np.float64)


def toxicity_scores(texts: Iterable[str]) -> NDArray[np.float64]:
    """Probability that a text is offensive, shape ``[n]`` in [0, 1].

    A linear model on weighted word counts, fitted by its authors to about 200,000 human-labelled
    comments: it sees words, not meaning. A text without a word it knows, the empty text
    included, gets the model's base rate (a few per cent) rather than 0. The first call
    loads scikit-learn (about two seconds).

    Source: the package ``alt-profanity-check``.

    Raises:
        TypeError: if an item is not a string.
    """
    import numpy as np

    items = _texts(texts)
    if not items:
        return np.zeros(0, dtype=np.float64)
    from profanity_check import predict_prob

    return np.asarray(predict_prob(items), dtype=np.float64)
