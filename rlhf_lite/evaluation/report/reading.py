"""The sections that help to read a run: reward model, gold judge, what the numbers mean and do not show."""

from __future__ import annotations

import math

from rlhf_lite.evaluation.report import figures
from rlhf_lite.evaluation.report.blocks import Block, Bullets, Charts, Heading, Note, Paragraph, Text, text
from rlhf_lite.evaluation.report.data import Run, integer, interval, interval_text, number, trained_names
from rlhf_lite.evaluation.report.results import comparison_sentence

__all__ = ["gold_section", "meaning", "reward_section"]


def reward_section(run: Run) -> list[Block]:
    """Accuracy with interval, accuracy against the gap, Brier score."""
    blocks: list[Block] = [Heading("Reward model")]
    accuracy = run.value("reward_model", "accuracy")
    if accuracy is None:
        return [*blocks, Note(text("This run has no reward-model evaluation."))]
    ends, n = interval_text(run.get("reward_model", "ci95"), 3), run.value("reward_model", "n_pairs")
    gap, brier = run.value("reward_model", "min_gap"), run.value("reward_model", "brier")
    sentence = (
        f"The reward model puts the review that people rated higher first in {number(100 * accuracy, 1)} %"
    )
    sentence += f" of {integer(n)} held-out pairs" if n is not None else " of held-out pairs"
    sentence += f" (95 % interval of the fraction {ends})." if ends else "; the run gives no interval."
    if gap is not None:
        sentence += f" The mean ratings of a pair differ by at least {gap:g} on the raters' scale."
    blocks.append(Paragraph(text("{sentence}", sentence=sentence)))
    if brier is not None:
        words = (
            "Its Brier score is {brier}: the mean squared distance between the probability it gives to the "
            "higher-rated "
            "review and 1. Always answering one half scores 0.250, and lower is better."
        )
        blocks.append(Paragraph(text(words, brier=number(brier, 3))))
    charts = [chart for chart in (figures.gap_chart(run), figures.calibration_chart(run)) if chart]
    if charts:
        blocks.append(Charts(charts))
        blocks.append(
            Paragraph(
                text(
                    "Pairs with a small gap are those that people disagree about: no model can rank them all."
                )
            )
        )
    else:
        blocks.append(Note(text("Accuracy by rating gap was not recorded.")))
    return blocks


def gold_section(run: Run) -> list[Block]:
    """How well the gold judge agrees with people, and why it is independent."""
    blocks: list[Block] = [Heading("Gold judge")]
    blocks.append(
        Paragraph(
            text(
                "The gold judge scores every policy above. It is independent in two ways: it was fitted to "
                "human ratings "
                "from the **gold** part of the data, which neither the reward model nor the policy has "
                "seen, and it is "
                "another kind of model than the reward model. It is still a model, so its own agreement "
                "with people "
                "comes first."
            )
        )
    )
    pearson = run.value("gold_judge", "pearson")
    if pearson is None:
        return [*blocks, Note(text("This run did not record how well the gold judge agrees with people."))]
    n, ends = run.value("gold_judge", "n_texts"), interval_text(run.get("gold_judge", "ci95"))
    sentence = f"Its predictions correlate with the mean human rating at r = {number(pearson)}"
    sentence += f" (95 % interval {ends})" if ends else ""
    spearman, pairs = run.value("gold_judge", "spearman"), run.value("gold_judge", "pair_accuracy")
    sentence += f", and at {number(spearman)} in rank order" if spearman is not None else ""
    sentence += f", on {integer(n)} texts it was not fitted to." if n is not None else "."
    if pairs is not None:
        sentence += f" It orders {number(100 * pairs, 1)} % of held-out pairs as people did."
    blocks.append(Paragraph(text("{sentence}", sentence=sentence)))
    return blocks


def _rounded(value: float) -> str:
    """Two digits that mean something: 545 becomes 550; large numbers as a power of ten."""
    if value >= 1e6:
        return f"10 to the power {math.log10(value):.0f}"
    return f"{float(f'{value:.2g}'):,g}"


def _about_policy(run: Run, name: str, title: str) -> list[Text]:
    """A second opinion, the price, and whether it is still English, for one trained policy."""
    items: list[Text] = []
    ends = interval(run.get("comparisons", f"{name}_minus_sft", "vader_ci95"))
    vader = run.value("comparisons", f"{name}_minus_sft", "vader")
    if vader is not None and ends is not None:
        agrees = (
            f"agrees that {title} is higher"
            if ends[0] > 0
            else f"puts {title} lower"
            if ends[1] < 0
            else "sees no difference"
        )
        items.append(
            text(
                "**A second opinion.** VADER, which no training step has used, {agrees}: {vader} "
                "(95 % interval {low} to {high}).",
                agrees=agrees,
                vader=number(vader, sign=True),
                low=number(ends[0], sign=True),
                high=number(ends[1], sign=True),
            )
        )
    kl = run.value("policies", name, "kl_nats_per_seq")
    if kl is not None:
        words = (
            "**What did it cost?** {title} moved {kl} nats per sequence from the policy it started from: a "
            "typical text of {title} is about {ratio} times as likely under {title} as under that policy. A "
            "higher reward at a lower KL is the better bargain."
        )
        items.append(text(words, kl=number(kl, 1), ratio=_rounded(math.exp(min(kl, 700.0))), title=title))
    own, theirs = (run.value("policies", who, "perplexity_reference") for who in ("reference", name))
    distinct = [run.value("policies", who, "distinct_2") for who in ("sft", name)]
    if own is not None and theirs is not None and None not in distinct:
        words = (
            "**Is it still English?** Under the reference model {title}'s texts have perplexity {theirs}, "
            "the reference's own texts {own}; distinct-2 is {after} after {title} and {before} before. Read "
            "the samples to judge for yourself."
        )
        items.append(
            text(
                words,
                theirs=number(theirs, 1),
                own=number(own, 1),
                title=title,
                after=number(distinct[1]),
                before=number(distinct[0]),
            )
        )
    return items


def _meaning_items(run: Run) -> list[Text]:
    items: list[Text] = []
    names = trained_names(run.metrics)
    title = " and ".join(name.upper() for name in names)
    sentence = comparison_sentence(run.metrics)
    if sentence:
        items.append(text("**Did {title} help?** {sentence}", title=title, sentence=sentence))
    for name in names:
        items += _about_policy(run, name, name.upper())
    items.append(
        text(
            "**What is an interval?** If the run were repeated on other openings, about 95 of 100 such "
            "intervals would "
            "contain the true mean. It covers the choice of openings, not the choice of seed."
        )
    )
    return items


_SEEKS = {
    "ppo": "PPO looks for whatever the reward model likes, its mistakes included.",
    "dpo": "DPO learns what its pairs prefer, their mistakes included.",
}


def _limit_items(run: Run) -> list[Text]:
    r = run.value("gold_judge", "pearson")
    agreement = f" (it correlates with people at r = {number(r)})" if r is not None else ""
    name = trained_names(run.metrics)[0]
    gap = run.value("policies", name, "rm_reward"), run.value("policies", "sft", "rm_reward")
    rise = ""
    if None not in gap:
        rise = f" Here its score went from {number(gap[1])} to {number(gap[0])}."
    seed = run.value("seed")
    named = f" (seed {seed:g})" if seed is not None else ""
    return [
        text(
            "**Not people.** The gold judge is itself a model{agreement}. No person has read these samples "
            "and rated "
            "them.",
            agreement=agreement,
        ),
        text(
            "**Not the reward model's word.** {method} Only the other judges can say how much is real.",
            method=_SEEKS[name] + rise,
        ),
        text(
            "**Not the truth.** The texts are fluent at best. Nothing here measures whether they are true, "
            "useful or "
            "about the film."
        ),
        text(
            "**Not every task.** One small model, one kind of text, short continuations. A larger model, or "
            "another task, "
            "can behave differently."
        ),
        text(
            "**Not a distribution.** This is a single run{seed} on one machine. Other seeds give other "
            "numbers, and other "
            "processors differ in the last digits.",
            seed=named,
        ),
    ]


def meaning(run: Run) -> list[Block]:
    """What the numbers mean, and what they do not show."""
    return [
        Heading("What these numbers mean"),
        Bullets(_meaning_items(run)),
        Heading("What they do not show"),
        Bullets(_limit_items(run)),
    ]
