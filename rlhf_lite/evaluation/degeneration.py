"""Texts that have fallen apart: empty ones, loops, and those that the length limit cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlhf_lite.evaluation.statistics import Interval, wilson_interval
from rlhf_lite.evaluation.text_metrics import words

__all__ = ["Degeneration", "degeneration", "loops"]

_LONGEST = 8


class Degeneration(NamedTuple):
    """Shares of ``n`` texts, each with Wilson's 95 % interval."""

    n: int
    empty: Interval
    looping: Interval
    cut: Interval


def loops(text: str, *, repeats: int = 3, at_least: int = 6) -> bool:
    """Whether the same words follow each other ``repeats`` times, over ``at_least`` words in all.

    "so good, so good, so good" loops (three times two words); "very, very, very good" does not (three words
    only). Loops of up to 8 words are found; case and punctuation do not count.

    Raises:
        ValueError: if ``repeats`` < 2 or ``at_least`` < 1.
    """
    if repeats < 2 or at_least < 1:
        raise ValueError(f"expected repeats >= 2 and at_least >= 1, got {repeats} and {at_least}")
    tokens = words(text)
    for period in range(1, min(_LONGEST, len(tokens) // repeats) + 1):
        same = 0  # words in a row that equal the word one period before
        for index in range(period, len(tokens)):
            same = same + 1 if tokens[index] == tokens[index - period] else 0
            if same + period >= max(repeats * period, at_least):
                return True
    return False


def degeneration(texts: Sequence[str], ended: Sequence[bool]) -> Degeneration:
    """Shares of texts that are empty, that loop, and that did not end by themselves.

    Args:
        texts: ``[n]`` continuations.
        ended: ``[n]`` False where the length limit cut the text.

    Raises:
        ValueError: if there is no text, or the lengths differ.
    """
    n = len(texts)
    if n == 0 or n != len(ended):
        raise ValueError(f"expected as many texts as flags, at least one; got {n} and {len(ended)}")
    empty = sum(not text.strip() for text in texts)
    looping = sum(loops(text) for text in texts)
    cut = sum(not bool(flag) for flag in ended)
    return Degeneration(n, *(wilson_interval(count, n) for count in (empty, looping, cut)))
