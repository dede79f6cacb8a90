"""The figures of a comparison, each with a sentence for readers who cannot see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_lite import plotting
from rlhf_lite.evaluation.report.charts import Chart, chart
from rlhf_lite.evaluation.report.numbers import get_path, interval, numeric
from rlhf_lite.evaluation.report.render import say
from rlhf_lite.plotting.frontier import Points, frontier

__all__ = ["SCORES", "JudgeScore", "draw", "pareto"]

_LONGEST = 22


class JudgeScore(NamedTuple):
    """Where a judge's mean score and its interval stand in ``report.json``, and how they are called."""

    key: str
    ends: str
    title: str
    axis: str
    unit: str


SCORES = {
    "gold": JudgeScore(
        "gold_reward", "gold_ci95", "Gold reward", "gold reward (rating points)", "rating points"
    ),
    "vader": JudgeScore("vader", "vader_ci95", "VADER sentiment", "VADER sentiment (−1 to 1)", "−1 to 1"),
    "reward": JudgeScore(
        "rm_reward", "rm_ci95", "Reward-model score", "reward-model score (its own scale)", "its own scale"
    ),
}


def _short(name: str) -> str:
    """A policy's name, cut so that it fits beside a chart."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def draw(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """All figures; None or an empty list where the numbers are missing."""
    judge = SCORES[metrics["settings"]["judge"]]
    return {
        "results": [made for made in (_scores(metrics), _wins(metrics)) if made],
        "frontier": _frontier(metrics, judge),
        "judges": [made for made in (_ratings(metrics), _reliability(metrics)) if made],
    }


def _dots(rows: Sequence[tuple[str, float, Any]], axis: str) -> Any:
    """One dot with interval per policy."""
    low, high = zip(*(ends for _, _, ends in rows), strict=True)
    names, values = [_short(name) for name, _, _ in rows], [value for _, value, _ in rows]
    return plotting.policy_comparison(names, values, low=low, high=high, xlabel=axis)


def _scores(metrics: Mapping[str, Any]) -> Chart | None:
    """Mean score of every policy by the deciding judge."""
    name = metrics["settings"]["judge"]
    judge = SCORES[name]
    rows = [
        (policy, value, interval(entry.get(judge.ends)) or (value, value))
        for policy, entry in metrics["policies"].items()
        if (value := numeric(entry.get(judge.key))) is not None
    ]
    if not rows:
        return None
    return chart(_dots(rows, judge.axis), f"score_{name}", say("alt_scores", judge.title, rows))


def _wins(metrics: Mapping[str, Any]) -> Chart | None:
    """Win rate of every policy against the baseline by the deciding judge."""
    judge, baseline = metrics["settings"]["judge"], metrics["settings"]["baseline"]
    rows = [
        (name, value, interval(get_path(entry, judge, "ci95")) or (value, value))
        for name, entry in metrics["versus_baseline"].items()
        if (value := numeric(get_path(entry, judge, "win_rate"))) is not None
    ]
    if not rows:
        return None
    rows = [(baseline, 0.5, (0.5, 0.5)), *rows]
    return chart(
        _dots(rows, "win rate (fraction; a tie counts half)"), "win_rate", say("alt_wins", baseline, rows)
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (kl, reward) that no other point beats at less KL, by rising KL."""
    best: list[tuple[float, float]] = []
    for kl, reward in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or reward > best[-1][1]:
            best.append((kl, reward))
    return best


def _frontier(metrics: Mapping[str, Any], judge: JudgeScore) -> Chart | None:
    """Score by the deciding judge against KL, for two policies or more that have both."""
    rows, points = [], {}
    for name, entry in metrics["policies"].items():
        kl, score = numeric(entry.get("kl_nats_per_seq")), numeric(entry.get(judge.key))
        span, kl_span = interval(entry.get(judge.ends)), interval(entry.get("kl_ci95"))
        if kl is not None and score is not None and span and kl_span:
            rows.append((name, kl, score))
            points[_short(name)] = Points([kl], [score], low=[span[0]], high=[span[1]],
                                          kl_low=[kl_span[0]], kl_high=[kl_span[1]])  # fmt: skip
    if len(rows) < 2:
        return None
    best_kl, best_score = zip(*pareto([row[1:] for row in rows]), strict=True)
    figure = frontier(
        best_kl,
        best_score,
        points,
        line="best of these policies",
        xlabel=f"KL from {_short(metrics['settings']['reference'])} (nats per sequence)",
        ylabel=judge.axis,
    )
    alt = say("alt_frontier", judge.title, rows)
    return chart(figure, "frontier", alt, say("caption_frontier"))


def _bins(metrics: Mapping[str, Any], judge: str) -> list[tuple[float, float]]:
    rows = get_path(metrics, "judges", judge, "bins") or []
    return [(row["predicted"], row["observed"]) for row in rows]


def _ratings(metrics: Mapping[str, Any]) -> Chart | None:
    """Human ratings against the gold judge's predictions, in groups of texts."""
    rows = _bins(metrics, "gold_judge")
    if not rows:
        return None
    predicted, observed = zip(*rows, strict=True)
    ends = [min(predicted + observed), max(predicted + observed)]
    figure = frontier(
        ends,
        ends,
        {"groups of texts": Points(predicted, observed, joined=True)},
        line="calibrated",
        xlabel="predicted rating (points)",
        ylabel="mean human rating (points)",
    )
    caption = "Human texts that the judge was not fitted to."
    return chart(figure, "gold_calibration", say("alt_ratings", rows), caption)


def _reliability(metrics: Mapping[str, Any]) -> Chart | None:
    """Reliability of the reward model's preferences on human pairs."""
    rows = _bins(metrics, "reward_model")
    if not rows:
        return None
    predicted, observed = zip(*rows, strict=True)
    counts = [row["n"] for row in metrics["judges"]["reward_model"]["bins"]]
    figure = plotting.reward_calibration(predicted, observed, n_pairs=counts)
    caption = "Each held-out human pair enters both ways round, so the points mirror each other."
    alt = say("alt_reliability", "Calibration of the reward model on human pairs", rows)
    return chart(figure, "reward_calibration", alt, caption)
