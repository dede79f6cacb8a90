"""The figures of a report, each with a sentence for readers who cannot see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlhf_lite import plotting
from rlhf_lite.evaluation.report.blocks import Chart
from rlhf_lite.evaluation.report.data import Run, interval, number, numeric, policy_label
from rlhf_lite.evaluation.statistics import wilson_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "calibration_chart",
    "chart",
    "gap_chart",
    "pipeline_chart",
    "policy_charts",
    "training_charts",
    "trajectory_chart",
]

# name in the log, label of the curve, title, axis label with unit, limits
_PANELS: dict[str, list[tuple[str, list[tuple[str, str]], str, str]]] = {
    "sft": [
        (
            "sft_loss",
            [("loss/nats_per_token", "train"), ("val_loss/nats_per_token", "validation")],
            "SFT: loss",
            "loss (nats per token)",
        ),
    ],
    "reward": [
        ("reward_loss", [("loss/nats_per_pair", "train")], "Reward model: loss", "loss (nats per pair)"),
        (
            "reward_accuracy",
            [("accuracy/fraction", "train")],
            "Reward model: training accuracy",
            "accuracy in the batch (fraction)",
        ),
    ],
    "ppo": [
        ("ppo_reward", [("reward/rm_raw", "mean")], "PPO: reward", "reward-model score"),
        ("ppo_kl", [("kl/nats_per_seq", "measured")], "PPO: KL from its start", "KL (nats per sequence)"),
        (
            "ppo_entropy",
            [("entropy/nats_per_token", "mean")],
            "PPO: entropy of the policy",
            "entropy (nats per token)",
        ),
        ("ppo_clip", [("clip/fraction", "mean")], "PPO: clipped updates", "clipped tokens (fraction)"),
        (
            "ppo_explained_variance",
            [("value/explained_variance", "mean")],
            "PPO: value head",
            "explained variance (fraction)",
        ),
        ("ppo_length", [("length/tokens", "mean")], "PPO: length", "length (tokens)"),
    ],
    "dpo": [
        (
            "dpo_loss",
            [("loss/per_pair", "train"), ("loss/per_answer", "train, kto")],
            "DPO: loss",
            "loss (per pair, for kto per answer)",
        ),
        (
            "dpo_accuracy",
            [("accuracy/fraction", "train")],
            "DPO: accuracy",
            "accuracy in the batch (fraction)",
        ),
        (
            "dpo_reward",
            [
                ("reward/implicit_chosen", "chosen"),
                ("reward/implicit_rejected", "rejected"),
                ("reward/implicit_desirable", "desirable"),
                ("reward/implicit_undesirable", "undesirable"),
            ],
            "DPO: implicit reward",
            "implicit reward (nats times beta)",
        ),
        (
            "dpo_logp",
            [("logp/chosen_nats_per_seq", "chosen"), ("logp/rejected_nats_per_seq", "rejected")],
            "DPO: log-probability of the texts",
            "log-probability (nats per sequence)",
        ),
    ],
}
_PHASE_AXIS = {"sft": "SFT step", "reward": "reward-model step", "ppo": "PPO step", "dpo": "DPO step"}


def chart(figure: Figure, name: str, alt: str, caption: str = "", narrow: Figure | None = None) -> Chart:
    """A drawn figure with the sentence that says what is seen, and perhaps another drawing for a phone."""
    svg = plotting.to_svg(figure)
    figure.set_layout_engine("none")  # placed by now; placing again would cost as much as drawing
    return Chart(
        name=name,
        svg=svg,
        png=plotting.to_png(figure),
        alt=alt,
        caption=caption,
        narrow_svg="" if narrow is None else plotting.to_svg(narrow),
    )


def pipeline_chart() -> Chart:
    """The four phases and the parts of the ratings, wide and tall."""
    return chart(
        plotting.pipeline_picture(),
        "pipeline",
        "Diagram: the human ratings are split into train, validation, test and gold. SFT and the reward "
        "model "
        "learn from train and are watched on validation; PPO starts from the SFT policy, writes "
        "continuations of "
        "train openings and is rewarded by the reward model; the evaluation uses test openings and a gold "
        "judge "
        "fitted to the gold part.",
        "The shares are those of the built-in human ratings. No text is in two parts.",
        plotting.pipeline_picture(layout="tall"),
    )


def _curve_sentence(title: str, axis: str, label: str, steps: Sequence[float], values: Sequence[Any]) -> str:
    points = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    (first_step, first), (last_step, last) = points[0], points[-1]
    digits = 2 if max(abs(value) for _, value in points) >= 0.1 else 4
    moves = "goes from" if first != last else "stays at"
    lowest, highest = min(value for _, value in points), max(value for _, value in points)
    tail = f" to {number(last, digits)} at step {last_step:g}" if first != last else ""
    return (
        f"{title} ({label}): {axis} {moves} {number(first, digits)} at step {first_step:g}{tail}, "
        f"between {number(lowest, digits)} and {number(highest, digits)}."
    )


def training_charts(run: Run, phase: str) -> tuple[list[Chart], list[str]]:
    """One chart per logged quantity of a phase, and the titles of those that were not logged."""
    charts, absent = [], []
    for name, columns, title, axis in _PANELS[phase]:
        series, sentences = {}, []
        for key, label in columns:
            steps, values = run.column(phase, key)
            if any(value is not None for value in values):
                series[label] = (steps, values)
                sentences.append(_curve_sentence(title, axis, label, steps, values))
        if not series:
            absent.append(title)
            continue
        target = None
        if name == "ppo_kl" and run.setting("ppo", "kl_target") is not None:
            goal = run.setting("ppo", "kl_target")
            target = (f"target {goal:g}", goal)
            sentences.append(f"The controller's target is {goal:g}.")
        panel = plotting.Panel(title, axis, series, xlabel=_PHASE_AXIS[phase], target=target)
        charts.append(chart(plotting.training_curves(panel), name, " ".join(sentences)))
    return charts, absent


def trajectory_chart(run: Run) -> Chart | None:
    """Reward-model score against KL, one point per PPO step; None if either was not logged."""
    rows = run.steps.get("ppo", [])
    points = [(numeric(row.get("kl/nats_per_seq")), numeric(row.get("reward/rm_raw"))) for row in rows]
    points = [(kl, reward) for kl, reward in points if kl is not None and reward is not None]
    if len(points) < 2:
        return None
    kl, reward = [point[0] for point in points], [point[1] for point in points]
    alt = (
        f"Reward against KL over {len(points)} PPO steps: from a score of {number(reward[0])} at "
        f"{number(kl[0])} nats "
        f"per sequence to {number(reward[-1])} at {number(kl[-1])} nats per sequence."
    )
    return chart(plotting.reward_versus_kl({"PPO": (kl, reward)}), "reward_versus_kl", alt)


def policy_charts(run: Run) -> list[Chart]:
    """Gold reward and VADER sentiment of every policy, with intervals where the run has them."""
    charts = []
    quantities = (
        ("gold_reward", "gold_ci95", "gold reward (rating points)", "Gold reward"),
        ("vader", "vader_ci95", "VADER sentiment (−1 to 1)", "VADER sentiment"),
    )
    for key, ci_key, axis, title in quantities:
        names = [name for name in run.policies if run.value("policies", name, key) is not None]
        if not names:
            continue
        values = [run.value("policies", name, key) or 0.0 for name in names]
        ends = [interval(run.get("policies", name, ci_key)) for name in names]
        low = [pair[0] if pair else value for pair, value in zip(ends, values, strict=True)]
        high = [pair[1] if pair else value for pair, value in zip(ends, values, strict=True)]
        listed = "; ".join(
            f"{policy_label(name)} {number(value)}"
            + (f" (95 % interval {number(pair[0])} to {number(pair[1])})" if pair else "")
            for name, value, pair in zip(names, values, ends, strict=True)
        )
        figure = plotting.policy_comparison(
            [policy_label(name) for name in names],
            values,
            low=low if any(ends) else None,
            high=high if any(ends) else None,
            xlabel=axis,
            colours=[plotting.POLICY_COLOURS.get(name, plotting.OKABE_ITO["green"]) for name in names],
        )
        charts.append(chart(figure, f"policies_{key}", f"{title} per policy: {listed}."))
    return charts


def gap_chart(run: Run) -> Chart | None:
    """Reward-model accuracy per range of the rating gap, with Wilson intervals from the counts."""
    rows = run.get("reward_model", "accuracy_by_gap")
    labels, shares, low, high, counts = [], [], [], [], []
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict):
            continue
        accuracy, n = numeric(row.get("accuracy")), numeric(row.get("n_pairs"))
        start, end = numeric(row.get("gap_low")), numeric(row.get("gap_high"))
        if accuracy is None or not n or start is None or not 0 <= accuracy <= 1:
            continue
        ends = wilson_interval(accuracy * n, int(n))
        labels.append(f"{start:g} to {end:g}" if end is not None else f"over {start:g}")
        shares.append(accuracy)
        low.append(ends.low)
        high.append(ends.high)
        counts.append(int(n))
    if not labels:
        return None
    listed = "; ".join(
        f"gap {label}: {number(share)} of {n} pairs"
        for label, share, n in zip(labels, shares, counts, strict=True)
    )
    figure = plotting.accuracy_by_gap(labels, shares, low=low, high=high, n_pairs=counts)
    caption = "Bars are 95 % Wilson intervals from the number of pairs."
    return chart(figure, "accuracy_by_gap", f"Reward-model accuracy by rating gap: {listed}.", caption)


def calibration_chart(run: Run) -> Chart | None:
    """Reliability diagram from ``reward_model.calibration``, a list of bins; None where a run has none."""
    rows = run.get("reward_model", "calibration")
    keys = ("predicted", "observed", "n_pairs")
    bins = [[numeric(row.get(key)) for key in keys] for row in rows or [] if isinstance(row, dict)]
    bins = [values for values in bins if None not in values and values[2]]
    if not bins:
        return None
    predicted, observed, counts = (list(column) for column in zip(*bins, strict=True))
    listed = "; ".join(f"{number(p)} forecast, {number(o)} observed" for p, o, _ in bins)
    figure = plotting.reward_calibration(predicted, observed, n_pairs=[int(n) for n in counts])
    return chart(figure, "calibration", f"Calibration of the reward model, bin by bin: {listed}.")
