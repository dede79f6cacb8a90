"""Scores of texts that need no policy: diversity, repetition, loops, sentiment, toxicity, coherence.

What words are, and in which typography texts are read, says `data.words`. The two judges are loaded at the
first call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_lite.data.words import normalise_for_judges, words
from rlhf_lite.evaluation.statistics import Interval, share_ci

_LONGEST = 8  # words of a loop
# Rows of prompt ids and rows of continuation ids to the log-probability of each continuation, ``[n]`` nats.
Logps = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], NDArray[np.float64]]


def _texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError(f"texts: expected a list of strings, got one string {texts!r:.60}; wrap it in a list")
    items = list(texts)
    for index, text in enumerate(items):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}]: expected a string, got {type(text).__name__} {text!r:.60}")
    return items


def _judged(texts: Iterable[str]) -> list[str]:
    return [normalise_for_judges(text) for text in _texts(texts)]


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


class Degeneration(NamedTuple):
    """Shares of ``n`` texts, each with its 95 % interval over prompts."""

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


def degeneration(texts: Sequence[str], ended: Sequence[bool], *,
                 groups: ArrayLike | None = None) -> Degeneration:
    """Shares of texts that are empty, that loop, and that did not end by themselves.

    Args:
        texts: ``[n]`` continuations.
        ended: ``[n]`` False where the length limit cut the text.
        groups: ``[n]`` the prompt of each text; None if each has its own.

    Raises:
        ValueError: if there is no text, or the lengths differ.
    """
    n = len(texts)
    if n == 0 or n != len(ended):
        raise ValueError(f"expected as many texts as flags, at least one; got {n} and {len(ended)}")
    empty = [not text.strip() for text in texts]
    looping = [loops(text) for text in texts]
    cut = [not flag for flag in ended]
    return Degeneration(n, *(share_ci(flags, groups=groups) for flags in (empty, looping, cut)))


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
    items, analyser = _judged(texts), _vader()
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
    items = _judged(texts)
    if not items:
        return np.zeros(0, dtype=np.float64)
    from profanity_check import predict_prob

    return np.asarray(predict_prob(items), dtype=np.float64)


class Coherence(NamedTuple):
    """Both ``[n]`` in nats per token; NaN where the continuation has no token.

    Attributes:
        score: the coherence.
        control: one wrong prompt against another.
    """

    score: NDArray[np.float64]
    control: NDArray[np.float64]


def other_rows(prompts: Sequence[Sequence[int]], *, seed: int) -> NDArray[np.int64]:
    """For each row two rows with other prompts, different from each other: ``[2, n]`` indices.

    The distinct prompts are put into a random circle; each row takes the prompts one step and two steps on.

    Raises:
        ValueError: with fewer than three different prompts.
    """
    first: dict[tuple[int, ...], int] = {}
    for row, prompt in enumerate(prompts):
        first.setdefault(tuple(prompt), row)
    if len(first) < 3:
        raise ValueError(f"coherence needs at least three different prompts, got {len(first)}")
    order = np.random.default_rng(seed).permutation(np.fromiter(first.values(), dtype=np.int64))
    place = {tuple(prompts[row]): index for index, row in enumerate(order)}
    own = np.array([place[tuple(prompt)] for prompt in prompts])
    return np.stack([order[(own + step) % len(order)] for step in (1, 2)])


def coherence(logps: Logps, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], *,
              seed: int, own: NDArray[np.float64] | None = None) -> Coherence:
    """Does a continuation belong to its prompt? Measured by a language model that wrote none of them.

    A text that follows from its prompt is likelier after it than after somebody else's prompt::

        coherence(x, y) = ( log p(y | x) - mean over other prompts x' of log p(y | x') ) / tokens of y

    in nats per token, under a reference model. It estimates the pointwise mutual information of prompt and
    continuation (Li et al. 2016, *A Diversity-Promoting Objective Function for Neural Conversation Models*,
    use the same quantity to choose answers), with other prompts of the same set in place of log p(y): a bare
    beginning of text would mostly measure that a continuation is no beginning.

    The *control* compares two wrong prompts with each other, log p(y | x') - log p(y | x''), per token.
    Nothing tells them apart, so its mean is zero up to noise; a coherence inside the control's spread says
    nothing. Coherence is not quality: a text that copies its prompt is highly coherent, and "Yes." may be a
    good answer to everything.

    Args:
        logps: of the reference model, for example ``Network.logps`` of `evaluation.eval_policy`.
        prompts: n rows of token ids.
        continuations: n rows of token ids; a row may be empty.
        seed: draws the other prompts.
        own: ``[n]`` log p(y | x), if it is known already.

    Raises:
        ValueError: if the lengths differ or there are fewer than three different prompts.
    """
    if len(prompts) != len(continuations):
        raise ValueError(f"got {len(prompts)} prompts for {len(continuations)} continuations")
    others = other_rows(prompts, seed=seed)
    lengths = np.array([len(row) for row in continuations], dtype=np.float64)
    lengths[lengths == 0] = np.nan
    right = logps(prompts, continuations) if own is None else np.asarray(own, dtype=np.float64)
    one, two = (logps([prompts[row] for row in rows], continuations) for rows in others)
    return Coherence((right - (one + two) / 2) / lengths, (one - two) / lengths)
