"""The figures of both reports: a picture for the page, a file for Markdown, and a sentence in their stead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_lite import plotting
from rlhf_lite.evaluation.report.render import get_path, interval, numeric, say
from rlhf_lite.evaluation.statistics import wilson_interval
from rlhf_lite.plotting.frontier import Points, frontier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rlhf_lite.evaluation.report.run import Run

Policy = tuple[str, str, Mapping[str, Any]]  # label, name, entry of metrics.json

_LONGEST = 22
_OTHER = plotting.OKABE_ITO["green"]  # of a policy without a colour of its own
# file, title, axis label with unit, {name in the log: label of the curve}
_PANELS: dict[str, list[tuple[str, str, str, dict[str, str]]]] = {
    "sft": [
        ("sft_loss", "SFT: loss", "loss (nats per token)",
         {"loss/nats_per_token": "train", "val_loss/nats_per_token": "validation"}),
    ],
    "reward": [
        ("reward_loss", "Reward model: loss", "loss (nats per pair)", {"loss/nats_per_pair": "train"}),
        ("reward_accuracy", "Reward model: training accuracy", "accuracy in the batch (fraction)",
         {"accuracy/fraction": "train"}),
    ],
    "ppo": [
        ("ppo_reward", "PPO: reward", "reward-model score", {"reward/rm_raw": "mean"}),
        ("ppo_kl", "PPO: KL from its start", "KL (nats per sequence)", {"kl/nats_per_seq": "measured"}),
        ("ppo_entropy", "PPO: entropy of the policy", "entropy (nats per token)",
         {"entropy/nats_per_token": "mean"}),
        ("ppo_clip", "PPO: clipped updates", "clipped tokens (fraction)", {"clip/fraction": "mean"}),
        ("ppo_explained_variance", "PPO: value head", "explained variance (fraction)",
         {"value/explained_variance": "mean"}),
        ("ppo_length", "PPO: length", "length (tokens)", {"length/tokens": "mean"}),
    ],
    "dpo": [
        ("dpo_loss", "DPO: loss", "loss (per pair, for kto per answer)",
         {"loss/per_pair": "train", "loss/per_answer": "train, kto"}),
        ("dpo_accuracy", "DPO: accuracy", "accuracy in the batch (fraction)", {"accuracy/fraction": "train"}),
        ("dpo_reward", "DPO: implicit reward", "implicit reward (nats times beta)",
         {"reward/implicit_chosen": "chosen", "reward/implicit_rejected": "rejected",
          "reward/implicit_desirable": "desirable", "reward/implicit_undesirable": "undesirable"}),
        ("dpo_logp", "DPO: log-probability of the texts", "log-probability (nats per sequence)",
         {"logp/chosen_nats_per_seq": "chosen", "logp/rejected_nats_per_seq": "rejected"}),
    ],
}  # fmt: skip
PHASES = tuple(_PANELS)
_STEPS = {"sft": "SFT step", "reward": "reward-model step", "ppo": "PPO step", "dpo": "DPO step"}


class JudgeScore(NamedTuple):
    """Where a judge's mean score and its interval stand in ``report.json``, and how they are called."""

    key: str
    ends: str
    title: str
    axis: str
    unit: str


SCORES = {
    "gold": JudgeScore("gold_reward", "gold_ci95", "Gold reward", "gold reward (rating points)",
                       "rating points"),
    "vader": JudgeScore("vader", "vader_ci95", "VADER sentiment", "VADER sentiment (−1 to 1)", "−1 to 1"),
    "reward": JudgeScore("rm_reward", "rm_ci95", "Reward-model score", "reward-model score (its own scale)",
                         "its own scale"),
}


@dataclass(frozen=True)
class Chart:
    """A drawn figure.

    Attributes:
        file: its name in the folder ``figures``.
        content: what that file holds.
        svg: the picture on the page.
        alt: a sentence that says what it shows.
        caption: what stands under it.
        narrow_svg: another drawing of the same, for a phone.
    """

    file: str
    content: bytes
    svg: str
    alt: str
    caption: str = ""
    narrow_svg: str = ""


def chart(figure: Figure, name: str, alt: str, caption: str = "") -> Chart:
    """A matplotlib figure, drawn as SVG and as PNG."""
    svg = plotting.to_svg(figure)
    figure.set_layout_engine("none")  # placed by now; placing again would cost as much as drawing
    return Chart(f"{name}.png", plotting.to_png(figure), svg, alt, caption)


def pipeline_chart() -> Chart:
    """The four phases and the parts of the ratings, wide and tall."""
    wide, tall = plotting.pipeline_picture(), plotting.pipeline_picture(layout="tall")
    caption = "The shares are those of the built-in human ratings. No text is in two parts."
    return Chart("pipeline.svg", wide.svg.encode("utf-8"), wide.svg, wide.alt, caption, tall.svg)


def charts_in(tree: Any) -> Iterable[Chart]:
    """All charts of a nested context."""
    if isinstance(tree, Chart):
        yield tree
    elif isinstance(tree, Mapping):
        yield from charts_in(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for entry in tree:
            yield from charts_in(entry)


def _dots(rows: Sequence[tuple[str, float, Any]], axis: str, name: str, alt: str,
          colours: Sequence[str] | None = None) -> Chart:
    """One dot per policy: rows of name, value and interval (None where there is none)."""
    names, values, ends = zip(*rows, strict=True)
    low, high = zip(*(pair or (value, value) for value, pair in zip(values, ends, strict=True)), strict=True)
    span = {"low": low, "high": high} if any(ends) else {}
    figure = plotting.policy_comparison([*map(_short, names)], values, xlabel=axis, colours=colours, **span)
    return chart(figure, name, alt)


def _short(name: str) -> str:
    """A policy's name, cut so that it fits beside a chart."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _forecasts(rows: Sequence[Sequence[float]], name: str, title: str, caption: str = "") -> Chart | None:
    """Reliability of the reward model's preferences: rows of predicted, observed and number of pairs."""
    if not rows:
        return None
    predicted, observed, counts = zip(*rows, strict=True)
    figure = plotting.reward_calibration(predicted, observed, n_pairs=[int(n) for n in counts])
    return chart(figure, name, say("alt_reliability", title, [row[:2] for row in rows]), caption)


def _present(*charts: Chart | None) -> list[Chart]:
    return [drawn for drawn in charts if drawn]


def draw_run(run: Run, policies: Sequence[Policy]) -> dict[str, Any]:
    """All figures of a run but the training curves; None or an empty list where the numbers are missing.

    Args:
        run: the run.
        policies: label, name and entry of ``metrics.json`` of each.
    """
    return {"policies": _present(*(_policies(policies, SCORES[name]) for name in ("gold", "vader"))),
            "pipeline": pipeline_chart(), "trajectory": _trajectory(run),
            "judges": _present(_gaps(run), _calibration(run))}


def training(run: Run) -> list[tuple[str, list[Chart], list[str]]]:
    """Phase, one chart per logged quantity, and the titles of those that were not logged."""
    other = {"ppo": "dpo", "dpo": "ppo"}  # a run that chose one method lacks nothing without the other
    return [(phase, *_curves(run, phase)) for phase in PHASES
            if phase in run.steps or other.get(phase) not in run.steps]


def _curves(run: Run, phase: str) -> tuple[list[Chart], list[str]]:
    charts, absent = [], []
    for name, title, axis, columns in _PANELS[phase]:
        series, sentences = {}, []
        for key, label in columns.items():
            steps, values = run.column(phase, key)
            points = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
            if points:
                series[label] = (steps, values)
                steps, values = zip(*points, strict=True)
                digits = 2 if max(map(abs, values)) >= 0.1 else 4
                sentences.append(say("alt_curve", title, axis, label, steps, values, digits))
        if not series:
            absent.append(title)
            continue
        goal = numeric(get_path(run.config, "ppo", "kl_target")) if name == "ppo_kl" else None
        if goal is not None:
            sentences.append(f"The controller's target is {goal:g}.")
        target = None if goal is None else (f"target {goal:g}", goal)
        panel = plotting.Panel(title, axis, series, xlabel=_STEPS[phase], target=target)
        charts.append(chart(plotting.training_curves(panel), name, " ".join(sentences)))
    return charts, absent


def _trajectory(run: Run) -> Chart | None:
    """Reward-model score against KL, one point per PPO step."""
    rows = [(numeric(row.get("kl/nats_per_seq")), numeric(row.get("reward/rm_raw")))
            for row in run.steps.get("ppo", [])]
    points = [row for row in rows if None not in row]
    if len(points) < 2:
        return None
    kl, reward = zip(*points, strict=True)
    figure = plotting.reward_versus_kl({"PPO": (kl, reward)})
    return chart(figure, "reward_versus_kl", say("alt_trajectory", kl, reward))


def _policies(policies: Sequence[Policy], score: JudgeScore) -> Chart | None:
    rows = [(label, value, interval(entry.get(score.ends)), plotting.POLICY_COLOURS.get(name, _OTHER))
            for label, name, entry in policies if (value := numeric(entry.get(score.key))) is not None]
    if not rows:
        return None
    dots = [row[:3] for row in rows]
    alt = say("alt_policies", score.title, dots)
    return _dots(dots, score.axis, f"policies_{score.key}", alt, [row[3] for row in rows])


def _gaps(run: Run) -> Chart | None:
    """Reward-model accuracy per range of the rating gap, with its intervals."""
    rows = run.get("reward_model", "accuracy_by_gap")
    ranges = []
    for row in rows if isinstance(rows, list) else []:
        keys = ("accuracy", "n_pairs", "gap_low", "gap_high")
        accuracy, n, start, end = (numeric(get_path(row, key)) for key in keys)
        if accuracy is not None and n and start is not None and 0 <= accuracy <= 1:
            label = f"{start:g} to {end:g}" if end is not None else f"over {start:g}"
            # Older runs have no intervals of their own.
            ends = interval(row.get("ci95")) or wilson_interval(accuracy * n, int(n)).ends
            ranges.append((label, accuracy, int(n), ends))
    if not ranges:
        return None
    labels, shares, counts, spans = zip(*ranges, strict=True)
    low, high = zip(*spans, strict=True)
    figure = plotting.accuracy_by_gap(labels, shares, low=low, high=high, n_pairs=counts)
    alt = say("alt_gaps", [row[:3] for row in ranges])
    return chart(figure, "accuracy_by_gap", alt, "Bars are 95 % intervals.")


def _calibration(run: Run) -> Chart | None:
    """Reliability diagram from ``reward_model.calibration``, a list of bins."""
    rows = run.get("reward_model", "calibration")
    keys = ("predicted", "observed", "n_pairs")
    bins = [[numeric(get_path(row, key)) for key in keys] for row in (rows if isinstance(rows, list) else [])]
    bins = [values for values in bins if None not in values and values[2]]
    return _forecasts(bins, "calibration", "Calibration of the reward model, bin by bin")


def draw_comparison(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of a comparison; None or an empty list where the numbers are missing."""
    bins = get_path(metrics, "judges", "reward_model", "bins") or []
    caption = "Each held-out human pair enters both ways round, so the points mirror each other."
    reliability = _forecasts([(row["predicted"], row["observed"], row["n"]) for row in bins],
                             "reward_calibration", "Calibration of the reward model on human pairs", caption)
    return {"results": _present(_scores(metrics), _wins(metrics)), "frontier": _frontier(metrics),
            "judges": _present(_ratings(metrics), reliability)}


def _scores(metrics: Mapping[str, Any]) -> Chart | None:
    """Mean score of every policy by the deciding judge."""
    name = metrics["settings"]["judge"]
    judge = SCORES[name]
    rows = [(policy, value, interval(entry.get(judge.ends)) or (value, value))
            for policy, entry in metrics["policies"].items()
            if (value := numeric(entry.get(judge.key))) is not None]
    return _dots(rows, judge.axis, f"score_{name}", say("alt_scores", judge.title, rows)) if rows else None


def _wins(metrics: Mapping[str, Any]) -> Chart | None:
    """Win rate of every policy against the baseline by the deciding judge."""
    judge, baseline = metrics["settings"]["judge"], metrics["settings"]["baseline"]
    rows = [(name, value, interval(get_path(entry, judge, "ci95")) or (value, value))
            for name, entry in metrics["versus_baseline"].items()
            if (value := numeric(get_path(entry, judge, "win_rate"))) is not None]
    if not rows:
        return None
    rows = [(baseline, 0.5, (0.5, 0.5)), *rows]
    return _dots(rows, "win rate (fraction; a tie counts half)", "win_rate", say("alt_wins", baseline, rows))


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (kl, reward) that no other point beats at less KL, by rising KL."""
    best: list[tuple[float, float]] = []
    for kl, reward in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or reward > best[-1][1]:
            best.append((kl, reward))
    return best


def _frontier(metrics: Mapping[str, Any]) -> Chart | None:
    """Score by the deciding judge against KL, for two policies or more that have both."""
    judge = SCORES[metrics["settings"]["judge"]]
    rows, points = [], {}
    for name, entry in metrics["policies"].items():
        kl, score = numeric(entry.get("kl_nats_per_seq")), numeric(entry.get(judge.key))
        if kl is not None and score is not None:
            span = interval(entry.get(judge.ends)) or (score, score)
            kl_span = interval(entry.get("kl_ci95")) or (kl, kl)
            rows.append((name, kl, score))
            points[_short(name)] = Points([kl], [score], low=[span[0]], high=[span[1]],
                                          kl_low=[kl_span[0]], kl_high=[kl_span[1]])  # fmt: skip
    if len(rows) < 2:
        return None
    best_kl, best_score = zip(*pareto([row[1:] for row in rows]), strict=True)
    xlabel = f"KL from {_short(metrics['settings']['reference'])} (nats per sequence)"
    line = "best of these policies"
    figure = frontier(best_kl, best_score, points, line=line, xlabel=xlabel, ylabel=judge.axis)
    return chart(figure, "frontier", say("alt_frontier", judge.title, rows), say("caption_frontier"))


def _ratings(metrics: Mapping[str, Any]) -> Chart | None:
    """Human ratings against the gold judge's predictions, in groups of texts."""
    bins = get_path(metrics, "judges", "gold_judge", "bins") or []
    if not bins:
        return None
    rows = [(row["predicted"], row["observed"]) for row in bins]
    predicted, observed = zip(*rows, strict=True)
    ends = [min(predicted + observed), max(predicted + observed)]
    points = {"groups of texts": Points(predicted, observed, joined=True)}
    axes = {"xlabel": "predicted rating (points)", "ylabel": "mean human rating (points)"}
    figure = frontier(ends, ends, points, line="calibrated", **axes)
    caption = "Human texts that the judge was not fitted to."
    return chart(figure, "gold_calibration", say("alt_ratings", rows), caption)
