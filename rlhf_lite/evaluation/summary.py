"""From scores per answer to numbers: each policy's means with intervals, and one policy against another.

The unit of chance is the prompt: answers to one prompt (equal prompts are one) are averaged before anything
else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lite.evaluation.answers import Answers
from rlhf_lite.evaluation.judges import DECIDING
from rlhf_lite.evaluation.statistics import length_controlled_win_rate, outcomes, win_rate_of
from rlhf_lite.evaluation.text_metrics import degeneration, distinct_n, repetition_rate

# measure of Answers.scores -> name in a report, and name of its interval
MEANS = {
    "gold": ("gold_reward", "gold_ci95"),
    "vader": ("vader", "vader_ci95"),
    "reward": ("rm_reward", "rm_ci95"),
    "kl": ("kl_nats_per_seq", "kl_ci95"),
    "coherence": ("coherence_nats_per_token", "coherence_ci95"),
    "coherence_control": ("coherence_control", "coherence_control_ci95"),
    "toxicity": ("toxicity", "toxicity_ci95"),
}


def summarise(answers: Answers, *, seed: int) -> dict[str, Any]:
    """One policy's numbers, units in the names; None where a number cannot be had.

    Means have 95 % intervals over prompts, see `statistics.mean_ci`. Lengths in tokens are those of the
    policy's own tokenizer: compare policies by words.
    """
    columns = {MEANS[name]: values for name, values in answers.scores.items() if name in MEANS}
    columns[("length_tokens", "length_ci95")] = answers.tokens
    columns[("length_words", "length_words_ci95")] = answers.words
    row: dict[str, Any] = {}
    for (key, ends), values in columns.items():
        interval = answers.mean(values, seed=seed)
        row |= {key: interval and interval.estimate, ends: interval and interval.ends}
    row["perplexity_reference"] = perplexity(answers)
    for n in (1, 2, 3):
        row[f"distinct_{n}"] = _number(distinct_n(answers.texts, n))
    row["self_repetition"] = _number(repetition_rate(answers.texts, 3))
    broken = degeneration(answers.texts, answers.ended.tolist(), groups=answers.groups)
    for name in ("empty", "looping", "cut"):
        share = getattr(broken, name)
        row |= {f"{name}_fraction": share.estimate, f"{name}_ci95": share.ends}
    row |= {"ended_fraction": float(answers.ended.mean()), "n_prompts": len(answers.prompts.ids)}
    return row


def perplexity(answers: Answers) -> float | None:
    """The exponential of the mean surprise per token, over all tokens of all texts."""
    tokens = answers.scores["reference_tokens"].sum()
    nats = answers.scores["reference_nats"].sum()
    return _number(math.exp(min(nats / tokens, 700.0))) if tokens else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def compare(a: Answers, b: Answers, *, measures: Sequence[str] = ("gold", "vader"),
            seed: int) -> dict[str, Any]:
    """Differences a - b, prompt by prompt, with 95 % intervals; both answered the same prompts."""
    row: dict[str, Any] = {}
    for measure in measures:
        key, ends = MEANS[measure]
        gap = a.mean(a.scores[measure] - b.scores[measure], seed=seed)
        row |= {key: gap and gap.estimate, ends: gap and gap.ends}
    return row | {"n_prompts": len(a.prompts.ids)}


def versus_baseline(answers: Mapping[str, Answers], baseline: str, *, judge: str, tie_margin: float,
                    seed: int) -> dict[str, dict[str, Any]]:
    """Each policy against the baseline, prompt by prompt, by every judge that scored both.

    Args:
        answers: by policy, to the same prompts.
        baseline: one of the policies.
        judge: whose scores tie within ``tie_margin``; by the others only equal scores tie.
        tie_margin: in the judge's unit.
        seed: of the bootstrap.
    """
    base, table = answers[baseline], {}
    for name, own in answers.items():
        if name == baseline:
            continue
        table[name] = {
            measure: _versus(own, base, measure, margin=tie_margin if measure == judge else 0.0, seed=seed)
            for measure in DECIDING
            if measure in own.scores and measure in base.scores
        }
    return table


def _versus(a: Answers, b: Answers, measure: str, *, margin: float, seed: int) -> dict[str, Any]:
    """Win rate, length-controlled win rate and mean difference by one judge."""
    first, second = a.scores[measure], b.scores[measure]
    gain = a.mean(first - second, seed=seed)
    if gain is None:
        return {"n": 0, "reason": "no text has a score from this judge under both policies"}
    there = ~np.isnan(first - second)
    row = {"n": int(there.sum()), "difference": gain.estimate, "difference_ci95": gain.ends}
    outcome = outcomes(first[there], second[there], margin=margin)
    rate = win_rate_of(outcome, clusters=a.groups[there])
    row |= {"win_rate": rate.estimate, "ci95": rate.ends}
    row |= {"wins": rate.wins, "ties": rate.ties, "losses": rate.losses}
    return row | _length_controlled(outcome, a, b, there)


def _length_controlled(outcome: NDArray[np.float64], a: Answers, b: Answers,
                       there: NDArray[np.bool_]) -> dict[str, Any]:
    """The win rate at equal length in words, or the reason why it cannot be told."""
    lengths = a.words[there], b.words[there]
    try:
        rate = length_controlled_win_rate(outcome, *lengths, clusters=a.groups[there])
    except ValueError as error:
        return {"length_controlled": None, "length_controlled_reason": str(error)}
    return {
        "length_controlled": rate.estimate, "length_controlled_ci95": rate.ends,
        "length_effect": rate.length_effect,
    }


def problems_of(answers: Mapping[str, Answers], prompts: Sequence[str], *, chat: bool) -> list[str]:
    """What a reader should know before trusting the numbers, in sentences."""
    problems = []
    repeated = len(prompts) - len(set(prompts))
    if repeated:
        problems.append(f"{repeated} of {len(prompts)} prompts repeat an earlier one: equal prompts count as "
                        "one in every mean and interval.")
    for name, own in answers.items():
        n, cut = len(own.texts), own.prompts.cut
        if cut:
            rows = ", ".join(str(row + 1) for row in cut[:5]) + ("" if len(cut) <= 5 else ", ...")
            problems.append(f"{name}: {len(cut)} prompts (number {rows}) are longer than its "
                            "window and lost their beginning.")
        if chat and own.prompts.template == "transcript":
            problems.append(f"{name} has no chat template: its prompts were written as a plain transcript.")
        empty = sum(not text.strip() for text in own.texts)
        if empty:
            problems.append(f"{name}: {empty} of {n} answers are empty; they are judged as empty texts.")
        for measure, values in own.scores.items():
            bad = int(np.isnan(values).sum())
            # An empty answer has no token to be coherent with: said above already.
            if bad and not measure.startswith("coherence"):
                problems.append(f"{name}: {bad} of {n} scores by {measure} are not a number; they are left "
                                "out of its mean and of the win rates by it.")
        if "kl" in own.missing:
            problems.append(f"{name}: no KL, because {own.missing['kl']}.")
    return problems
