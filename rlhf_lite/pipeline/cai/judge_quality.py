"""How well a model judges: its answers held against the ratings of people.

The questions are about sentiment, because that is what people rated. Being good at them says nothing certain
about questions of respect or harm, for which there are no human ratings here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_lite.constitutional import (
    Constitution,
    Writer,
    judge_by_likelihood,
    judge_pairs,
    judge_texts,
    sentiment_questions,
)
from rlhf_lite.evaluation.statistics import auc, pair_accuracy, pair_quality
from rlhf_lite.pipeline.cai.rounds import METHODS, with_ends
from rlhf_lite.types import Preference


def measure_judge(writer: Writer, pairs: Sequence[Preference], *, constitution: Constitution | None = None,
                  methods: Sequence[str] = METHODS) -> dict[str, Any]:
    """Ask a judge about pairs whose order people gave, two by two and one by one.

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
        judged = judge_pairs(writer, asked, constitution)
        given, swapped = judged.as_given.double().numpy(), judged.swapped.double().numpy()
        for name, a, b in _columns(names, given, swapped):
            answers[name]["pairwise"] = pairwise_quality(a * sign, b * sign, first_is_preferred=~turned)
    texts = [("", text) for both in sides for text in both]
    for method, judge in (("pointwise", judge_texts), ("likelihood", judge_by_likelihood)):
        if method in methods:
            odds = judge(writer, texts, constitution).double().numpy().reshape(len(pairs), 2, -1)
            for name, chosen, rejected in _columns(names, odds[:, 0], odds[:, 1]):
                answers[name][method] = pointwise_quality(chosen, rejected)
    return answers


def _columns(names: Sequence[str], a: np.ndarray, b: np.ndarray):
    """Column by column, and at last the mean over the columns."""
    for k, name in enumerate(names):
        yield name, a[:, k], b[:, k]
    yield "combined", a.mean(1), b.mean(1)


def _quality(log_odds: np.ndarray) -> dict[str, Any]:
    """Accuracy and calibration of one judgement a pair."""
    quality = pair_quality(log_odds)
    return with_ends("accuracy", pair_accuracy(log_odds)) | {name: quality[name] for name in ("ece", "brier")}


def pairwise_quality(as_given: np.ndarray, swapped: np.ndarray, *,
                     first_is_preferred: np.ndarray) -> dict[str, Any]:
    """Accuracy, bias and calibration of judgements in two orders.

    Args:
        as_given: ``[B]`` log-odds in favour of the text that people preferred, first order.
        swapped: ``[B]`` the same with the two texts exchanged.
        first_is_preferred: bool ``[B]``, in the first order the preferred text stands as A.
    """
    mean = (as_given + swapped) / 2
    # In favour of A, whatever it is: with the preferred text as A minus with it as B, halved.
    bias = np.where(first_is_preferred, as_given - swapped, swapped - as_given).mean() / 2
    return {
        **_quality(mean),
        **with_ends("accuracy_as_given", pair_accuracy(as_given)),
        **with_ends("accuracy_swapped", pair_accuracy(swapped)),
        "position_bias_nats": float(bias),
        "consistent_fraction": float(((as_given > 0) == (swapped > 0)).mean()),
    }


def pointwise_quality(chosen: np.ndarray, rejected: np.ndarray) -> dict[str, Any]:
    """Accuracy, ranking and calibration of judgements of single texts.

    Args:
        chosen: ``[B]`` log-odds of yes for the texts that people preferred.
        rejected: ``[B]`` the same for the others.
    """
    return {
        **_quality(chosen - rejected),
        "auc": auc(chosen, rejected),
        "yes_bias_nats": float(np.concatenate([chosen, rejected]).mean()),
    }
