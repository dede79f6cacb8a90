"""What a comparison can be trusted with: the judges against people, and the limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_lite.evaluation.report import comparison_figures as figures
from rlhf_lite.evaluation.report.blocks import Block, Bullets, Charts, Heading, Note, Paragraph, text
from rlhf_lite.evaluation.report.comparison_blocks import OPTIMISED
from rlhf_lite.evaluation.report.data import dig, integer, interval_text, number

__all__ = ["calibration", "limits"]


def calibration(metrics: Mapping[str, Any]) -> list[Block]:
    """How far the judges agree with people."""
    blocks: list[Block] = [Heading("How far the judges can be trusted")]
    gold, reward = dig(metrics, "judges", "gold_judge"), dig(metrics, "judges", "reward_model")
    if gold:
        blocks.append(
            Paragraph(
                text(
                    "Gold judge: correlation {r} with the human ratings of {n} texts it was not fitted to "
                    "(95 % "
                    "interval {ends}); it orders {share} of their pairs as people did.",
                    r=number(gold.get("pearson")),
                    n=integer(gold.get("n_texts")),
                    ends=interval_text(gold.get("ci95")),
                    share=number(gold.get("pair_accuracy")),
                )
            )
        )
    if reward:
        blocks.append(
            Paragraph(
                text(
                    "Reward model: it ranks {share} of {n} held-out human pairs as people did (95 % interval "
                    "{ends}); its Brier score is {brier}, and always saying one half would score 0.25.",
                    share=number(reward.get("accuracy"), 3),
                    n=integer(reward.get("n_pairs")),
                    ends=interval_text(reward.get("ci95"), 3),
                    brier=number(reward.get("brier"), 3),
                )
            )
        )
    charts = [figures.rating_chart(metrics), figures.reward_calibration_chart(metrics)]
    if found := [one for one in charts if one is not None]:
        blocks.append(Charts(found))
    if not gold and not reward:
        blocks.append(Note(text("No judge of this comparison was checked against human ratings.")))
    return blocks


def limits(metrics: Mapping[str, Any]) -> list[Block]:
    """What the numbers cannot say."""
    settings = metrics["settings"]
    items = [
        "All judges here are programs. None of them asked a person about these texts.",
        "The gold judge reads movie reviews; on other texts its number is noise with a confident face.",
        "VADER and alt-profanity-check read words: irony, quotation and context escape them.",
        "Coherence rewards copying the prompt, and a good answer to everything scores low.",
        "Distinct-n depends on how many texts there are and how long they are: compare columns, not reports.",
    ]
    if any(entry["optimised_by"] for entry in metrics["policies"].values()):
        items.append(
            "A score that a policy was trained to raise is no evidence for it; such cells carry a {mark}."
        )
    if settings["n_samples"] == 1:
        items.append("There is one sample per prompt and one seed: the spread between seeds is not measured.")
    words = [text(item, mark=OPTIMISED) for item in items]
    return [Heading("What these numbers cannot say"), Bullets(words)]
