"""A model card for one policy of a comparison: YAML front matter that the Hub reads, then Markdown.

Source of the fields: the Hub's documentation of model cards and of ``model-index``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from rlhf_lite.evaluation.report.blocks import Charts, Heading, Note, Paragraph, text
from rlhf_lite.evaluation.report.comparison_blocks import head, lead_sentences, problems, results
from rlhf_lite.evaluation.report.comparison_reading import limits
from rlhf_lite.evaluation.report.data import numeric
from rlhf_lite.evaluation.report.markdown import render_markdown

__all__ = ["front_matter", "model_card"]

# The bundled model's folder stands for this Hub id; its licence is known.
_BUNDLED = "HuggingFaceTB/SmolLM2-135M-Instruct"
_METRICS = (
    ("gold_reward", "Gold reward (rating points)"),
    ("vader", "VADER sentiment (-1 to 1)"),
    ("kl_nats_per_seq", "KL from the reference (nats per sequence)"),
    ("toxicity", "Toxicity (probability)"),
    ("coherence_nats_per_token", "Coherence (nats per token)"),
    ("perplexity_reference", "Perplexity under the reference"),
    ("distinct_2", "Distinct-2 (fraction)"),
)


def front_matter(metrics: Mapping[str, Any], name: str, *, base_model: str | None) -> dict[str, Any]:
    """The card's metadata.

    Args:
        metrics: of the comparison.
        name: the policy that the card is about.
        base_model: Hub id of the model it was trained from; None if it has none (a local folder).
    """
    settings, entry = metrics["settings"], metrics["policies"][name]
    found = [
        {"type": key, "value": round(value, 4), "name": title}
        for key, title in _METRICS
        if (value := numeric(entry.get(key))) is not None
    ]
    source = settings.get("prompt_source", "prompts")
    content: dict[str, Any] = {
        "library_name": "peft" if entry.get("is_adapter") else "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0" if base_model == _BUNDLED else "unknown",
        "tags": ["rlhf", "rlhf-lite"],
    }
    if base_model is not None:
        content["base_model"] = base_model
    if found:
        task = {"type": "text-generation", "name": "Text generation"}
        dataset = {"type": source, "name": f"{settings['prompts']} prompts from {source}"}
        content["model-index"] = [
            {"name": name, "results": [{"task": task, "dataset": dataset, "metrics": found}]}
        ]
    return content


def model_card(metrics: Mapping[str, Any], name: str, *, base_model: str | None = None) -> str:
    """The whole card as Markdown.

    Raises:
        KeyError: if the comparison has no such policy.
    """
    matter = yaml.safe_dump(
        front_matter(metrics, name, base_model=base_model), sort_keys=False, allow_unicode=True
    )
    said = [words for words in lead_sentences(metrics) if words.startswith(f"{name} ")]
    start = (
        f"trained from {base_model}" if base_model else "whose base model is a local folder, not named here"
    )
    unknown = "Its licence is not known to the program that wrote this card: fill in `license` above."
    blocks = [
        Paragraph(
            text(
                "A language model {start}, measured by `rlhf-lite eval`. This card is a draft: say what the "
                "model "
                "is for, and check the metadata above.",
                start=start,
            )
        ),
        *([Note(text(unknown))] if base_model != _BUNDLED else []),
        Heading("How it was measured"),
        head(metrics),
        *[Paragraph(text("{words}", words=words), lead=True) for words in said],
        *problems(metrics),
        *[block for block in results(metrics) if not isinstance(block, Charts)],
        *limits(metrics),
        Heading("Intended use"),
        Paragraph(
            text(
                "Study of preference learning. It has not been checked for use by the public, for advice, "
                "or in any "
                "language but English."
            )
        ),
    ]
    footer = "Every number above was measured by the comparison that wrote this card."
    return f"---\n{matter}---\n\n{render_markdown(name, 'Model card', blocks, footer=footer)}"
