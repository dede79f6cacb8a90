"""Any number of policies on the same prompts with the same random numbers, measured by the same judges.

    entrants = [
        Entrant("base", network, tokenizer, None),
        Entrant("sft", network, tokenizer, "reference"),
        Entrant("ppo", network, tokenizer, "policy", optimised_by=("reward",)),
    ]
    found = compare_policies(entrants, prompts, baseline="sft", gold=gold_judge, max_new_tokens=16, seed=0)
    found.metrics["versus_baseline"]["ppo"]["gold"]["win_rate"]

What cannot be measured (a score that is NaN, a KL between different vocabularies) is left out and said:
``metrics["problems"]`` lists it in sentences, and ``Answers.missing`` gives the reason per measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lite.data.formatting import plain_text
from rlhf_lite.errors import ComparisonError
from rlhf_lite.evaluation.comparison_metrics import judged_by, problems_of, summarise_answers, versus_baseline
from rlhf_lite.evaluation.entrants import Entrant, Network, PromptRows, continue_prompts, encode_for
from rlhf_lite.evaluation.reference_scores import under_reference
from rlhf_lite.evaluation.text_metrics import vader_scores
from rlhf_lite.evaluation.toxicity import ProfanityJudge, ToxicityJudge
from rlhf_lite.types import Message

__all__ = ["Answers", "Comparison", "Scores", "compare_policies"]

# Whole texts to one number each, ``[n]``; NaN means that the judge has no answer.
Scores = Callable[[Sequence[str]], NDArray[np.float64]]


@dataclass(frozen=True)
class Answers:
    """What one policy wrote and what every judge says; n = prompts x samples rows, samples adjacent.

    Attributes:
        entrant: who wrote.
        texts: n continuations.
        ids: their tokens, the end token included.
        ended: bool ``[n]``; False where the length limit cut the text.
        tokens: ``[n]`` tokens of the policy's own tokenizer, the end token included.
        scores: by measure ``[n]``, NaN where missing: gold, vader, toxicity, reward, kl (nats per sequence),
            reference_nats (minus log-probability under the reference), reference_tokens, coherence and
            coherence_control (nats per token).
        missing: why a measure is not there at all.
        prompts: how the policy read the prompts.
    """

    entrant: Entrant
    texts: list[str]
    ids: list[list[int]]
    ended: NDArray[np.bool_]
    tokens: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]
    missing: dict[str, str]
    prompts: PromptRows


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
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Bench:
    """The judges, and how their texts are made."""

    gold: Scores | None
    reward: Scores | None
    toxicity: ToxicityJudge
    chat: bool

    def scores(self, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Judges that read texts; in a chat the reward model reads the plain transcript."""
        whole = [self._whole(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        found = {"vader": vader_scores(texts), "toxicity": self.toxicity(texts)}
        for name, judge in (("gold", self.gold), ("reward", self.reward)):
            if judge is not None:
                found[name] = _checked(judge(whole), len(texts), name)
        return found

    def _whole(self, prompt: str, text: str) -> str:
        if not self.chat:
            return prompt + text
        return f"{plain_text([Message('user', prompt)], True)} {text}"


def compare_policies(
    entrants: Sequence[Entrant],
    prompts: Sequence[str],
    *,
    baseline: str | None = None,
    reference: Entrant | str | None = None,
    gold: Scores | None = None,
    reward: Scores | None = None,
    toxicity: ToxicityJudge | None = None,
    judge: str | None = None,
    tie_margin: float = 0.0,
    chat: bool = False,
    with_coherence: bool = True,
    max_new_tokens: int = 40,
    temperature: float = 1.0,
    n_samples: int = 1,
    seed: int = 0,
    on_policy: Callable[[int, str], None] | None = None,
) -> Comparison:
    """Let policies continue the same prompts with the same random numbers, and judge what they write.

    Args:
        entrants: the policies; adapters of one network share what lies below them.
        prompts: opening words, or with ``chat`` a user's messages.
        baseline: the policy that win rates are counted against; the first one if None.
        reference: whose law KL, perplexity and coherence are taken under: an entrant, its name, or None for
            the bare model of the first entrant.
        gold: whole texts to estimated human ratings, such as a `gold.GoldJudge`; adapters are off around it.
        reward: whole texts to the scores of a reward model.
        toxicity: a judge from `toxicity.toxicity_judge`; alt-profanity-check if None.
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
        on_policy: called with the number of finished policies and a short text.

    Raises:
        ComparisonError: if names repeat or are unknown, there is nothing to compare, or a judge answers with
            the wrong number of scores.
    """
    names = _names(entrants)
    baseline = names[0] if baseline is None else _known(baseline, names, "baseline")
    anchor = _reference(entrants, reference)
    _check_numbers(prompts, n_samples, max_new_tokens, temperature)
    bench = _Bench(gold, reward, toxicity or ProfanityJudge(), chat)
    judge = judged_by(judge, has_gold=gold is not None, has_reward=reward is not None)
    networks: dict[int, Network] = {}

    def network(entrant: Entrant) -> Network:
        if id(entrant.model) not in networks:
            networks[id(entrant.model)] = Network(entrant.model, entrant.tokenizer.pad_token_id or 0)
        return networks[id(entrant.model)]

    answers: dict[str, Answers] = {}
    for entrant in entrants:
        rows = encode_for(entrant, prompts, chat=chat, max_new_tokens=max_new_tokens)
        written = continue_prompts(
            entrant,
            rows.ids,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            samples=n_samples,
            seed=seed,
        )
        scores, missing = under_reference(
            entrant,
            anchor,
            network,
            rows,
            written,
            samples=n_samples,
            temperature=temperature,
            with_coherence=with_coherence,
            seed=seed,
        )
        with ExitStack() as stack:
            for one in networks.values():
                stack.enter_context(one.using(None))
            repeated = [prompt for prompt in prompts for _ in range(n_samples)]
            scores |= bench.scores(repeated, written.texts)
        for name, given in (("gold", gold), ("reward", reward)):
            if given is None:
                missing[name] = "no such judge was given"
        tokens = np.array([len(ids) for ids in written.ids], dtype=np.float64)
        answers[entrant.name] = Answers(
            entrant, written.texts, written.ids, written.ended, tokens, scores, missing, rows
        )
        if on_policy is not None:
            on_policy(len(answers), entrant.name)
    metrics: dict[str, Any] = {
        "kind": "rlhf-lite comparison",
        "schema": 1,
        "settings": {
            "seed": seed,
            "prompts": len(prompts),
            "n_samples": n_samples,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "chat": chat,
            "baseline": baseline,
            "reference": anchor.name,
            "judge": judge,
            "tie_margin": tie_margin,
            "toxicity_judge": bench.toxicity.name,
        },
        "policies": {name: summarise_answers(found, n_samples, seed=seed) for name, found in answers.items()},
        "versus_baseline": versus_baseline(
            answers, baseline, n_samples, judge=judge, tie_margin=tie_margin, seed=seed
        ),
    }
    metrics["problems"] = problems_of(answers, prompts, chat=chat)
    return Comparison(list(prompts), answers, metrics)


def _names(entrants: Sequence[Entrant]) -> list[str]:
    names = [entrant.name for entrant in entrants]
    if not names:
        raise ComparisonError("there is no policy to compare: give at least one")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ComparisonError(
            f"two policies are called {twice[0]!r}: give each its own name (on the command line NAME=MODEL)"
        )
    return names


def _known(name: str, names: Sequence[str], what: str) -> str:
    if name not in names:
        raise ComparisonError(f"{what} {name!r} is none of the policies: {', '.join(names)}")
    return name


def _reference(entrants: Sequence[Entrant], reference: Entrant | str | None) -> Entrant:
    if isinstance(reference, Entrant):
        return reference
    if isinstance(reference, str):
        name = _known(reference, [entrant.name for entrant in entrants], "reference")
        return next(entrant for entrant in entrants if entrant.name == name)
    first = entrants[0]
    bare = (one for one in entrants if one.model is first.model and one.adapter is None)
    return next(bare, Entrant("its base model", first.model, first.tokenizer, None))


def _check_numbers(prompts: Sequence[str], n_samples: int, max_new_tokens: int, temperature: float) -> None:
    if not prompts:
        raise ComparisonError("there is no prompt: give at least one")
    if n_samples < 1 or max_new_tokens < 1:
        raise ComparisonError(
            f"n_samples and max_new_tokens must be at least 1, got {n_samples} and {max_new_tokens}"
        )
    if not 0 <= temperature < float("inf"):  # also catches NaN
        raise ComparisonError(f"temperature must be 0 or more, got {temperature}")
    if temperature == 0 and n_samples > 1:
        raise ComparisonError("greedy decoding writes the same text every time: use n_samples=1")


def _checked(values: Any, n: int, name: str) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (n,):
        raise ComparisonError(
            f"the judge {name!r} gave scores of shape {found.shape} for {n} texts; expected one number per "
            f"text"
        )
    return np.where(np.isfinite(found), found, np.nan)
