"""The figures of a run, each with a sentence for readers who cannot see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lite import plotting
from rlhf_lite.evaluation.report.charts import Chart, chart, pipeline_chart
from rlhf_lite.evaluation.report.numbers import get_path, interval, numeric
from rlhf_lite.evaluation.report.render import say
from rlhf_lite.evaluation.report.run.folder import Run
from rlhf_lite.evaluation.statistics import wilson_interval

__all__ = ["PHASES", "draw", "training"]

Policy = tuple[str, str, Mapping[str, Any]]  # label, name, entry of metrics.json

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
_SCORES = (
    ("gold_reward", "gold_ci95", "gold reward (rating points)", "Gold reward"),
    ("vader", "vader_ci95", "VADER sentiment (−1 to 1)", "VADER sentiment"),
)


def draw(run: Run, policies: Sequence[Policy]) -> dict[str, Any]:
    """All figures but the training curves; None or an empty list where the run lacks the numbers.

    Args:
        run: the run.
        policies: label, name and entry of ``metrics.json`` of each.
    """
    return {
        "policies": [made for column in _SCORES if (made := _policies(policies, *column))],
        "pipeline": pipeline_chart(),
        "trajectory": _trajectory(run),
        "judges": [made for made in (_gaps(run), _calibration(run)) if made],
    }


def training(run: Run) -> list[tuple[str, list[Chart], list[str]]]:
    """Phase, one chart per logged quantity, and the titles of those that were not logged."""
    other = {"ppo": "dpo", "dpo": "ppo"}  # a run that chose one method lacks nothing without the other
    return [
        (phase, *_curves(run, phase))
        for phase in PHASES
        if phase in run.steps or other.get(phase) not in run.steps
    ]


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
    rows = [
        (numeric(row.get("kl/nats_per_seq")), numeric(row.get("reward/rm_raw")))
        for row in run.steps.get("ppo", [])
    ]
    points = [row for row in rows if None not in row]
    if len(points) < 2:
        return None
    kl, reward = zip(*points, strict=True)
    return chart(
        plotting.reward_versus_kl({"PPO": (kl, reward)}),
        "reward_versus_kl",
        say("alt_trajectory", kl, reward),
    )


def _policies(policies: Sequence[Policy], key: str, ci_key: str, axis: str, title: str) -> Chart | None:
    rows = [
        (
            label,
            value,
            interval(entry.get(ci_key)),
            plotting.POLICY_COLOURS.get(name, plotting.OKABE_ITO["green"]),
        )
        for label, name, entry in policies
        if (value := numeric(entry.get(key))) is not None
    ]
    if not rows:
        return None
    labels, values, ends, colours = zip(*rows, strict=True)
    low, high = zip(*(pair or (value, value) for value, pair in zip(values, ends, strict=True)), strict=True)
    span = {"low": low, "high": high} if any(ends) else {}
    figure = plotting.policy_comparison(labels, values, xlabel=axis, colours=colours, **span)
    return chart(figure, f"policies_{key}", say("alt_policies", title, [row[:3] for row in rows]))


def _gaps(run: Run) -> Chart | None:
    """Reward-model accuracy per range of the rating gap, with Wilson intervals from the counts."""
    rows = run.get("reward_model", "accuracy_by_gap")
    ranges = []
    for row in rows if isinstance(rows, list) else []:
        keys = ("accuracy", "n_pairs", "gap_low", "gap_high")
        accuracy, n, start, end = (numeric(get_path(row, key)) for key in keys)
        if accuracy is not None and n and start is not None and 0 <= accuracy <= 1:
            label = f"{start:g} to {end:g}" if end is not None else f"over {start:g}"
            ranges.append((label, accuracy, int(n), wilson_interval(accuracy * n, int(n))))
    if not ranges:
        return None
    labels, shares, counts, spans = zip(*ranges, strict=True)
    low, high = [span.low for span in spans], [span.high for span in spans]
    figure = plotting.accuracy_by_gap(labels, shares, low=low, high=high, n_pairs=counts)
    alt = say("alt_gaps", [row[:3] for row in ranges])
    return chart(figure, "accuracy_by_gap", alt, "Bars are 95 % Wilson intervals from the number of pairs.")


def _calibration(run: Run) -> Chart | None:
    """Reliability diagram from ``reward_model.calibration``, a list of bins."""
    rows = run.get("reward_model", "calibration")
    keys = ("predicted", "observed", "n_pairs")
    bins = [[numeric(get_path(row, key)) for key in keys] for row in (rows if isinstance(rows, list) else [])]
    bins = [values for values in bins if None not in values and values[2]]
    if not bins:
        return None
    predicted, observed, counts = zip(*bins, strict=True)
    figure = plotting.reward_calibration(predicted, observed, n_pairs=[int(n) for n in counts])
    title = "Calibration of the reward model, bin by bin"
    return chart(figure, "calibration", say("alt_reliability", title, [row[:2] for row in bins]))
