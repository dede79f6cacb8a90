"""What the readiness check returns: thresholds, criteria, a verdict, and their table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf_lite.evaluation.report.render import render
from rlhf_lite.evaluation.statistics import Interval

Outcome = Literal["pass", "care", "fail", "not measured"]
Verdict = Literal["ready", "ready with care", "not ready"]
_COLUMNS = ("criterion", "value [95 % interval]", "threshold", "outcome", "in words")


@dataclass(frozen=True)
class Threshold:
    """What a criterion is held against.

    Attributes:
        target: passed if the *worse* end of the 95 % interval reaches it.
        floor: failed if the *estimate* does not reach it. In between, the outcome is "care".
        reason: why it stands there.
        high_is_good: False where a small value is good.
    """

    target: float
    floor: float
    reason: str
    high_is_good: bool = True

    def outcome(self, value: Interval | None) -> Outcome:
        """What a measured value comes to; None was not measured."""
        if value is None:
            return "not measured"
        sign = 1.0 if self.high_is_good else -1.0
        worse = value.low if self.high_is_good else value.high
        if sign * worse >= sign * self.target:
            return "pass"
        return "care" if sign * value.estimate > sign * self.floor else "fail"


@dataclass(frozen=True)
class Thresholds:
    """One for each criterion. They are conventions for small runs, not laws; a project should set its own."""

    accuracy: Threshold = Threshold(
        0.6, 0.5, "0 is guessing, 1 is knowing every mean rating; below a half, noise outweighs signal")
    calibration: Threshold = Threshold(
        0.1, 0.2, "an overconfident model makes the price of KL too low without saying so",
        high_is_good=False)
    gain: Threshold = Threshold(0.0, 0.0,
                                "if choosing by the reward does not help, climbing it will not either")
    overoptimisation: Threshold = Threshold(
        0.0, -0.15, "once gold has passed its peak, more optimisation makes texts worse")
    length: Threshold = Threshold(0.2, 0.4, "a policy finds out quickly that length pays", high_is_good=False)


@dataclass(frozen=True)
class Criterion:
    """One line of the check.

    Attributes:
        name: of the criterion.
        value: estimate and 95 % interval; None if there was nothing to measure it on.
        threshold: what it is held against.
        detail: the same in plain words and further numbers.
    """

    name: str
    value: Interval | None
    threshold: Threshold
    detail: str

    @property
    def outcome(self) -> Outcome:
        """``pass``, ``care``, ``fail`` or ``not measured``."""
        return self.threshold.outcome(self.value)


@dataclass(frozen=True)
class Readiness:
    """The result of the check. ``print`` shows it as a table; ``markdown()`` is for notebooks.

    Attributes:
        criteria: the five lines.
        curve: for each n, mean proxy score and mean gold score of the best of n; empty without a pool.
        seed: of the bootstrap.
    """

    criteria: tuple[Criterion, ...]
    curve: tuple[tuple[int, float, float], ...] = ()
    seed: int = 0

    @property
    def verdict(self) -> Verdict:
        """``not ready`` if a criterion fails, ``ready`` if all pass, otherwise ``ready with care``."""
        outcomes = {criterion.outcome for criterion in self.criteria}
        if "fail" in outcomes:
            return "not ready"
        return "ready" if outcomes == {"pass"} else "ready with care"

    @property
    def gold_peak(self) -> int | None:
        """The n at which the gold score is highest; None without a pool."""
        return max(self.curve, key=lambda point: point[2])[0] if self.curve else None

    def outcome(self, name: str) -> Outcome:
        """The outcome of the criterion called ``name``."""
        return next(criterion.outcome for criterion in self.criteria if criterion.name == name)

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Name, value with interval, threshold, outcome and detail, as text."""
        rows = []
        for c in self.criteria:
            value = "–" if c.value is None else "{:.2f} [{:.2f}, {:.2f}]".format(*c.value)
            value = value.replace("[nan, nan]", "[no interval]")
            target = f"{'≥' if c.threshold.high_is_good else '≤'} {c.threshold.target:.2f}"
            rows.append((c.name, value.replace("-", "−"), target, c.outcome, c.detail))
        return rows

    def __str__(self) -> str:
        table = [_COLUMNS, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return render("readiness.txt.j2", table=table, widths=widths, verdict=self.verdict).rstrip("\n")

    def markdown(self) -> str:
        """The table in Markdown, with the verdict below it."""
        return render("readiness.md.j2", columns=_COLUMNS, rows=self.rows(), verdict=self.verdict)
