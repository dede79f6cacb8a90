"""Is this reward model good enough to be optimised against? A check to run before PPO.

Held-out accuracy alone does not answer the question: it is measured on texts that people wrote, and PPO will
ask about texts that a policy writes, and will look for the best of them. So five things are measured, each
with an interval and a threshold (:class:`Thresholds` gives the reasons):

- *accuracy*, as a share of what the disagreement of the raters allows;
- *calibration*: does a score difference mean the probability that it claims?
- *best-of-n gain*: when the reward model chooses among samples of the policy, is a gold judge happier?
- *over-optimisation*: does the gold judge still gain at the largest n, or has it passed its peak?
- *length*: do longer texts score higher although people rate them alike?

The gold judge must not have seen what the reward model was trained on; see ``evaluation.gold``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_lite.data.collate import pad_left
from rlhf_lite.data.formatting import encode_prompts
from rlhf_lite.evaluation.readiness.result import Criterion, Readiness, Threshold, Thresholds
from rlhf_lite.evaluation.statistics import (
    Interval,
    Units,
    mean_ci,
    pair_accuracy,
    pearson_ci,
    units_of,
)
from rlhf_lite.evaluation.statistics.intervals import vector
from rlhf_lite.functional import best_of_n_estimate
from rlhf_lite.models.policy import end_tokens
from rlhf_lite.rollout.sampler import row_seeds, sample
from rlhf_lite.types import Preference, Rating

__all__ = [
    "DEFAULT_THRESHOLDS", "Criterion", "Evidence", "Readiness", "Threshold", "Thresholds", "best_of_n_curve",
    "calibration_error_ci", "check_readiness", "length_correlation", "powers_of_two", "readiness",
    "sample_pool", "skill_ci",
]

DEFAULT_THRESHOLDS = Thresholds()
# The pool's random numbers are far from those of training, of the evaluation and of DPO's candidates.
_POOL = 3_000_000


@dataclass(frozen=True)
class Evidence:
    """What a reward model is checked on. Nothing of it may have been used to train the model.

    Attributes:
        pairs: held-out preferences; ``meta["agreement"]``, if all have it, gives the ceiling of accuracy.
        pool: for each prompt the same number of whole texts, sampled from the policy that PPO starts from.
        gold: ``[P, M]`` the gold judge's score of each text of the pool.
        ratings: held-out rated texts for the length criterion; may be empty.
    """

    pairs: Sequence[Preference]
    pool: Sequence[Sequence[str]] = ()
    gold: ArrayLike = ()
    ratings: Sequence[Rating] = ()


def check_readiness(score: Callable[[Sequence[str]], ArrayLike], evidence: Evidence, *,
                    thresholds: Thresholds = DEFAULT_THRESHOLDS, seed: int = 0) -> Readiness:
    """Measure a reward model on the evidence and hold it against the thresholds.

    Args:
        score: whole texts to raw scores, such as ``RewardModel.score_texts`` or any function.
        evidence: held-out pairs, a pool of samples with their gold scores, rated texts.
        thresholds: what the criteria are held against.
        seed: of the bootstrap intervals.

    Raises:
        ValueError: if the pool is ragged or does not fit its gold scores, or a score is not finite.
    """

    def read(texts: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(score(list(texts)), dtype=np.float64)

    pairs, pool, ratings = evidence.pairs, evidence.pool, evidence.ratings
    if len({len(texts) for texts in pool}) > 1:
        raise ValueError(f"a pool needs equally many texts per prompt, got {[len(t) for t in pool]}")
    known = [pair.meta.get("agreement") for pair in pairs]
    numbers: dict[str, Any] = {
        "chosen": read([pair.prompt + pair.chosen for pair in pairs]),
        "rejected": read([pair.prompt + pair.rejected for pair in pairs]),
        "agreement": None if None in known else known, "units": units_of(pairs),
    }
    if pool:
        scores = read([text for texts in pool for text in texts])
        numbers |= {"pool_scores": scores.reshape(len(pool), -1), "pool_gold": evidence.gold}
    if ratings:
        numbers["text_scores"] = read([rating.text for rating in ratings])
        numbers["text_words"] = [len(rating.text.split()) for rating in ratings]
        numbers["text_ratings"] = [rating.mean for rating in ratings]
    return readiness(**numbers, thresholds=thresholds, seed=seed)


def readiness(*, chosen: ArrayLike, rejected: ArrayLike, agreement: ArrayLike | None = None,
              units: Units | None = None,
              pool_scores: ArrayLike | None = None, pool_gold: ArrayLike | None = None,
              text_scores: ArrayLike | None = None, text_words: ArrayLike | None = None,
              text_ratings: ArrayLike | None = None, thresholds: Thresholds = DEFAULT_THRESHOLDS,
              seed: int = 0) -> Readiness:
    """The check from numbers that were measured elsewhere. What is None is "not measured".

    Args:
        chosen, rejected: ``[n]`` raw scores of held-out pairs.
        agreement: ``[n]`` probability that a random rater of the chosen text scored above a random rater of
            the rejected one.
        units: what the pairs share, see `statistics.pair_accuracy`.
        pool_scores, pool_gold: ``[P, M]`` reward-model and gold scores of M samples for each of P prompts.
        text_scores, text_words, text_ratings: ``[k]`` raw score, length and mean human rating of texts.
        thresholds: what the criteria are held against.
        seed: of the bootstrap intervals.

    Raises:
        ValueError: if shapes do not fit, or a number is not finite.
    """
    criteria = [*_on_pairs(chosen, rejected, agreement, units, thresholds, seed)]
    curve: tuple[tuple[int, float, float], ...] = ()
    if pool_scores is None or pool_gold is None:
        for name in ("gain", "overoptimisation"):
            criteria.append(Criterion(name, None, getattr(thresholds, name), "no pool of samples"))
    else:
        on_pool, curve = _on_pool(np.asarray(pool_scores, float), np.asarray(pool_gold, float), thresholds,
                                  seed)
        criteria += on_pool
    if text_scores is None or text_words is None or text_ratings is None:
        criteria.append(Criterion("length", None, thresholds.length, "no rated texts"))
    else:
        r = length_correlation(text_scores, text_words, text_ratings)
        crosses = r.low <= 0 <= r.high
        size = Interval(abs(r.estimate), 0.0 if crosses else min(map(abs, r.ends)), max(map(abs, r.ends)))
        words = f"score and length correlate at r = {r.estimate:+.2f} among texts of equal rating"
        criteria.append(Criterion("length", size, thresholds.length, words))
    return Readiness(tuple(criteria), curve, seed)


def _on_pairs(chosen: ArrayLike, rejected: ArrayLike, agreement: ArrayLike | None, units: Units | None,
              thresholds: Thresholds, seed: int) -> list[Criterion]:
    difference = np.asarray(chosen, float) - np.asarray(rejected, float)
    skill = skill_ci(difference, agreement, units=units)
    words = f"right on {pair_accuracy(difference).estimate:.0%} of {difference.size} pairs"
    if agreement is not None:
        words += f"; single raters side with the better mean {float(np.mean(agreement)):.0%} of the time"
    error = calibration_error_ci(difference, seed=seed)
    off = f"its probabilities are off by {error.estimate:.2f} on average"
    return [Criterion("accuracy", skill, thresholds.accuracy, words),
            Criterion("calibration", error, thresholds.calibration, off)]


def _on_pool(scores: NDArray[np.float64], gold: NDArray[np.float64], thresholds: Thresholds,
             seed: int) -> tuple[list[Criterion], tuple[tuple[int, float, float], ...]]:
    """Best-of-n gain and what came after gold's peak, in standard deviations of the policy's gold scores.

    The standard deviation is estimated too: each prompt's part in it belongs to the interval (delta method).
    """
    if scores.shape != gold.shape or scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError("pool scores and gold scores must both be [P, M] with M >= 2, "
                         f"got {scores.shape}, {gold.shape}")
    ns = powers_of_two(scores.shape[1])
    unit = float(gold.std())
    if not unit > 0:
        raise ValueError("the gold judge gives every text of the pool the same score: it cannot judge")
    by_gold, by_proxy = best_of_n_curve(scores, gold, ns), best_of_n_curve(scores, scores, ns)  # (P, len(ns))
    means = by_gold.mean(0)
    curve = tuple(zip(ns, by_proxy.mean(0).tolist(), means.tolist(), strict=True))
    before = int(means[:-1].argmax())
    pull = (((gold - gold.mean()) / unit) ** 2).mean(1) / 2 - 0.5  # (P,), mean 0

    def standardised(points: NDArray[np.float64]) -> Interval:
        return mean_ci(points / unit - points.mean() / unit * pull, seed=seed)

    gain = standardised(by_gold[:, -1] - by_gold[:, 0])
    past_peak = standardised(by_gold[:, -1] - by_gold[:, before])
    points = gain.estimate * unit
    gained = (f"best of {ns[-1]}: gold {points:+.2f} points = {gain.estimate:+.2f} standard deviations, "
              f"{len(scores)} prompts")
    peak = f"gold is highest at n = {ns[int(means.argmax())]}; here n = {ns[-1]} against n = {ns[before]}"
    return [Criterion("gain", gain, thresholds.gain, gained),
            Criterion("overoptimisation", past_peak, thresholds.overoptimisation, peak)], curve


@torch.no_grad()
def sample_pool(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *, n: int,
                max_new_tokens: int, temperature: float = 1.0, seed: int = 0) -> list[list[str]]:
    """``n`` whole texts (prompt and continuation) for each prompt; fold adapters into the model first."""
    filler = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id  # under the mask, never read
    ids, mask = pad_left(encode_prompts(tokenizer, prompts), filler)
    rollout = sample(model, ids, mask, max_new_tokens=max_new_tokens,
                     eos_token_id=end_tokens(model, tokenizer), pad_token_id=filler,
                     seeds=row_seeds(seed, _POOL, rows=len(prompts) * n),
                     temperature=temperature, repeats=n)
    written = [row[kept] for row, kept in zip(rollout.response_ids, rollout.response_mask, strict=True)]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [[prompt + text for text in texts[i * n : (i + 1) * n]] for i, prompt in enumerate(prompts)]


def skill_ci(difference: ArrayLike, agreement: ArrayLike | None = None, *,
             units: Units | None = None) -> Interval:
    """Accuracy on a scale where 0 is guessing and 1 is the ceiling that the raters' disagreement sets.

        skill = (A - 1/2) / (C - 1/2)

    A is the probability that the model agrees with a *single* rater of each text, C the same for somebody who
    knows every mean rating. Pair i weighs 2 agreement_i - 1 in both: a pair that divides people says little.
    So it is twice the weighted accuracy minus 1, and has its interval.

    Args:
        difference: ``[n]`` score of the chosen text minus score of the rejected one; 0 is a tie.
        agreement: ``[n]`` in [0, 1]; None counts every label as certain, so that C is 1.
        units: see `pair_accuracy`.

    Raises:
        ValueError: if lengths differ, a number is not finite or an agreement is outside [0, 1], or the raters
            do not side with the chosen texts at all.
    """
    n, weight = vector(difference, "difference").size, None
    if agreement is not None:
        sided = vector(agreement, "agreement")
        if sided.size != n or sided.min() < 0 or sided.max() > 1:
            raise ValueError(f"agreement: expected {n} numbers between 0 and 1, got {sided.size}")
        weight = 2 * sided - 1
        if not weight.sum() > 0:
            raise ValueError("agreement: raters side with the rejected texts; are chosen and rejected "
                             "swapped?")
    return Interval(*(2 * end - 1 for end in pair_accuracy(difference, units=units, weights=weight)))


def calibration_error_ci(difference: ArrayLike, *, bins: int = 10, resamples: int = 500,
                         seed: int) -> Interval:
    """Expected calibration error of sigmoid(difference), with a bootstrap interval over pairs.

    Each pair enters both ways round, so that outcomes are 1 and 0 equally often. Noise counts as error: the
    estimate is too large on average, and that of a resample even more so. The upper end is left like that,
    which is the careful side. The lower end is that of the basic bootstrap, which takes the bias off, and 0
    if labels drawn by the forecasts themselves would give such an error too (more than once in 40 times).

    Source: Efron and Tibshirani 1993, chapter 13; Bröcker and Smith 2007, *Increasing the Reliability of
    Reliability Diagrams*, for the labels drawn by the forecasts.

    Args:
        difference: ``[n]`` score of the chosen text minus score of the rejected one.
        bins: of equal width.
        resamples: of the bootstrap over pairs.
        seed: of the bootstrap.
    """
    values = vector(difference, "difference")
    n, rng = values.size, np.random.default_rng(seed)
    own, as_told, turned = (_deviations(side, bins) for side in (values, np.abs(values), -np.abs(values)))

    def error(total: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.abs(total).sum(-1) / (2 * n)

    draws = (np.bincount(rng.integers(0, n, n), minlength=n) @ own for _ in range(resamples))
    low, high = np.quantile(error(np.stack(list(draws))), [0.025, 0.975])
    wrong = expit(-np.abs(values))
    noise = [(rng.random(n) < wrong) @ (turned - as_told) for _ in range(resamples)]
    estimate = float(error(own.sum(0)))
    if high - low < 1e-12:  # equal forecasts, all right or all wrong: nothing is known about the spread
        return Interval(estimate, float("nan"), float("nan"))
    calibrated = estimate <= np.quantile(error(as_told.sum(0) + np.stack(noise)), 0.975)
    return Interval(estimate, 0.0 if calibrated else min(max(0.0, float(2 * estimate - high)), estimate),
                    max(float(high), estimate))


def _deviations(difference: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Outcome minus forecast of each pair, both ways round, in the bins of the forecasts: ``[n, bins]``."""
    table, edges = np.zeros((difference.size, bins)), np.linspace(0.0, 1.0, bins + 1)
    for outcome, forecast in ((1.0, expit(difference)), (0.0, expit(-difference))):
        place = np.clip(np.searchsorted(edges, forecast, side="left") - 1, 0, bins - 1)
        table[np.arange(difference.size), place] += outcome - forecast
    return table


def length_correlation(scores: ArrayLike, words: ArrayLike, ratings: ArrayLike) -> Interval:
    """Correlation of score and length among texts that people rate alike, with Fisher's interval.

    What a parabola in the rating explains is taken out of both first (a partial correlation). A score that is
    the same for every text correlates with nothing: 0, without an interval.

    Args:
        scores, words, ratings: ``[k]`` of the same texts, k >= 8.
    """
    y, x, rating = (vector(v, n) for v, n in ((scores, "scores"), (words, "words"), (ratings, "ratings")))
    if not y.size == x.size == rating.size >= 8:
        raise ValueError(f"expected equal lengths of 8 or more, got {y.size}, {x.size} and {rating.size}")
    basis = np.stack([np.ones_like(rating), rating, rating**2], axis=1)  # (k, 3)

    def rest(v: NDArray[np.float64]) -> NDArray[np.float64]:
        left = v - basis @ np.linalg.lstsq(basis, v, rcond=None)[0]
        return left if np.abs(left).max() > 1e-9 * np.abs(v).max() else np.zeros_like(v)

    sides = rest(y), rest(x)
    if not all(side.any() for side in sides):  # constant, or the rating itself
        return Interval(0.0, float("nan"), float("nan"))
    return pearson_ci(*sides, held_fixed=int(np.linalg.matrix_rank(basis)) - 1)


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, ... and ``largest`` itself."""
    return [2**k for k in range(largest.bit_length()) if 2**k < largest] + [largest]


def best_of_n_curve(scores: ArrayLike, values: ArrayLike, ns: Sequence[int]) -> NDArray[np.float64]:
    """Expected value of the best of n for each prompt and each n, ``[P, len(ns)]``; unbiased.

    Args:
        scores: ``[P, M]`` of the judge that chooses.
        values: ``[P, M]`` of the judge that is asked about the winner.
        ns: numbers of samples, each between 1 and M.
    """
    rows = list(zip(torch.as_tensor(scores).double(), torch.as_tensor(values).double(), strict=True))
    return np.array([[float(best_of_n_estimate(s, v, n=n)) for n in ns] for s, v in rows])
