"""The figures of a comparison, each with a sentence for readers who cannot see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lite import plotting
from rlhf_lite.evaluation.report.blocks import Chart
from rlhf_lite.evaluation.report.data import dig, interval, number, numeric
from rlhf_lite.evaluation.report.figures import chart
from rlhf_lite.plotting.frontier import Points, frontier

__all__ = ["frontier_chart", "pareto", "rating_chart", "score_chart", "short", "win_chart"]

_LONGEST = 22
# judge -> (key, interval key, axis, title)
SCORES = {
    "gold": ("gold_reward", "gold_ci95", "gold reward (rating points)", "Gold reward"),
    "vader": ("vader", "vader_ci95", "VADER sentiment (−1 to 1)", "VADER sentiment"),
    "reward": ("rm_reward", "rm_ci95", "reward-model score (its own scale)", "Reward-model score"),
}


def short(name: str) -> str:
    """A policy's name, cut so that it fits beside a chart."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _dots(rows: Sequence[tuple[str, float, Any]], axis: str, name: str, title: str) -> Chart:
    """One dot with interval per policy."""
    ends = [interval(pair) or (value, value) for _, value, pair in rows]
    figure = plotting.policy_comparison(
        [short(policy) for policy, _, _ in rows],
        [value for _, value, _ in rows],
        low=[low for low, _ in ends],
        high=[high for _, high in ends],
        xlabel=axis,
    )
    listed = "; ".join(
        f"{policy} {number(value)} ({number(low)} to {number(high)})"
        for (policy, value, _), (low, high) in zip(rows, ends, strict=True)
    )
    return chart(figure, name, f"{title} per policy with 95 % intervals: {listed}.")


def score_chart(metrics: Mapping[str, Any], judge: str) -> Chart | None:
    """Mean score of every policy by one judge; None if no policy has one."""
    key, ends, axis, title = SCORES[judge]
    rows = [
        (name, value, entry.get(ends))
        for name, entry in metrics["policies"].items()
        if (value := numeric(entry.get(key))) is not None
    ]
    return _dots(rows, axis, f"score_{judge}", title) if rows else None


def win_chart(metrics: Mapping[str, Any]) -> Chart | None:
    """Win rate of every policy against the baseline by the deciding judge; None without one."""
    judge, baseline = metrics["settings"]["judge"], metrics["settings"]["baseline"]
    rows = [
        (name, value, dig(entry, judge, "ci95"))
        for name, entry in metrics["versus_baseline"].items()
        if (value := numeric(dig(entry, judge, "win_rate"))) is not None
    ]
    if not rows:
        return None
    rows.insert(0, (baseline, 0.5, None))
    axis = "win rate (fraction; a tie counts half)"
    return _dots(rows, axis, "win_rate", f"Win rate against {baseline}, which itself stands at one half,")


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (kl, reward) that no other point beats at less KL, by rising KL."""
    best: list[tuple[float, float]] = []
    for kl, reward in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or reward > best[-1][1]:
            best.append((kl, reward))
    return best


def frontier_chart(metrics: Mapping[str, Any]) -> Chart | None:
    """Score by the deciding judge against KL; None if fewer than two policies have both."""
    judge = metrics["settings"]["judge"]
    key, ends, axis, title = SCORES[judge]
    rows = {}
    for name, entry in metrics["policies"].items():
        kl, score = numeric(entry.get("kl_nats_per_seq")), numeric(entry.get(key))
        pair, kl_pair = interval(entry.get(ends)), interval(entry.get("kl_ci95"))
        if None not in (kl, score, pair, kl_pair):
            rows[name] = (kl, score, pair, kl_pair)
    if len(rows) < 2:
        return None
    best = pareto([(kl, score) for kl, score, _, _ in rows.values()])
    points = {
        short(name): Points([kl], [score], low=[pair[0]], high=[pair[1]], kl_low=[kls[0]], kl_high=[kls[1]])
        for name, (kl, score, pair, kls) in rows.items()
    }
    figure = frontier(
        [kl for kl, _ in best],
        [score for _, score in best],
        points,
        line="best of these policies",
        xlabel=f"KL from {short(metrics['settings']['reference'])} (nats per sequence)",
        ylabel=axis,
    )
    listed = "; ".join(
        f"{name} at {number(kl, 1)} nats has {number(score)}" for name, (kl, score, *_) in rows.items()
    )
    return chart(
        figure,
        "frontier",
        f"{title} against KL from the reference: {listed}.",
        "The line joins the policies that no other one of this comparison beats with less KL. It is no "
        "limit of "
        "what is possible.",
    )


def rating_chart(metrics: Mapping[str, Any]) -> Chart | None:
    """Human ratings against the gold judge's predictions, in groups of texts; None without a gold judge."""
    rows = dig(metrics, "judges", "gold_judge", "bins")
    if not rows:
        return None
    predicted, observed = [row["predicted"] for row in rows], [row["observed"] for row in rows]
    low, high = min(predicted + observed), max(predicted + observed)
    figure = frontier(
        [low, high],
        [low, high],
        {"groups of texts": Points(predicted, observed, joined=True)},
        line="calibrated",
        xlabel="predicted rating (points)",
        ylabel="mean human rating (points)",
    )
    listed = "; ".join(
        f"{number(p)} predicted, {number(o)} given by people"
        for p, o in zip(predicted, observed, strict=True)
    )
    return chart(
        figure,
        "gold_calibration",
        f"Calibration of the gold judge in {len(rows)} groups of equal size: {listed}.",
        "Human texts that the judge was not fitted to.",
    )


def reward_calibration_chart(metrics: Mapping[str, Any]) -> Chart | None:
    """Reliability of the reward model's preferences on human pairs; None without one."""
    rows = dig(metrics, "judges", "reward_model", "bins")
    if not rows:
        return None
    predicted, observed = [row["predicted"] for row in rows], [row["observed"] for row in rows]
    counts = [row["n"] for row in rows]
    figure = plotting.reward_calibration(predicted, observed, n_pairs=counts)
    listed = "; ".join(
        f"{number(p)} forecast, {number(o)} observed" for p, o in zip(predicted, observed, strict=True)
    )
    return chart(
        figure,
        "reward_calibration",
        f"Calibration of the reward model on human pairs: {listed}.",
        "Each held-out human pair enters both ways round, so the points mirror each other.",
    )
