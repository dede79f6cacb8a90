"""Any number of policies on the same prompts with the same random numbers, measured by the same judges.

    policies = [
        EvalPolicy("base", network, tokenizer, None),
        EvalPolicy("sft", network, tokenizer, "reference"),
        EvalPolicy("ppo", network, tokenizer, "policy", optimised_by=("reward",)),
    ]
    comparison = compare_policies(policies, prompts, baseline="sft", gold=gold_judge, seed=0)
    comparison.metrics["versus_baseline"]["ppo"]["gold"]["win_rate"]

What cannot be measured (a score that is NaN, a KL between different vocabularies) is left out and said:
``metrics["problems"]`` lists it in sentences, and ``Answers.missing`` gives the reason per measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_lite.errors import ComparisonError
from rlhf_lite.evaluation.answers import Answers, measure
from rlhf_lite.evaluation.eval_policy import EvalPolicy, bare
from rlhf_lite.evaluation.judges import Judges, ProfanityJudge, Scores, ToxicityJudge, deciding_judge
from rlhf_lite.evaluation.summary import MEANS, problems_of, summarise, versus_baseline


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
        "kind": "rlhf-lite comparison", "schema": 1,
        "settings": settings | ({} if prompt_source is None else {"prompt_source": prompt_source}),
        "policies": {name: _described(own) | summarise(own, seed=seed) for name, own in answers.items()},
        "versus_baseline": versus_baseline(answers, baseline, judge=judge, tie_margin=tie_margin, seed=seed),
        "problems": [*problems_of(answers, prompts, chat=chat), *remarks],
    }
    return Comparison(list(prompts), answers, metrics)


def _described(answers: Answers) -> dict[str, Any]:
    """Where a policy comes from, and what could not be measured: every mean is None until it is."""
    bad = {name: int(np.isnan(values).sum()) for name, values in answers.scores.items()}
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
