"""More from few labels: which pairs to have labelled next, and more training pairs from the same labels.

To a selector, a pair is the difference of its two texts' features, so that a linear Bradley-Terry model is a
logistic regression without intercept on these rows. Whether any of this helps has to be measured: chapter 2
does.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, diags_array, spmatrix

Item = TypeVar("Item", bound=Hashable)


# --- What to have labelled next ----------------------------------------------


def most_uncertain(scores: ArrayLike, n: int) -> NDArray[np.int64]:
    """The ``n`` pairs whose winner the model knows least: score difference nearest to zero.

    Source: Lewis and Gale 1994, *A Sequential Algorithm for Training Text Classifiers*.

    Args:
        scores: [N] model score of the first text minus that of the second.
        n: how many, at most N.
    """
    values = np.abs(np.asarray(scores, dtype=np.float64))
    _check(values.shape[0], n)
    return np.argsort(values, kind="stable")[:n]


def most_diverse(features: ArrayLike, n: int, *, have: Sequence[int] = (),
                 rng: np.random.Generator) -> NDArray[np.int64]:
    """``n`` rows that lie far from each other and from the rows already bought.

    Each is drawn with a probability proportional to its squared distance from the nearest one so far, as
    k-means++ chooses its starting points. With nothing bought the first one is drawn evenly.

    Source: Arthur and Vassilvitskii 2007, *k-means++*; for labels: Ash et al. 2020, *BADGE*.

    Args:
        features: [N, D] dense rows.
        n: how many, at most N minus the number of ``have``.
        have: rows that are bought already; they are not drawn again.
        rng: source of chance.
    """
    rows = np.asarray(features, dtype=np.float64)
    have = list(have)
    _check(rows.shape[0] - len(set(have)), n)
    squares = (rows * rows).sum(axis=1)

    def distance(place: int) -> NDArray[np.float64]:
        return np.maximum(squares + squares[place] - 2 * rows @ rows[place], 0.0)

    nearest = np.full(rows.shape[0], np.inf)
    for place in have:
        nearest = np.minimum(nearest, distance(place))
    taken = np.zeros(rows.shape[0], dtype=bool)
    taken[have] = True
    drawn: list[int] = []
    for _ in range(n):
        weight = np.where(taken, 0.0, np.where(np.isinf(nearest), 1.0, nearest))
        if weight.sum() <= 0:  # only copies of what is there are left
            weight = (~taken).astype(np.float64)
        place = int(rng.choice(rows.shape[0], p=weight / weight.sum()))
        taken[place] = True
        drawn.append(place)
        nearest = np.minimum(nearest, distance(place))
    return np.array(drawn, dtype=np.int64)


def score_variance(features: ArrayLike | spmatrix, bought: ArrayLike | spmatrix, weights: ArrayLike, *,
                   precision: float) -> NDArray[np.float64]:
    """How unsure a logistic regression is about the score of each row, given the rows it was fitted to.

    The variance of ``features @ weights`` under the Laplace approximation of the posterior,
    ``x' (A' diag(p (1 - p)) A + precision I)^-1 x``, computed by the identity of Woodbury. Unlike the
    distance of the score from zero, it falls for a pair of equally good texts once the model knows them.

    Source: MacKay 1992, *The Evidence Framework Applied to Classification Networks*.

    Args:
        features: [N, D] rows to be judged, dense or sparse.
        bought: [M, D] rows the model was fitted to, dense or sparse; M may be 0.
        weights: [D] fitted weights.
        precision: of the Gaussian prior; ``1 / C`` of scikit-learn's LogisticRegression.

    Returns:
        [N] variances, at most ``|x|^2 / precision``.
    """
    if precision <= 0:
        raise ValueError(f"precision must be above 0, got {precision}")
    x, a = (csr_array(rows, dtype=np.float64) for rows in (features, bought))
    squares = np.asarray(x.multiply(x).sum(axis=1))
    if a.shape[0] == 0:
        return squares / precision
    p = 1 / (1 + np.exp(-(a @ np.asarray(weights, dtype=np.float64))))
    a = diags_array(np.sqrt(p * (1 - p))) @ a  # [M, D]
    cross = (x @ a.T).toarray()  # [N, M]
    inner = np.linalg.solve((a @ a.T).toarray() + precision * np.eye(a.shape[0]), cross.T)  # [M, N]
    return (squares - (cross * inner.T).sum(axis=1)) / precision


def _check(available: int, n: int) -> None:
    if not 0 <= n <= available:
        raise ValueError(f"n must be from 0 to {available}, the number of pairs left, got {n}")


# --- More pairs from the same labels -----------------------------------------


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
