"""Which samples a report shows: the first ones, and the extremes, each named for what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_lite.evaluation.report.blocks import Sample, Samples, Score
from rlhf_lite.evaluation.report.data import Run, dig, number, numeric, policy_label

__all__ = ["pick_samples", "trained_policy"]

_SCORES = (
    ("gold", "gold", 2),
    ("VADER", "vader", 2),
    ("reward model", "rm", 2),
    ("KL", "kl_nats", 1),
    ("toxicity", "toxicity", 2),
    ("tokens", "tokens", 0),
)


def trained_policy(names: Sequence[str]) -> str | None:
    """The policy whose extremes are shown: PPO, else DPO, else the last one."""
    for name in ("ppo", "dpo"):
        if name in names:
            return name
    return names[-1] if names else None


def _order(names: Sequence[str]) -> list[str]:
    first = [name for name in ("reference", "sft", "ppo", "dpo") if name in names]
    return first + [name for name in names if name not in first]


def _extreme(
    rows: Sequence[Mapping[str, Any]], policy: str, key: str, pick: Callable[..., Any]
) -> int | None:
    scored = [(numeric(dig(row, "policies", policy, key)), index) for index, row in enumerate(rows)]
    found = [(score, index) for score, index in scored if score is not None]
    return pick(found, key=lambda pair: pair[0])[1] if found else None


def _sample(row: Mapping[str, Any], label: str) -> Sample:
    entries = {
        name: row["policies"][name]
        for name in _order(list(row["policies"]))
        if isinstance(dig(row, "policies", name, "text"), str)
    }
    # The same scores under every text, so that columns line up; one that nobody has is left out.
    columns = [
        column
        for column in _SCORES
        if any(numeric(entry.get(column[1])) is not None for entry in entries.values())
    ]
    answers = []
    for name, entry in entries.items():
        scores = [Score(title, number(entry.get(key), digits)) for title, key, digits in columns]
        answers.append((policy_label(name), entry["text"], scores))
    return Sample(label, row["prompt"], answers)


def pick_samples(run: Run, *, first: int) -> Samples | None:
    """The first ``first`` samples, then best, worst and furthest from the reference; None without samples."""
    rows = run.samples
    if not rows:
        return None
    names = _order(sorted({name for row in rows for name in row["policies"]}))
    policy = trained_policy(names)
    labels: dict[int, list[str]] = {index: [f"Sample {index + 1}"] for index in range(min(first, len(rows)))}
    if policy is not None:
        title = policy_label(policy)
        wanted = (
            ("gold", max, f"best {title} text by gold reward"),
            ("gold", min, f"worst {title} text by gold reward"),
            ("kl_nats", max, f"{title} text furthest from its start"),
        )
        for key, pick, words in wanted:
            index = _extreme(rows, policy, key, pick)
            if index is not None:
                labels.setdefault(index, [f"Sample {index + 1}"]).append(f"{words} of all {len(rows)}")
    return Samples([_sample(rows[index], _label(words)) for index, words in labels.items()])


def _label(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{words[0]}: {'; '.join(words[1:])}"
