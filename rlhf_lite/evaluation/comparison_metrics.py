"""From scores per text to the numbers of a comparison: means with intervals, and each policy against a
baseline.

The unit of chance is the prompt: several samples of one prompt are averaged before anything is resampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lite.errors import ComparisonError
from rlhf_lite.evaluation.degeneration import degeneration
from rlhf_lite.evaluation.statistics import (
    Interval,
    bootstrap_mean_ci,
    length_controlled_win_rate,
    outcomes,
    win_rate_of,
)
from rlhf_lite.evaluation.text_metrics import distinct_n, repetition_rate

if TYPE_CHECKING:
    from rlhf_lite.evaluation.compare import Answers

__all__ = ["JUDGES", "judged_by", "per_prompt", "problems_of", "summarise_answers", "versus_baseline"]

# Scores that may decide who wins a prompt.
JUDGES = ("gold", "vader", "reward")
# measure of Answers.scores -> name in the report of a run, and name of its interval
_MEANS = {
    "gold": ("gold_reward", "gold_ci95"),
    "vader": ("vader", "vader_ci95"),
    "reward": ("rm_reward", "rm_ci95"),
    "kl": ("kl_nats_per_seq", "kl_ci95"),
    "coherence": ("coherence_nats_per_token", "coherence_ci95"),
    "coherence_control": ("coherence_control", "coherence_control_ci95"),
    "toxicity": ("toxicity", "toxicity_ci95"),
}


def judged_by(judge: str | None, *, has_gold: bool, has_reward: bool) -> str:
    """The judge that decides win rates.

    Raises:
        ComparisonError: if it is unknown or was not given.
    """
    there = {"gold": has_gold, "vader": True, "reward": has_reward}
    if judge is None:
        return "gold" if has_gold else "vader"
    if not there.get(judge, False):
        known = ", ".join(name for name in JUDGES if there[name])
        raise ComparisonError(f"no judge {judge!r} in this comparison; there is {known}")
    return judge


def per_prompt(values: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    """Means over the samples of each prompt, ``[prompts]``; a prompt without any number is left out."""
    table = values.reshape(-1, samples)
    there = ~np.isnan(table)
    counts = there.sum(1)
    sums = np.where(there, table, 0.0).sum(1)
    return sums[counts > 0] / counts[counts > 0]


def _mean(values: NDArray[np.float64], samples: int, seed: int) -> Interval | None:
    means = per_prompt(values, samples)
    return bootstrap_mean_ci(means, seed=seed) if len(means) else None


def summarise_answers(found: Answers, samples: int, *, seed: int) -> dict[str, Any]:
    """One policy's numbers, units in the names; None where there is none, with the reason in "missing"."""
    row: dict[str, Any] = {
        "source": found.entrant.source,
        "optimised_by": list(found.entrant.optimised_by),
        "template": found.prompts.template,
        "n_texts": len(found.texts),
        "n_prompts": len(found.texts) // samples,
        "missing": dict(found.missing),
        "not_a_number": {
            name: int(np.isnan(values).sum())
            for name, values in found.scores.items()
            if np.isnan(values).any()
        },
    }
    for measure, (key, ends) in _MEANS.items():
        interval = _mean(found.scores[measure], samples, seed) if measure in found.scores else None
        row[key] = None if interval is None else interval.estimate
        row[ends] = None if interval is None else interval.ends
    tokens = bootstrap_mean_ci(per_prompt(found.tokens, samples), seed=seed)
    row |= {"length_tokens": tokens.estimate, "length_ci95": tokens.ends}
    row["perplexity_reference"] = _perplexity(found)
    for n in (1, 2, 3):
        row[f"distinct_{n}"] = _number(distinct_n(found.texts, n))
    row["self_repetition"] = _number(repetition_rate(found.texts, 3))
    broken = degeneration(found.texts, found.ended.tolist())
    for name in ("empty", "looping", "cut"):
        share = getattr(broken, name)
        row |= {f"{name}_fraction": share.estimate, f"{name}_ci95": share.ends}
    return row


def _perplexity(found: Answers) -> float | None:
    """The exponential of the mean surprise per token, over all tokens of all texts."""
    tokens = found.scores["reference_tokens"].sum()
    nats = found.scores["reference_nats"].sum()
    return _number(math.exp(min(nats / tokens, 700.0))) if tokens else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def versus_baseline(
    answers: Mapping[str, Answers],
    baseline: str,
    samples: int,
    *,
    judge: str,
    tie_margin: float,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Each policy against the baseline, prompt by prompt, by every judge that scored both."""
    base, table = answers[baseline], {}
    for name, found in answers.items():
        if name == baseline:
            continue
        table[name] = {
            measure: _versus(
                found, base, measure, samples, margin=tie_margin if measure == judge else 0.0, seed=seed
            )
            for measure in JUDGES
            if measure in found.scores and measure in base.scores
        }
    return table


def _versus(
    a: Answers, b: Answers, measure: str, samples: int, *, margin: float, seed: int
) -> dict[str, Any]:
    """Win rate, length-controlled win rate and mean difference by one judge."""
    first, second = a.scores[measure], b.scores[measure]
    there = ~(np.isnan(first) | np.isnan(second))
    if not there.any():
        return {"n": 0, "reason": "no text has a score from this judge under both policies"}
    prompts = np.repeat(np.arange(len(first) // samples), samples)[there]
    difference = np.where(there, first - second, np.nan)
    gain = bootstrap_mean_ci(per_prompt(difference, samples), seed=seed)
    row = {"n": int(there.sum()), "difference": gain.estimate, "difference_ci95": gain.ends}
    outcome = outcomes(first[there], second[there], margin=margin)
    rate = win_rate_of(outcome, clusters=prompts)
    row |= {"win_rate": rate.estimate, "ci95": rate.ends}
    row |= {"wins": rate.wins, "ties": rate.ties, "losses": rate.losses}
    return row | _length_controlled(outcome, a, b, there, prompts)


def _length_controlled(
    outcome: NDArray[np.float64], first: Answers, second: Answers, there: NDArray[np.bool_], clusters: NDArray
) -> dict[str, Any]:
    """The win rate at equal length, or the reason why it cannot be told."""
    try:
        found = length_controlled_win_rate(
            outcome, first.tokens[there], second.tokens[there], clusters=clusters
        )
    except ValueError as error:
        return {"length_controlled": None, "length_controlled_reason": str(error)}
    return {
        "length_controlled": found.estimate,
        "length_controlled_ci95": [found.low, found.high],
        "length_effect": found.length_effect,
    }


def problems_of(answers: Mapping[str, Answers], prompts: Sequence[str], *, chat: bool) -> list[str]:
    """What a reader should know before trusting the numbers, in sentences."""
    said = []
    repeated = len(prompts) - len(set(prompts))
    if repeated:
        said.append(
            f"{repeated} of {len(prompts)} prompts repeat an earlier one: intervals treat them as "
            f"independent "
            "and are too narrow."
        )
    for name, found in answers.items():
        n = len(found.texts)
        if found.prompts.cut:
            rows = ", ".join(str(row + 1) for row in found.prompts.cut[:5])
            more = "" if len(found.prompts.cut) <= 5 else ", ..."
            said.append(
                f"{name}: {len(found.prompts.cut)} prompts (number {rows}{more}) are longer than its window "
                f"and "
                "lost their beginning."
            )
        if chat and found.prompts.template == "transcript":
            said.append(f"{name} has no chat template: its prompts were written as a plain transcript.")
        empty = sum(not text.strip() for text in found.texts)
        if empty:
            said.append(f"{name}: {empty} of {n} answers are empty; they are judged as empty texts.")
        for measure, values in found.scores.items():
            bad = int(np.isnan(values).sum())
            # An empty answer has no token to be coherent with: said above already.
            if bad and not measure.startswith("coherence"):
                said.append(
                    f"{name}: {bad} of {n} scores by {measure} are not a number; they are left out of its "
                    f"mean "
                    "and of the win rates by it."
                )
        if "kl" in found.missing:
            said.append(f"{name}: no KL, because {found.missing['kl']}.")
    return said
