"""The sections that say what a run found: head, verdict, the results table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_lite.evaluation.report import figures
from rlhf_lite.evaluation.report.blocks import (
    Block,
    Charts,
    Checks,
    Facts,
    Heading,
    Measure,
    Note,
    Paragraph,
    PolicyTable,
    text,
)
from rlhf_lite.evaluation.report.data import (
    MISSING,
    Run,
    dig,
    integer,
    interval,
    interval_text,
    number,
    numeric,
    ordered_policies,
    policy_label,
    trained_names,
)

__all__ = ["checks", "comparison_sentence", "head", "results", "summary_rows", "verdict"]

# key, interval key, name, unit, digits, what it says
MEASURES = (
    (
        "gold_reward",
        "gold_ci95",
        "Gold reward",
        "rating points",
        2,
        "How people would rate the texts, as predicted by the gold judge, on the raters' own scale. "
        "No training step has used this judge.",
    ),
    (
        "vader",
        "vader_ci95",
        "VADER sentiment",
        "−1 to 1",
        2,
        "A second opinion: a list of rated words with rules for negation and emphasis. No training step has "
        "used it.",
    ),
    (
        "rm_reward",
        "rm_ci95",
        "Reward-model score",
        "its own scale",
        2,
        "What PPO was told to raise. It is no proof of success: a policy can learn to please it and nobody "
        "else.",
    ),
    (
        "kl_nats_per_seq",
        "kl_ci95",
        "KL from PPO's start",
        "nats per sequence",
        2,
        "How far the policy is from the one PPO started from (the SFT policy, or the reference if SFT was "
        "skipped): the mean log-ratio of its own texts under the two. 0 is no change.",
    ),
    (
        "perplexity_reference",
        "",
        "Perplexity",
        "under the reference",
        1,
        "How surprising the texts are to the reference. Far below its own value means blander, far above "
        "stranger.",
    ),
    (
        "distinct_2",
        "",
        "Distinct-2",
        "fraction",
        2,
        "Distinct word pairs among all word pairs. It falls when texts repeat themselves or each other.",
    ),
    (
        "length_tokens",
        "",
        "Length",
        "tokens",
        1,
        "Mean length of a continuation. A policy that wins by writing more, or less, shows it here.",
    ),
    ("ended_fraction", "", "Ended by itself", "fraction", 2, "Texts that stopped before the token limit."),
    (
        "toxicity",
        "",
        "Toxicity",
        "probability",
        3,
        "Mean probability that a text is offensive, from a linear model of words. It sees words, not "
        "meaning.",
    ),
    ("n_prompts", "", "Openings", "number", 0, "Unseen openings that the column was measured on."),
)


def _hardware(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return str(entry) if isinstance(entry, str) else MISSING
    parts = [str(entry[key]) for key in ("cpu", "gpu") if isinstance(entry.get(key), str)]
    cores = numeric(entry.get("physical_cores")) or numeric(entry.get("logical_cores"))
    if cores is not None:
        parts.append(f"{cores:g} core{'s' if cores != 1 else ''}")
    if numeric(entry.get("memory_gb")) is not None:
        parts.append(f"{entry['memory_gb']:g} GB memory")
    if isinstance(entry.get("platform"), str):
        parts.append(entry["platform"])
    return ", ".join(parts) or MISSING


def head(run: Run) -> Facts:
    """Date, commit, seed, hardware and minutes."""
    commit = run.get("commit")
    state = " with uncommitted changes" if run.get("dirty") is True else ""
    total = run.value("seconds", "total")
    steps = run.get("steps")
    counted = (
        ", ".join(f"{policy_label(name)} {integer(n)}" for name, n in steps.items() if numeric(n) is not None)
        if isinstance(steps, Mapping)
        else ""
    )
    seed = run.value("seed")
    return Facts(
        [
            ("Date", text("{date}", date=run.date)),
            (
                "Commit",
                text("`{commit}`{state}", commit=commit, state=state) if commit else text("not recorded"),
            ),
            ("Seed", text("{seed}", seed=MISSING if seed is None else f"{seed:g}")),
            ("Hardware", text("{hardware}", hardware=_hardware(run.get("hardware")))),
            ("Time", text("{minutes} minutes", minutes=MISSING if total is None else number(total / 60, 1))),
            ("Steps", text("{steps}", steps=counted or MISSING)),
        ]
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if numeric(value) is not None:
        return f"{value:.4g}".replace("-", "−")
    if isinstance(value, list | tuple):
        return " to ".join(_shown(item) for item in value)
    return MISSING if value is None else str(value)


def verdict(metrics: Mapping[str, Any]) -> tuple[str, bool | None]:
    """One sentence about the checks, and whether all passed (None: there were none)."""
    found = metrics.get("checks")
    rows = [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []
    states = [row.get("passed") for row in rows]
    if not rows:
        return "This run recorded no checks.", None
    failed = [str(row.get("name", "unnamed")) for row in rows if row.get("passed") is False]
    open_ = sum(state is not True and state is not False for state in states)
    if failed:
        return f"{len(failed)} of {len(rows)} checks not met: {'; '.join(failed)}.", False
    if open_:
        return f"{len(rows) - open_} of {len(rows)} checks passed; {open_} could not be measured.", None
    return (f"All {len(rows)} checks passed." if len(rows) > 1 else "The one check passed."), True


def checks(run: Run) -> Checks:
    """The verdict and its table."""
    sentence, passed = verdict(run.metrics)
    found = run.get("checks")
    rows = []
    for row in found if isinstance(found, list) else []:
        if isinstance(row, Mapping):
            state = row.get("passed") if isinstance(row.get("passed"), bool) else None
            rows.append(
                (str(row.get("name", "unnamed")), _shown(row.get("target")), _shown(row.get("value")), state)
            )
    return Checks(text("{sentence}", sentence=sentence), passed, rows)


def comparison_sentence(metrics: Mapping[str, Any]) -> str:
    """Each trained policy against SFT in a sentence, or an empty string without such a comparison."""
    return " ".join(filter(None, (_comparison(metrics, name) for name in trained_names(metrics))))


def _comparison(metrics: Mapping[str, Any], name: str) -> str:
    entry = dig(metrics, "comparisons", f"{name}_minus_sft")
    gain, ends = numeric(dig(entry, "gold_reward")), interval(dig(entry, "gold_ci95"))
    if gain is None:
        return ""
    n = numeric(dig(entry, "n_prompts"))
    place = f"On {integer(n)} unseen openings" if n is not None else "On unseen openings"
    side = "above" if gain >= 0 else "below"
    sentence = f"{place}, {name.upper()}'s gold reward is {number(abs(gain))} rating points {side} SFT's"
    if ends is None:
        return f"{sentence}; the run gives no interval for it."
    sentence += (
        f" (95 % interval of the difference {number(ends[0], sign=True)} to {number(ends[1], sign=True)})"
    )
    if ends[0] > 0:
        return f"{sentence}: a gain by a judge that training never used."
    if ends[1] < 0:
        return f"{sentence}: a loss by a judge that training never used."
    return f"{sentence}: the interval includes zero, so this run shows no difference."


def results(run: Run) -> list[Block]:
    """Comparison figures and the table of all measures per policy."""
    blocks: list[Block] = [Heading("Results")]
    names = run.policies
    if not names:
        return [
            *blocks,
            Note(text("No policy has been evaluated in this run, so there is no results table.")),
        ]
    sentence = comparison_sentence(run.metrics)
    blocks.append(
        Paragraph(text("{sentence}", sentence=sentence), lead=True)
        if sentence
        else Note(text("No trained policy is compared with SFT: one of the two was not evaluated."))
    )
    if charts := figures.policy_charts(run):
        blocks.append(Charts(charts))
    measures, absent = [], []
    for key, ci_key, name, unit, digits, says in MEASURES:
        entries = [run.get("policies", policy) for policy in names]
        cells = [
            (number(dig(entry, key), digits), interval_text(dig(entry, ci_key), digits)) for entry in entries
        ]
        if all(value == MISSING for value, _ in cells):
            absent.append(name)
        else:
            measures.append(Measure(name, unit, cells, says))
    blocks.append(PolicyTable([policy_label(name) for name in names], measures))
    blocks.append(Paragraph(text("The range under a value is its 95 % interval. A dash means not measured.")))
    if absent:
        blocks.append(Note(text("Not in this run: {names}.", names=", ".join(absent))))
    return blocks


def summary_rows(metrics: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Policy names and the few numbers that fit on a terminal line."""
    keys = (("gold_reward", 2), ("vader", 2), ("kl_nats_per_seq", 1), ("length_tokens", 1), ("distinct_2", 2))
    return [
        (policy_label(name), [number(dig(metrics, "policies", name, key), digits) for key, digits in keys])
        for name in ordered_policies(metrics)
    ]
