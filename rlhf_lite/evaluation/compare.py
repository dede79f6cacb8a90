"""Any number of policies on the same prompts with the same random numbers, measured by the same judges.

    policies = [
        EvalPolicy("base", network, tokenizer, None),
        EvalPolicy("sft", network, tokenizer, "reference"),
        EvalPolicy("ppo", network, tokenizer, "policy", optimised_by=("reward",)),
    ]
    comparison = compare_policies(policies, prompts, baseline="sft", gold=gold_judge, seed=0)
    comparison.metrics["versus_baseline"]["ppo"]["gold"]["win_rate"]

What cannot be measured (a score that is NaN, a KL between different vocabularies) is left out and said:
``metrics["problems"]`` lists it in sentences, and ``Answers.missing`` gives the reason per measure. The unit
of chance is the prompt: answers to one prompt (equal prompts are one) are averaged before anything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lite.errors import ComparisonError
from rlhf_lite.evaluation.answers import Answers, measure
from rlhf_lite.evaluation.eval_policy import EvalPolicy, bare
from rlhf_lite.evaluation.judges import (
    DECIDING,
    Judges,
    ProfanityJudge,
    Scores,
    ToxicityJudge,
    deciding_judge,
)
from rlhf_lite.evaluation.statistics import length_controlled_win_rate, outcomes, win_rate_of
from rlhf_lite.evaluation.text_metrics import degeneration, distinct_n, repetition_rate

KIND = "rlhf-lite comparison"
# measure of Answers.scores -> name in a report, and name of its interval
MEANS = {
    "gold": ("gold_reward", "gold_ci95"), "vader": ("vader", "vader_ci95"),
    "reward": ("rm_reward", "rm_ci95"), "kl": ("kl_nats_per_seq", "kl_ci95"),
    "coherence": ("coherence_nats_per_token", "coherence_ci95"),
    "coherence_control": ("coherence_control", "coherence_control_ci95"),
    "toxicity": ("toxicity", "toxicity_ci95"),
}


@dataclass(frozen=True)
class Comparison:
    """The result: texts with scores, and everything a report says as JSON-ready numbers.

    Attributes:
        prompts: the prompts, one for every ``samples`` rows of the answers.
        answers: by policy, in the order given.
        metrics: the content of ``report.json``.
    """

    prompts: list[str]
    answers: dict[str, Answers]
    metrics: Mapping[str, Any]


def compare_policies(
    policies: Sequence[EvalPolicy], prompts: Sequence[str], *, baseline: str | None = None,
    reference: EvalPolicy | str | None = None, gold: Scores | None = None, reward: Scores | None = None,
    toxicity: ToxicityJudge | None = None, judge: str | None = None, tie_margin: float = 0.0,
    chat: bool = False, with_coherence: bool = True, max_new_tokens: int = 40, temperature: float = 1.0,
    n_samples: int = 1, seed: int = 0, prompt_source: str | None = None, remarks: Sequence[str] = (),
    on_policy: Callable[[int, str], None] | None = None,
) -> Comparison:
    """Let policies continue the same prompts with the same random numbers, and judge what they write.

    Args:
        policies: who takes part; adapters of one network share what lies below them.
        prompts: opening words, or with ``chat`` a user's messages.
        baseline: the policy that win rates are counted against; the first one if None.
        reference: under whose probabilities KL, perplexity and coherence are taken: a policy, its name, or
            None for the bare model of the first policy.
        gold: whole texts to estimated human ratings, such as a `gold.GoldJudge`; adapters are off around it.
        reward: whole texts to the scores of a reward model.
        toxicity: a judge from `judges.toxicity_judge`; alt-profanity-check if None.
        judge: which scores decide the win rates that the report leads with: "gold", "vader" or "reward"; None
            takes gold if it is there, else VADER.
        tie_margin: a difference up to this much, in the judge's unit, is a tie. Applies to ``judge`` alone;
            by the others only equal scores tie.
        chat: put prompts into the models' chat templates.
        with_coherence: measure coherence too, at the price of two more passes over every text.
        max_new_tokens: length limit of a continuation.
        temperature: of the sampling; 0 is greedy decoding, which has no KL.
        n_samples: continuations per prompt.
        seed: of every random number.
        prompt_source: where the prompts come from, for the report.
        remarks: more sentences for the list of problems.
        on_policy: called with the number of finished policies and a short text.

    Raises:
        ComparisonError: if names repeat or are unknown, there is nothing to compare, or a judge answers with
            the wrong number of scores.
    """
    names = _names(policies)
    baseline = names[0] if baseline is None else _known(baseline, names, "baseline")
    _check_numbers(prompts, n_samples, max_new_tokens, temperature)
    judge = deciding_judge(judge, has_gold=gold is not None, has_reward=reward is not None)
    judges = Judges(reference=_reference(policies, reference), gold=gold, reward_of_texts=reward,
                    toxicity=toxicity or ProfanityJudge(), chat=chat)
    answers: dict[str, Answers] = {}
    with bare([*policies, judges.reference]):  # a gold judge may read any of these networks
        for policy in policies:
            answers[policy.name] = measure(policy, prompts, judges, max_new_tokens=max_new_tokens,
                                           temperature=temperature, samples=n_samples, seed=seed,
                                           with_coherence=with_coherence, batch_size=64)
            if on_policy is not None:
                on_policy(len(answers), policy.name)
    settings: dict[str, Any] = {
        "seed": seed, "prompts": len(prompts), "n_samples": n_samples, "max_new_tokens": max_new_tokens,
        "temperature": temperature, "chat": chat, "baseline": baseline, "reference": judges.reference.name,
        "judge": judge, "tie_margin": tie_margin, "toxicity_judge": judges.toxicity.name,
    }
    metrics = {
        "kind": KIND, "schema": 1,
        "settings": settings | ({} if prompt_source is None else {"prompt_source": prompt_source}),
        "policies": {name: _described(own) | summarise(own, seed=seed) for name, own in answers.items()},
        "versus_baseline": versus_baseline(answers, baseline, judge=judge, tie_margin=tie_margin, seed=seed),
        "problems": [*problems_of(answers, prompts, chat=chat), *remarks],
    }
    return Comparison(list(prompts), answers, metrics)


def _described(answers: Answers) -> dict[str, Any]:
    """Where a policy comes from, and what could not be measured: every mean is None until it is."""
    bad = {name: int((~np.isfinite(values)).sum()) for name, values in answers.scores.items()}
    return dict.fromkeys([key for names in MEANS.values() for key in names]) | {
        "source": answers.policy.source, "optimised_by": list(answers.policy.optimised_by),
        "template": answers.prompts.template, "n_texts": len(answers.texts), "missing": dict(answers.missing),
        "not_a_number": {name: count for name, count in bad.items() if count},
    }


def _names(policies: Sequence[EvalPolicy]) -> list[str]:
    names = [policy.name for policy in policies]
    if not names:
        raise ComparisonError("there is no policy to compare: give at least one")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ComparisonError(f"two policies are called {twice[0]!r}: give each its own name "
                              "(on the command line NAME=MODEL)")
    return names


def _known(name: str, names: Sequence[str], what: str) -> str:
    if name not in names:
        raise ComparisonError(f"{what} {name!r} is none of the policies: {', '.join(names)}")
    return name


def _reference(policies: Sequence[EvalPolicy], reference: EvalPolicy | str | None) -> EvalPolicy:
    if isinstance(reference, EvalPolicy):
        return reference
    if isinstance(reference, str):
        name = _known(reference, [policy.name for policy in policies], "reference")
        return next(policy for policy in policies if policy.name == name)
    first = policies[0]
    untouched = (one for one in policies if one.model is first.model and one.adapter is None)
    return next(untouched, EvalPolicy("its base model", first.model, first.tokenizer, None))


def _check_numbers(prompts: Sequence[str], n_samples: int, max_new_tokens: int, temperature: float) -> None:
    if not prompts:
        raise ComparisonError("there is no prompt: give at least one")
    if n_samples < 1 or max_new_tokens < 1:
        raise ComparisonError("n_samples and max_new_tokens must be at least 1, got "
                              f"{n_samples} and {max_new_tokens}")
    if not 0 <= temperature < float("inf"):  # also catches NaN
        raise ComparisonError(f"temperature must be 0 or more, got {temperature}")
    if temperature == 0 and n_samples > 1:
        raise ComparisonError("greedy decoding writes the same text every time: use n_samples=1")


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
    for name in measures:
        key, ends = MEANS[name]
        gap = a.mean(a.scores[name] - b.scores[name], seed=seed)
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
            for measure in DECIDING if measure in own.scores and measure in base.scores
        }
    return table


def _versus(a: Answers, b: Answers, measure: str, *, margin: float, seed: int) -> dict[str, Any]:
    """Win rate, length-controlled win rate and mean difference by one judge."""
    first, second = a.scores[measure], b.scores[measure]
    gain = a.mean(first - second, seed=seed)
    if gain is None:
        return {"n": 0, "reason": "no text has a score from this judge under both policies"}
    there = np.isfinite(first - second)
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
    return {"length_controlled": rate.estimate, "length_controlled_ci95": rate.ends,
            "length_effect": rate.length_effect}


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
        for score, values in own.scores.items():
            bad = int((~np.isfinite(values)).sum())
            # An empty answer has no token to be coherent with: said above already.
            if bad and not score.startswith("coherence"):
                problems.append(f"{name}: {bad} of {n} scores by {score} are not a number; they are left "
                                "out of its mean and of the win rates by it.")
        if "kl" in own.missing:
            problems.append(f"{name}: no KL, because {own.missing['kl']}.")
    return problems
