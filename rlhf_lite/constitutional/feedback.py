"""Feedback from a model: which of two texts follows the principles better, read off its log-probabilities.

Source: Bai et al. 2022 (arXiv:2212.08073), section 4. The judge sees a question and two answers and is asked
for A or B; the normalised probabilities of the two letters are the label. A model prefers a letter whatever
stands behind it, so every pair is asked in both orders and the log-odds are averaged: what depends on the
place alone cancels.

A small model hardly understands such questions. :func:`judge_by_likelihood` asks none: it compares how likely
the text is after two headings, one for each side of the principle. This is classification through the "noisy
channel" (Min et al. 2022, arXiv:2108.04106).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lite.constitutional.principles import Constitution, Principle
from rlhf_lite.constitutional.writer import Writer
from rlhf_lite.types import Preference

LETTERS = (" A", " B")
ANSWERS = (" Yes", " No")


@dataclass(frozen=True)
class PairFeedback:
    """What a judge says about pairs; log-odds above zero favour the first text of a pair.

    Attributes:
        log_odds: ``[B, P]``, for each principle the mean over both orders, in nats.
        as_given: ``[B, P]``, log-odds for the first text when it is shown as A.
        swapped: ``[B, P]``, log-odds for the first text when it is shown as B.
        principles: ids, in the order of the columns.
        judge: name of the model.
    """

    log_odds: Tensor
    as_given: Tensor
    swapped: Tensor
    principles: tuple[str, ...]
    judge: str

    @property
    def combined(self) -> Tensor:
        """``[B]``, the mean over principles."""
        return self.log_odds.mean(1)

    @property
    def probability(self) -> Tensor:
        """``[B]``, that the first text is the better one."""
        return torch.sigmoid(self.combined)

    @property
    def position_bias(self) -> Tensor:
        """``[P]`` nats by which letter A is favoured, whatever it stands for: half the mean difference."""
        return (self.as_given - self.swapped).mean(0) / 2

    @property
    def consistent(self) -> float:
        """Share of pairs and principles where both orders name the same text."""
        return float(((self.as_given > 0) == (self.swapped > 0)).float().mean())


def pair_prompt(principle: Principle, prompt: str, first: str, second: str, *, examples: bool = False) -> str:
    """The question about two texts, ending where the letter is expected.

    With ``examples`` the principle's own come first, each text before against the one after; the better one
    is B and A in turn.
    """

    def asked(opening: str, a: str, b: str) -> str:
        before = f"Beginning: {opening.strip()}\n" if opening.strip() else ""
        return f"{before}Text A: {a.strip()}\nText B: {b.strip()}\n{principle.question}\nAnswer: Text"

    shown = []
    for number, example in enumerate(principle.examples if examples else ()):
        better_is_b = number % 2 == 0
        pair = (example.before, example.after) if better_is_b else (example.after, example.before)
        shown.append(asked("", *pair) + LETTERS[better_is_b])
    return "\n\n".join([*shown, asked(prompt, first, second)])


def single_prompt(principle: Principle, prompt: str, text: str, *, examples: bool = False) -> str:
    """The question about one text, ending where yes or no is expected.

    With ``examples`` the principle's own come first: each text before deserves a no and the one after a yes.
    """

    def asked(opening: str, about: str) -> str:
        before = f"Beginning: {opening.strip()}\n" if opening.strip() else ""
        return f"{before}Text: {about.strip()}\n{principle.yes_question}\nAnswer:"

    shown = []
    for number, example in enumerate(principle.examples if examples else ()):
        both = [asked("", example.before) + ANSWERS[1], asked("", example.after) + ANSWERS[0]]
        shown += both if number % 2 == 0 else both[::-1]
    return "\n\n".join([*shown, asked(prompt, text)])


def _log_odds(writer: Writer, prompts: Sequence[str], words: tuple[str, str]) -> Tensor:
    """``[B]`` log-probability of the first word minus that of the second one."""
    n = len(prompts)
    both = writer.log_probabilities([*prompts, *prompts], [words[0]] * n + [words[1]] * n)
    return both[:n] - both[n:]


def judge_pairs(writer: Writer, pairs: Sequence[tuple[str, str, str]], constitution: Constitution, *,
                examples: bool = False) -> PairFeedback:
    """Ask about each pair, by every principle, in both orders.

    Args:
        writer: the judge.
        pairs: (prompt, first text, second text).
        constitution: its principles' questions are asked.
        examples: show each principle's examples first, see :func:`pair_prompt`.

    Raises:
        ValueError: if there is no pair.
    """
    if not pairs:
        raise ValueError("there are no pairs to judge")
    given, swapped = [], []
    for principle in constitution.principles:
        asked = [pair_prompt(principle, prompt, a, b, examples=examples) for prompt, a, b in pairs]
        turned = [pair_prompt(principle, prompt, b, a, examples=examples) for prompt, a, b in pairs]
        given.append(_log_odds(writer, asked, LETTERS))
        swapped.append(-_log_odds(writer, turned, LETTERS))
    a, b = torch.stack(given, 1), torch.stack(swapped, 1)
    names = tuple(principle.id for principle in constitution.principles)
    return PairFeedback((a + b) / 2, a, b, names, writer.name)


def judge_texts(writer: Writer, texts: Sequence[tuple[str, str]], constitution: Constitution, *,
                examples: bool = False) -> Tensor:
    """Log-odds of yes against no for each text and principle, ``[B, P]``; higher is better.

    Args:
        writer: the judge.
        texts: (prompt, text).
        constitution: its principles' yes-questions are asked.
        examples: show each principle's examples first, see :func:`single_prompt`.

    Raises:
        ValueError: if there is no text.
    """
    if not texts:
        raise ValueError("there are no texts to judge")
    columns = []
    for principle in constitution.principles:
        asked = [single_prompt(principle, prompt, text, examples=examples) for prompt, text in texts]
        columns.append(_log_odds(writer, asked, ANSWERS))
    return torch.stack(columns, 1)


def judge_by_likelihood(writer: Writer, texts: Sequence[tuple[str, str]],
                        constitution: Constitution) -> Tensor:
    """Log-likelihood ratio of each text under a principle's two headings, ``[B, P]``; higher is better.

        log p(text | heading) - log p(text | opposite), in nats, summed over the tokens

    Args:
        writer: the judge.
        texts: (prompt, text); a prompt stands before the heading.
        constitution: every principle must have ``heading`` and ``opposite``.

    Raises:
        ValueError: if there is no text, a text has no token, or a principle lacks its headings.
    """
    if not texts:
        raise ValueError("there are no texts to judge")
    continuations = [f" {text.strip()}" for _, text in texts]
    columns = []
    for principle in constitution.principles:
        if principle.heading is None or principle.opposite is None:
            raise ValueError(f"principle {principle.id!r} needs heading and "
                             "opposite to be judged by likelihood")
        sides = []
        for words in (principle.heading, principle.opposite):
            heads = [f"{prompt.strip()}\n{words}" if prompt.strip() else words for prompt, _ in texts]
            sides.append(writer.log_probabilities(heads, continuations))
        columns.append(sides[0] - sides[1])
    return torch.stack(columns, 1)


def preferences(pairs: Sequence[tuple[str, str, str]], feedback: PairFeedback, *,
                min_log_odds: float = 0.0) -> list[Preference]:
    """Preference records in the judge's favour; pairs that it hardly tells apart are left out.

    The records carry judge, principles and both orders' log-odds in ``meta``. They are a model's opinion, not
    people's: keep them apart from human records.

    Args:
        pairs: as for :func:`judge_pairs`.
        feedback: what it returned.
        min_log_odds: smallest distance from indifference, in nats.

    Raises:
        ValueError: if there are other than as many pairs as judgements.
    """
    combined = feedback.combined.tolist()
    if len(combined) != len(pairs):
        raise ValueError(f"got {len(pairs)} pairs and {len(combined)} judgements")
    records = []
    for i, ((prompt, first, second), odds) in enumerate(zip(pairs, combined, strict=True)):
        if abs(odds) <= min_log_odds or first == second:
            continue
        chosen, rejected = (first, second) if odds > 0 else (second, first)
        meta = {"judge": feedback.judge, "method": "pairwise", "principles": list(feedback.principles),
                "log_odds_as_given": [round(value, 4) for value in feedback.as_given[i].tolist()],
                "log_odds_swapped": [round(value, 4) for value in feedback.swapped[i].tolist()]}
        records.append(Preference(prompt, chosen, rejected, round(abs(odds), 6), meta))
    return records


def point_preferences(prompts: Sequence[str], candidates: Sequence[Sequence[str]], log_odds: Tensor,
                      constitution: Constitution, *, judge: str, method: str = "pointwise",
                      min_log_odds: float = 0.0) -> list[Preference]:
    """One preference for each prompt, from judgements of single texts: its best against its worst candidate.

    Args:
        prompts: N prompts.
        candidates: for each prompt its texts; the total is B.
        log_odds: ``[B, P]`` from :func:`judge_texts` or :func:`judge_by_likelihood`, prompt by prompt; the
            mean over principles counts.
        constitution: that the judge was asked by.
        judge: name of the model.
        method: how it judged, for the records.
        min_log_odds: smallest distance of the two, in nats; nearer ones give no record.

    Raises:
        ValueError: if the numbers do not fit each other.
    """
    total = sum(map(len, candidates))
    if len(prompts) != len(candidates) or log_odds.shape != (total, len(constitution.principles)):
        raise ValueError(f"got {len(prompts)} prompts, candidates of {len(candidates)} prompts ({total} "
                         f"texts) and judgements of shape {tuple(log_odds.shape)}")
    records, start, names = [], 0, [principle.id for principle in constitution.principles]
    for prompt, texts in zip(prompts, candidates, strict=True):
        rows = log_odds[start : start + len(texts)]
        start += len(texts)
        score = rows.mean(1)
        best, worst = int(score.argmax()), int(score.argmin())
        margin = float(score[best] - score[worst])
        if margin <= min_log_odds or texts[best] == texts[worst]:
            continue
        meta = {"judge": judge, "method": method, "principles": names,
                "log_odds_chosen": [round(value, 4) for value in rows[best].tolist()],
                "log_odds_rejected": [round(value, 4) for value in rows[worst].tolist()],
                "candidates": len(texts)}
        records.append(Preference(prompt, texts[best], texts[worst], round(margin, 6), meta))
    return records
