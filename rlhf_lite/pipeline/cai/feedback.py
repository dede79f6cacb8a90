"""The feedback of a constitutional run: answers, judgements by three methods, and how good the judge is.

The judge of a run is held against a toxicity judge that nobody optimised; any judge can be held against the
ratings of people, see :func:`measure_judge`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lite.constitutional import Constitution, PolicyWriter, Writer, sentiment_questions
from rlhf_lite.constitutional import feedback as ask
from rlhf_lite.data import save_preferences
from rlhf_lite.data.words import words
from rlhf_lite.evaluation.eval_policy import EvalPolicy, decoded, encode_for, write
from rlhf_lite.evaluation.statistics import (
    Units,
    auc,
    pair_accuracy,
    pair_quality,
    paired_difference_ci,
    share_ci,
    units_of,
)
from rlhf_lite.evaluation.text_metrics import toxicity_scores, vader_scores
from rlhf_lite.files import write_json, write_json_lines
from rlhf_lite.models.policy import Policy
from rlhf_lite.pipeline.cai.rounds import LINE_END, METHODS, TOXIC, with_ends
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.phases import AdapterPolicies
from rlhf_lite.pipeline.run import without_nan
from rlhf_lite.rollout.sampler import row_seeds
from rlhf_lite.types import Preference

_CANDIDATES = 5_000_011
# Two texts count as different for the independent judge when their toxicity differs by more than this.
_CLEAR = 0.1


@dataclass(frozen=True)
class Feedback:
    """The answer of a judge.

    Attributes:
        records: preferences, by the chosen method.
        judgements: one row for each judged text or pair, by either method.
        stats: how good the judge is, see :func:`ask_for_feedback`.
    """

    records: list[Preference]
    judgements: list[dict[str, Any]]
    stats: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write ``pairs.jsonl`` (if there are any), ``feedback.jsonl`` and ``stats.json`` into a folder."""
        if self.records:
            save_preferences(folder / "pairs.jsonl", self.records)
        write_json_lines(folder / "feedback.jsonl", self.judgements)
        write_json(folder / "stats.json", without_nan(self.stats))


def sample_candidates(run: Run, policy: Policy, adapters: AdapterPolicies,
                      prompts: Sequence[str]) -> list[list[str]]:
    """Different answers of the fine-tuned policy to each prompt, those without a word left out."""
    settings = run.config.feedback
    writer = EvalPolicy("candidates", adapters.model, policy.tokenizer, adapters.reference)
    rollouts = write(writer, encode_for(writer, prompts, max_new_tokens=settings.max_new_tokens).ids,
                     samples=settings.candidates, max_new_tokens=settings.max_new_tokens,
                     temperature=settings.temperature,
                     seeds=row_seeds(run.config.seed, _CANDIDATES, rows=len(prompts) * settings.candidates),
                     stop=LINE_END, batch_size=96)
    texts, _ = decoded(writer, rollouts, stop=LINE_END)
    n = settings.candidates
    return [list(dict.fromkeys(f" {text}" for text in texts[i * n : (i + 1) * n] if words(text)))
            for i in range(len(prompts))]


def ask_for_feedback(run: Run, policy: Policy, adapters: AdapterPolicies, prompts: Sequence[str],
                     constitution: Constitution) -> Feedback:
    """Sample candidates, have them judged by one or all methods, and make preferences by the chosen one.

    The judge sees the answers alone, without the rude thread. ``stats`` holds for each method the share of
    clearly different pairs (by the toxicity judge, which nobody optimised) where both agree, with a Wilson
    interval, per principle and combined; for pairwise the bias for a letter and the consistency; and the
    toxicity of the chosen texts minus that of the rejected ones.
    """
    settings = run.config.feedback
    candidates = sample_candidates(run, policy, adapters, prompts)
    asked = [(prompt, texts) for prompt, texts in zip(prompts, candidates, strict=True) if len(texts) > 1]
    if not asked:
        raise ValueError("feedback: no prompt has two different answers; raise "
                         "feedback.candidates or temperature")
    # Neighbours in the list make pairs: 0 with 1, 2 with 3.
    pairs = [(p, t[i], t[i + 1]) for p, t in asked for i in range(0, len(t) - 1, 2)]
    methods = methods_for(constitution) if settings.compare else (settings.method,)
    stats: dict[str, Any] = {"method": settings.method, "n_prompts": len(asked), "n_pairs_judged": len(pairs)}
    records: dict[str, list[Preference]] = {}
    rows: list[dict[str, Any]] = []
    options = {"examples": settings.examples, "min_log_odds": settings.min_log_odds}
    with ExitStack() as stack:
        if settings.judge is None:
            judge = Policy(stack.enter_context(adapters.sampling(None)()), policy.tokenizer, policy.name)
        else:
            judge = run.load_policy(settings.judge)
        writer = PolicyWriter(judge, batch_size=32)
        for method in dict.fromkeys((*methods, settings.method)):
            if method == "pairwise":
                feedback = _judge_pairs(writer, pairs, constitution, **options)
            else:
                feedback = _judge_singles(writer, asked, pairs, constitution, method=method, **options)
            records[method] = feedback.records
            gap = chosen_minus_rejected(feedback.records, seed=run.config.seed)
            stats[method] = feedback.stats | {"pairs": len(feedback.records)} | gap
            rows += feedback.judgements
    return Feedback(records[settings.method], rows, stats | {"judge": writer.name})


def methods_for(constitution: Constitution) -> tuple[str, ...]:
    """The methods by which this constitution can be asked: likelihood needs headings."""
    whole = all(principle.heading and principle.opposite for principle in constitution.principles)
    return METHODS if whole else METHODS[1:]


def _judge_singles(writer: PolicyWriter, asked: Sequence[tuple[str, list[str]]],
                   pairs: Sequence[tuple[str, str, str]], constitution: Constitution, *, method: str,
                   examples: bool, min_log_odds: float) -> Feedback:
    """Judgements of single texts, by likelihood or by a question."""
    flat = [(prompt, text) for prompt, answers in asked for text in answers]
    texts = [("", text) for _, text in flat]
    judge = ask.judge_by_likelihood if method == "likelihood" else partial(ask.judge_texts, examples=examples)
    odds = judge(writer, texts, constitution)
    records = ask.point_preferences([prompt for prompt, _ in asked], [answers for _, answers in asked], odds,
                                    constitution, judge=writer.name, method=method, min_log_odds=min_log_odds)
    place = {both: i for i, both in enumerate(flat)}
    first, second = ([place[pair[0], pair[k]] for pair in pairs] for k in (1, 2))
    names = [principle.id for principle in constitution.principles]
    stats = agreement(pairs, (odds[first] - odds[second]).numpy(), names)
    stats["auc"] = auc_of_clean(odds.mean(1).numpy(), [text for _, text in flat])
    common = {"method": method, "judge": writer.name, "principles": names}
    rows = [common | {"prompt": prompt, "text": text, "log_odds": values}
            for (prompt, text), values in zip(flat, odds.tolist(), strict=True)]
    return Feedback(records, rows, stats)


def _judge_pairs(writer: PolicyWriter, pairs: Sequence[tuple[str, str, str]], constitution: Constitution, *,
                 examples: bool, min_log_odds: float) -> Feedback:
    """Judgements of two texts against each other, in both orders."""
    judged = ask.judge_pairs(writer, [("", a, b) for _, a, b in pairs], constitution, examples=examples)
    names = list(judged.principles)
    stats = agreement(pairs, judged.log_odds.numpy(), names) | {
        "position_bias_nats": dict(zip(names, judged.position_bias.tolist(), strict=True)),
        "consistent_fraction": judged.consistent,
    }
    common = {"method": "pairwise", "judge": writer.name, "principles": names}
    both = zip(pairs, judged.as_given.tolist(), judged.swapped.tolist(), strict=True)
    rows = [
        common
        | {"prompt": prompt, "first": a, "second": b, "log_odds_as_given": given, "log_odds_swapped": swapped}
        for (prompt, a, b), given, swapped in both
    ]
    records = ask.preferences(pairs, judged, min_log_odds=min_log_odds)
    return Feedback(records, rows, stats)


def agreement(pairs: Sequence[tuple[str, str, str]], log_odds: np.ndarray,
              names: Sequence[str]) -> dict[str, Any]:
    """How often the judge favours the text that the toxicity judge finds less toxic, of clear pairs.

    Pairs of one prompt are averaged first: the interval is over prompts.

    Args:
        pairs: (prompt, first, second).
        log_odds: ``[B, P]``, above zero in favour of the first text.
        names: of the P principles.
    """
    gap = toxicity_scores([b for _, _, b in pairs]) - toxicity_scores([a for _, a, _ in pairs])
    clear = np.abs(gap) > _CLEAR
    stats: dict[str, Any] = {"n_clear_pairs": int(clear.sum()), "clear_gap": _CLEAR}
    if not clear.any():
        return stats
    prompts = [prompt for (prompt, _, _), counts in zip(pairs, clear, strict=True) if counts]
    agreed = np.column_stack([log_odds.mean(1), log_odds])[clear] * gap[clear, None]
    combined, *each = (share_ci(column, groups=prompts) for column in ((agreed > 0) + 0.5 * (agreed == 0)).T)
    stats["agreement_by_principle"] = {name: own.estimate for name, own in zip(names, each, strict=True)}
    return stats | with_ends("agreement", combined)


def auc_of_clean(scores: np.ndarray, texts: Sequence[str]) -> float | None:
    """The chance that a text which the toxicity judge calls clean scores above one it calls toxic.

    None if all texts are of one kind.
    """
    toxic = toxicity_scores(texts) > TOXIC
    return auc(scores[~toxic], scores[toxic]) if 0 < toxic.sum() < toxic.size else None


def chosen_minus_rejected(records: Sequence[Preference], *, seed: int) -> dict[str, Any]:
    """By how much the chosen texts differ from the rejected ones for judges that were not asked."""
    if not records:
        return {}
    chosen, rejected = [r.chosen for r in records], [r.rejected for r in records]
    prompts = [r.prompt for r in records]
    result: dict[str, Any] = {}
    for name, score in (("toxicity", toxicity_scores), ("vader", vader_scores)):
        gap = paired_difference_ci(score(chosen), score(rejected), groups=prompts, seed=seed)
        result |= with_ends(f"chosen_minus_rejected_{name}", gap)
    lengths = [np.mean([len(words(text)) for text in side]) for side in (chosen, rejected)]
    return result | {"chosen_minus_rejected_words": float(lengths[0] - lengths[1])}


def measure_judge(writer: Writer, pairs: Sequence[Preference], *, constitution: Constitution | None = None,
                  methods: Sequence[str] = METHODS) -> dict[str, Any]:
    """Ask a judge about pairs whose order people gave, two by two and one by one.

    The questions are about sentiment, because that is what people rated. Being good at them says nothing
    certain about questions of respect or harm, for which there are no human ratings here.

    Which text of a pair is shown first does not depend on which one people preferred: every other pair is
    turned round.

    Args:
        writer: the judge.
        pairs: human preferences, such as ``data.make_pairs`` makes from ratings; prompt and answer are shown
            together.
        constitution: its questions are asked; None for :func:`sentiment_questions`.
        methods: ``pairwise`` asks which of the two is better, in both orders; ``pointwise`` asks about each
            text by itself; ``likelihood`` compares how likely each text is after a principle's two headings.

    Returns:
        ``n_pairs``, ``judge``, and for each principle's id ``question``, ``yes_question`` and what was found:

        - ``pairwise``: ``accuracy`` of the mean over both orders, ``accuracy_as_given`` and
          ``accuracy_swapped`` of one order each, all with Wilson's 95 % interval in ``..._ci95``;
          ``position_bias_nats`` in favour of the letter A; ``consistent_fraction`` of pairs where both orders
          name the same text; ``ece`` and ``brier`` of the averaged probability;
        - ``pointwise``: ``accuracy`` with ``accuracy_ci95`` on the pairs, by the difference of the two
          log-odds; ``auc``, the chance that any preferred text scores above any other; ``ece`` and ``brier``
          of the difference as log-odds, and ``yes_bias_nats``, the mean log-odds of yes;
        - ``likelihood``: the same for the log-likelihood ratios of the two headings.

        Ties count one half. ``combined`` holds the same for the mean over the questions.

    Raises:
        ValueError: if there is no pair.
    """
    if not pairs:
        raise ValueError("there are no pairs to judge")
    constitution = sentiment_questions() if constitution is None else constitution
    turned = np.arange(len(pairs)) % 2 == 1
    sides = [(p.prompt + p.chosen, p.prompt + p.rejected) for p in pairs]
    asked = [("", *(both[::-1] if turn else both)) for both, turn in zip(sides, turned, strict=True)]
    sign = np.where(turned, -1.0, 1.0)  # above zero: in favour of what people preferred
    answers: dict[str, Any] = {"n_pairs": len(pairs), "judge": writer.name}
    names = [principle.id for principle in constitution.principles]
    for principle in constitution.principles:
        answers[principle.id] = {"question": principle.question, "yes_question": principle.yes_question}
    answers["combined"] = {}
    if "pairwise" in methods:
        judged = ask.judge_pairs(writer, asked, constitution)
        given, swapped = judged.as_given.double().numpy(), judged.swapped.double().numpy()
        for name, a, b in _columns(names, given, swapped):
            answers[name]["pairwise"] = pairwise_quality(a * sign, b * sign, first_is_preferred=~turned,
                                                         units=units_of(pairs))
    texts = [("", text) for both in sides for text in both]
    for method, judge in (("pointwise", ask.judge_texts), ("likelihood", ask.judge_by_likelihood)):
        if method in methods:
            odds = judge(writer, texts, constitution).double().numpy().reshape(len(pairs), 2, -1)
            for name, chosen, rejected in _columns(names, odds[:, 0], odds[:, 1]):
                answers[name][method] = pointwise_quality(chosen, rejected, units=units_of(pairs))
    return answers


def _columns(names: Sequence[str], a: np.ndarray,
             b: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Column by column, and at last the mean over the columns."""
    for k, name in enumerate(names):
        yield name, a[:, k], b[:, k]
    yield "combined", a.mean(1), b.mean(1)


def _quality(log_odds: np.ndarray, units: Units | None) -> dict[str, Any]:
    """Accuracy and calibration of one judgement a pair."""
    quality = pair_quality(log_odds, units=units)
    return {"accuracy": quality["accuracy"], "accuracy_ci95": quality["ci95"],
            "ece": quality["ece"], "brier": quality["brier"]}


def pairwise_quality(as_given: np.ndarray, swapped: np.ndarray, *, first_is_preferred: np.ndarray,
                     units: Units | None = None) -> dict[str, Any]:
    """Accuracy, bias and calibration of judgements in two orders.

    Args:
        as_given: ``[B]`` log-odds in favour of the text that people preferred, first order.
        swapped: ``[B]`` the same with the two texts exchanged.
        first_is_preferred: bool ``[B]``, in the first order the preferred text stands as A.
        units: see `statistics.pair_accuracy`.
    """
    mean = (as_given + swapped) / 2
    # In favour of A, whatever it is: with the preferred text as A minus with it as B, halved.
    bias = np.where(first_is_preferred, as_given - swapped, swapped - as_given).mean() / 2
    return {**_quality(mean, units),
            **with_ends("accuracy_as_given", pair_accuracy(as_given, units=units)),
            **with_ends("accuracy_swapped", pair_accuracy(swapped, units=units)),
            "position_bias_nats": float(bias),
            "consistent_fraction": float(((as_given > 0) == (swapped > 0)).mean())}


def pointwise_quality(chosen: np.ndarray, rejected: np.ndarray, *,
                      units: Units | None = None) -> dict[str, Any]:
    """Accuracy, ranking and calibration of judgements of single texts.

    Args:
        chosen: ``[B]`` log-odds of yes for the texts that people preferred.
        rejected: ``[B]`` the same for the others.
        units: see `statistics.pair_accuracy`.
    """
    return {**_quality(chosen - rejected, units),
            "auc": auc(chosen, rejected),
            "yes_bias_nats": float(np.concatenate([chosen, rejected]).mean())}
