"""More training pairs from the same labels. Whether they help has to be measured: chapter 2 does."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import NamedTuple, TypeVar

Item = TypeVar("Item", bound=Hashable)


class ShownPair(NamedTuple):
    """Two texts in the order in which they were shown, and whether the first one won."""

    first: str
    second: str
    first_wins: bool


def both_orders(comparisons: Iterable[ShownPair]) -> list[ShownPair]:
    """Each comparison, followed by itself the other way round.

    A model that scores each text alone and takes the difference, as Bradley-Terry does, learns nothing new
    from it. A model that reads both texts at once learns that the place does not matter.
    """
    doubled = []
    for one in comparisons:
        doubled += [one, ShownPair(one.second, one.first, not one.first_wins)]
    return doubled


def implied_wins(wins: Iterable[tuple[Item, Item]]) -> list[tuple[Item, Item]]:
    """Wins that follow by one step: a over b and b over c give a over c.

    Left out: pairs that were compared directly in either order, and pairs for which both directions follow,
    since then the wins contradict each other.

    Args:
        wins: (winner, loser).

    Returns:
        New (winner, loser) without repetition, in the order of first appearance.
    """
    beats: dict[Item, dict[Item, None]] = defaultdict(dict)  # a dict, so that the order is kept
    for winner, loser in wins:
        beats[winner][loser] = None
    follow = {(a, c): None for a in list(beats) for b in beats[a] for c in beats.get(b, ()) if a != c}
    direct = {(a, b) for a in beats for b in beats[a]}
    return [
        (a, c) for a, c in follow if (a, c) not in direct and (c, a) not in direct and (c, a) not in follow
    ]


def drop_words(text: str, share: float, chooser: random.Random) -> str:
    """The text without a random share of its words; at least one word stays.

    Source: Wei and Zou 2019, *EDA*, "random deletion".

    Args:
        text: words are what white space separates; single spaces join those that stay.
        share: chance of each word to be left out, 0 ... 1.
        chooser: source of chance.

    Raises:
        ValueError: ``share`` outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    words = text.split()
    if not words:
        return text
    return " ".join([word for word in words if chooser.random() >= share] or [chooser.choice(words)])
