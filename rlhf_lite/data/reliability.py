"""How far raters agree, and what that does to the label of a pair.

Two views of the same noise. *Agreement statistics* look at scores: do different people give one text the same
score? *Votes* look at pairs: if one person is asked about each text, how often does the better text win?

A vote here is simulated from real scores: one rater of each text is drawn, and the higher score wins. The two
are different people (the files do not say who gave which score), so a vote also holds the difference between
a mild and a harsh rater. Somebody who compares both texts himself would be more consistent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import comb
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_lite.types import Rating

Level = Literal["nominal", "ordinal", "interval"]

SCORES = tuple(range(-4, 5))


def krippendorff_alpha(ratings: Iterable[Rating], *, level: Level = "interval") -> float:
    """Krippendorff's alpha of texts that were rated from -4 to 4, by any number of raters each.

    ``1 - observed / expected disagreement``: 1 if all raters of a text agree, 0 if they agree as much as the
    same scores dealt out at random, below 0 if less. The ``krippendorff`` library computes it.

    Args:
        ratings: texts with their scores; a text with one rater counts for nothing.
        level: what makes two scores differ: ``nominal`` any difference alike, ``ordinal`` the number of
            scores between them, ``interval`` the square of the difference.

    Source: Krippendorff 2011, *Computing Krippendorff's Alpha-Reliability*.

    Raises:
        ValueError: no text has two raters, or every score is the same (then alpha is not defined).
    """
    import krippendorff

    counts = np.array([[r.ratings.count(score) for score in SCORES] for r in ratings])
    if counts.size == 0 or counts.sum(axis=1).max() < 2:
        raise ValueError("alpha needs at least one text with two raters")
    if (counts[counts.sum(axis=1) >= 2].sum(axis=0) > 0).sum() < 2:
        raise ValueError("alpha is not defined when every score is the same: there is nothing to agree about")
    return float(krippendorff.alpha(value_counts=counts, value_domain=SCORES, level_of_measurement=level))


def reliability_of_mean(alpha: float, raters: int) -> float:
    """Expected correlation between two means of ``raters`` raters each, from the alpha of single raters.

        raters * alpha / (1 + (raters - 1) * alpha)

    Source: Spearman 1910, Brown 1910. Alpha at the interval level takes the place of the correlation between
    two single raters.

    Raises:
        ValueError: ``raters`` < 1.
    """
    if raters < 1:
        raise ValueError(f"raters must be at least 1, got {raters}")
    return raters * alpha / (1 + (raters - 1) * alpha)


def rater_consistency(table: ArrayLike) -> NDArray[np.float64]:
    """Correlation of each rater with the mean of all the others.

    Args:
        table: [texts, raters] scores; every rater scored every text.

    Returns:
        [raters]; 0 for a rater who gave every text the same score.

    Raises:
        ValueError: fewer than three texts or fewer than two raters.
    """
    scores = np.asarray(table, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[0] < 3 or scores.shape[1] < 2:
        raise ValueError(f"wanted a table of 3 or more texts by 2 or more raters, got shape {scores.shape}")
    others = (scores.sum(axis=1, keepdims=True) - scores) / (scores.shape[1] - 1)
    a, b = scores - scores.mean(axis=0), others - others.mean(axis=0)
    size = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    return np.divide((a * b).sum(axis=0), size, out=np.zeros(scores.shape[1]), where=size > 0)


def majority_error(p: float, votes: int) -> float:
    """Probability that the majority of independent votes is wrong when each is right with probability ``p``.

    A tie, possible with an even number of votes, is broken by a coin.

    Source: Condorcet 1785.

    Raises:
        ValueError: ``p`` outside [0, 1], or ``votes`` < 1.
    """
    if not 0 <= p <= 1 or votes < 1:
        raise ValueError(f"wanted 0 <= p <= 1 and votes >= 1, got p={p}, votes={votes}")
    chance = [comb(votes, right) * p**right * (1 - p) ** (votes - right) for right in range(votes + 1)]
    wrong = sum(c for right, c in enumerate(chance) if 2 * right < votes)
    return wrong + (0.5 * chance[votes // 2] if votes % 2 == 0 else 0.0)


def flip_probability(chosen: Rating, rejected: Rating, *, votes: int = 1) -> float:
    """Probability that the majority of ``votes`` votes prefers the text with the lower mean.

    Exact, not simulated: the raters of a text are taken as the population, every vote draws one of each text
    anew, and equal scores are a vote for nobody. A tie of the majority counts half. With one vote this is
    ``1 - agreement(chosen, rejected)``.

    Raises:
        ValueError: ``votes`` < 1.
    """
    if votes < 1:
        raise ValueError(f"votes must be at least 1, got {votes}")
    a, b = np.asarray(chosen.ratings)[:, None], np.asarray(rejected.ratings)[None, :]
    single = np.array([(a < b).mean(), (a == b).mean(), (a > b).mean()])  # a vote of -1, 0, +1
    total = np.ones(1)
    for _ in range(votes):
        total = np.convolve(total, single)
    return float(total[:votes].sum() + 0.5 * total[votes])  # entry i is a sum of i - votes


class RestAgreement(NamedTuple):
    """What ``agreement_with_rest`` found, one row per random division of the raters.

    Attributes:
        agrees: [draws, len(votes)], 1 where the majority says what the judges say, 0 where not, 0.5 for ties.
        gap: [draws], difference between the judges' two means, without sign.
    """

    agrees: NDArray[np.float64]
    gap: NDArray[np.float64]


def agreement_with_rest(chosen: Rating, rejected: Rating, votes: Sequence[int], *, draws: int = 100,
                        seed: int = 0) -> RestAgreement:
    """How often the majority of k votes says what raters who never vote say.

    In every draw ``max(votes)`` raters of each text are the voters, and all the others are the judges: the
    difference of their two means is what counts as right. Sort results by ``gap``, the judges' own, and not
    by the gap over all raters: that one holds the voters too, and among pairs with a small total every vote
    one way leaves the judges leaning the other way.

    Args:
        chosen: one text of the pair.
        rejected: the other one; the result does not depend on which is which.
        votes: numbers of votes k, each below the number of raters of either text.
        draws: how often the raters are divided at random.
        seed: of that division.

    Raises:
        ValueError: a k is below 1 or leaves no judge over.
    """
    fewest = min(chosen.n, rejected.n)
    wrong = [k for k in votes if not 1 <= k < fewest]
    if wrong or not votes:
        raise ValueError(f"votes must be from 1 to {fewest - 1} for this pair, got {wrong or 'none'}")
    rng = np.random.default_rng(seed)
    a, b = (rng.permuted(np.tile(r.ratings, (draws, 1)), axis=1) for r in (chosen, rejected))  # [draws, n]
    most = max(votes)
    rest = a[:, most:].mean(axis=1) - b[:, most:].mean(axis=1)  # [draws]
    balance = np.sign(a[:, :most] - b[:, :most]).cumsum(axis=1)  # [draws, most], after 1, 2, ... votes
    majority = np.sign(balance[:, np.asarray(votes) - 1])  # [draws, len(votes)]
    return RestAgreement(0.5 + 0.5 * majority * np.sign(rest)[:, None], np.abs(rest))
