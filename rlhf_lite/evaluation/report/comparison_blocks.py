"""The tables and texts of a comparison, from its metrics alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lite.evaluation.report import comparison_figures as figures
from rlhf_lite.evaluation.report.blocks import (
    Block,
    Bullets,
    Charts,
    Facts,
    Heading,
    Measure,
    Note,
    Paragraph,
    PolicyTable,
    text,
)
from rlhf_lite.evaluation.report.comparison_figures import SCORES
from rlhf_lite.evaluation.report.data import MISSING, dig, integer, interval, interval_text, number, numeric
from rlhf_lite.evaluation.report.results import _hardware

__all__ = ["OPTIMISED", "head", "lead_sentences", "problems", "results", "tables"]

_ACROSS = 4  # policies beside each other in one table
OPTIMISED = "†"

# key, interval key, name, unit, digits, what it says
_QUALITY = (
    ("gold_reward", "gold_ci95", "Gold reward", "rating points", 2,
     "How people would rate the text, as a judge fitted to human ratings of movie reviews predicts. It means "
     "something for continuations of reviews only."),
    ("vader", "vader_ci95", "VADER sentiment", "−1 to 1", 2,
     "A list of rated words with rules for negation and emphasis. A text without such a word scores 0."),
    ("rm_reward", "rm_ci95", "Reward-model score", "its own scale", 2,
     "The score of the reward model that was given. {mark} marks policies that it trained: for them a high "
     "score "
     "is no evidence."),
    ("coherence_nats_per_token", "coherence_ci95", "Coherence", "nats per token", 3,
     "How much likelier the text is after its own prompt than after other prompts, under the reference. 0 "
     "is a "
     "text that fits any prompt."),
    ("coherence_control", "coherence_control_ci95", "Coherence, control", "nats per token", 3,
     "The same with two wrong prompts, which nothing tells apart: its distance from 0 is noise."),
    ("toxicity", "toxicity_ci95", "Toxicity", "probability", 3,
     "Mean probability that a text is offensive, by {toxicity}."),
)  # fmt: skip
_FORM = (
    ("kl_nats_per_seq", "kl_ci95", "KL from the reference", "nats per sequence", 2,
     "How far the policy is from {reference}: the mean log-ratio of its own texts under the two."),
    ("perplexity_reference", "", "Perplexity", "under the reference", 1,
     "How surprising the texts are to {reference}. Far below its own value means blander, far above "
     "stranger."),
    ("length_tokens", "length_ci95", "Length", "tokens", 1, "Mean length, the end token included."),
    ("distinct_1", "", "Distinct-1", "fraction", 2,
     "Distinct words among all words of all texts. It falls when texts repeat themselves or each other, and "
     "as "
     "texts get longer."),
    ("distinct_2", "", "Distinct-2", "fraction", 2, "The same for pairs of words."),
    ("distinct_3", "", "Distinct-3", "fraction", 2, "The same for triples of words."),
    ("self_repetition", "", "Self-repetition", "fraction", 3,
     "Word triples that occurred earlier in the same text."),
    ("empty_fraction", "empty_ci95", "Empty", "fraction", 2, "Texts with no character but white space."),
    ("looping_fraction", "looping_ci95", "Looping", "fraction", 2,
     "Texts in which the same words follow each other three times or more, over six words at least."),
    ("cut_fraction", "cut_ci95", "Cut", "fraction", 2,
     "Texts that the length limit cut. Openings of reviews with a small limit are cut nearly always."),
    ("n_texts", "", "Texts", "number", 0, "Continuations that the column was measured on."),
)  # fmt: skip


def head(metrics: Mapping[str, Any]) -> Facts:
    """Settings, commit, hardware, time."""
    settings = metrics["settings"]
    commit = metrics.get("commit")
    state = " with uncommitted changes" if metrics.get("dirty") is True else ""
    sampled = (
        f"{settings['n_samples']} per prompt, up to {settings['max_new_tokens']} tokens, "
        f"temperature {settings['temperature']:g}"
    )
    sources = "; ".join(
        f"{name}: {entry['source']}" for name, entry in metrics["policies"].items() if entry["source"]
    )
    items = [
        ("Prompts", f"{settings['prompts']} from {settings.get('prompt_source', 'the caller')}"),
        ("Prompt form", "chat template" if settings["chat"] else "continued as they are"),
        ("Samples", sampled),
        ("Seed", str(settings["seed"])),
        ("Models", sources or MISSING),
        ("Baseline of win rates", settings["baseline"]),
        ("Reference of KL", settings["reference"]),
        ("Commit", f"{commit}{state}" if commit else "not recorded"),
        ("Hardware", _hardware(metrics.get("hardware"))),
        ("Time", f"{number(metrics.get('seconds'), 0)} s"),
    ]
    return Facts([(name, text("{value}", value=value)) for name, value in items])


def lead_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Each policy against the baseline, in one sentence, by the deciding judge."""
    settings, said = metrics["settings"], []
    baseline, title = settings["baseline"], SCORES[settings["judge"]][3]
    for name, entry in metrics["versus_baseline"].items():
        found = entry.get(settings["judge"]) or {}
        rate, ends = numeric(found.get("win_rate")), interval(found.get("ci95"))
        if rate is None or ends is None:
            said.append(f"{name} cannot be compared with {baseline}: {found.get('reason', 'no scores')}.")
            continue
        if ends[0] > 0.5:
            verdict = f"better than {baseline} by this judge"
        elif ends[1] < 0.5:
            verdict = f"worse than {baseline} by this judge"
        else:
            verdict = f"the interval includes one half, so no difference from {baseline} is shown"
        said.append(
            f"{name} wins {number(rate)} of the comparisons by {title} (95 % interval {interval_text(ends)}, "
            f"n = {integer(found.get('n'))}): {verdict}."
        )
    return said


def problems(metrics: Mapping[str, Any]) -> list[Block]:
    """What was missing or broken, before any number."""
    said = metrics.get("problems") or []
    if not said:
        return []
    return [Heading("Know this first"), Bullets([text("{words}", words=words) for words in said])]


def _cells(entry: Mapping[str, Any], key: str, ends: str, digits: int) -> tuple[str, str]:
    value = number(entry.get(key), digits)
    if key == "rm_reward" and "reward" in entry.get("optimised_by", ()):
        value += f" {OPTIMISED}"
    return value, interval_text(entry.get(ends), digits)


def tables(metrics: Mapping[str, Any], rows: Sequence[tuple[Any, ...]]) -> list[Block]:
    """Measures as rows, policies as columns; several tables if there are many policies."""
    settings, policies = metrics["settings"], metrics["policies"]
    words = {
        "mark": OPTIMISED,
        "toxicity": settings["toxicity_judge"],
        "reference": settings["reference"],
    }
    blocks: list[Block] = []
    names = list(policies)
    for start in range(0, len(names), _ACROSS):
        group = names[start : start + _ACROSS]
        measures = [
            Measure(
                name,
                unit,
                [_cells(policies[policy], key, ends, digits) for policy in group],
                says.format(**words),
            )
            for key, ends, name, unit, digits, says in rows
            if any(numeric(entry.get(key)) is not None for entry in policies.values())
        ]
        blocks.append(PolicyTable(group, measures))
    absent = [
        row[2] for row in rows if all(numeric(entry.get(row[0])) is None for entry in policies.values())
    ]
    if absent:
        reasons = _reasons(metrics)
        blocks.append(Note(text("Not measured: {names}. {why}", names=", ".join(absent), why=reasons)))
    return blocks


def _reasons(metrics: Mapping[str, Any]) -> str:
    found = {
        f"{measure}: {why}"
        for entry in metrics["policies"].values()
        for measure, why in entry["missing"].items()
    }
    return f"Reasons: {'; '.join(sorted(found))}." if found else ""


def _against(metrics: Mapping[str, Any]) -> list[Block]:
    """Win rates and differences against the baseline, by every judge."""
    versus, baseline = metrics["versus_baseline"], metrics["settings"]["baseline"]
    if not versus:
        return [Note(text("There is one policy, so nothing is compared."))]
    blocks: list[Block] = [Heading(f"Against {baseline}", level=3)]
    names = list(versus)
    for start in range(0, len(names), _ACROSS):
        group, measures = names[start : start + _ACROSS], []
        for judge, (_, _, axis, title) in SCORES.items():
            entries = [versus[name].get(judge) for name in group]
            if not any(entries):
                continue
            measures += _against_rows(entries, title, axis.split("(")[-1].rstrip(")"))
        blocks.append(PolicyTable(group, measures))
    return blocks


def _against_rows(entries: Sequence[Any], title: str, unit: str) -> list[Measure]:
    def cells(key: str, ends: str, digits: int) -> list[tuple[str, str]]:
        return [(number(dig(e, key), digits), interval_text(dig(e, ends), digits)) for e in entries]

    counts = [
        (" / ".join(integer(dig(entry, key)) for key in ("wins", "ties", "losses")), "") for entry in entries
    ]
    rows = [
        Measure(f"{title}: win rate", "fraction", cells("win_rate", "ci95", 2),
                "Share of prompts on which the policy's text scores higher; a tie counts half."),
        Measure(f"{title}: length-controlled", "fraction", cells("length_controlled",
        "length_controlled_ci95", 2),
                "The win rate expected if both texts were of equal length."),
        Measure(f"{title}: wins / ties / losses", "texts", counts, "What the win rate was counted from."),
        Measure(f"{title}: difference", unit, cells("difference", "difference_ci95", 2),
                "Mean difference of the scores, prompt by prompt."),
    ]  # fmt: skip
    return [row for row in rows if any(value.strip("–/ ") for value, _ in row.cells)]


def results(metrics: Mapping[str, Any]) -> list[Block]:
    """Lead sentences, charts and tables."""
    judge = metrics["settings"]["judge"]
    blocks: list[Block] = [Heading("Results")]
    said = lead_sentences(metrics)
    blocks += [Paragraph(text("{words}", words=words), lead=True) for words in said]
    charts = [figures.score_chart(metrics, judge), figures.win_chart(metrics)]
    if found := [one for one in charts if one is not None]:
        blocks.append(Charts(found))
    blocks += _against(metrics)
    blocks += [Heading("Quality", level=3), *tables(metrics, _QUALITY)]
    blocks += [Heading("Distance and form", level=3), *tables(metrics, _FORM)]
    blocks.append(
        Paragraph(
            text(
                "The range under a value is its 95 % interval over prompts: bootstrap for means, Wilson for "
                "shares "
                "of texts. A dash means not measured."
            )
        )
    )
    blocks.append(Heading("Reward against KL"))
    if drawn := figures.frontier_chart(metrics):
        words = "What a policy gains and how far it went for it. Compare policies at equal KL."
        blocks += [Paragraph(text(words)), Charts([drawn])]
    else:
        blocks.append(
            Note(text("Fewer than two policies have both a score and a KL, so there is no picture."))
        )
    return blocks
