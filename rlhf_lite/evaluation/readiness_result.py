"""What the readiness check returns: bars, criteria, a verdict, and their table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf_lite.evaluation.statistics import Interval

Outcome = Literal["pass", "care", "fail", "not measured"]
Verdict = Literal["ready", "ready with care", "not ready"]


@dataclass(frozen=True)
class Bar:
    """What a criterion is held against.

    Attributes:
        bar: passed if the *worse* end of the 95 % interval reaches it.
        floor: failed if the *estimate* does not reach it. In between, the outcome is "care".
        reason: why it stands there.
        high_is_good: False where a small value is good.
    """

    bar: float
    floor: float
    reason: str
    high_is_good: bool = True

    def outcome(self, value: Interval | None) -> Outcome:
        """What a measured value comes to; None was not measured."""
        if value is None:
            return "not measured"
        sign = 1.0 if self.high_is_good else -1.0
        worse = value.low if self.high_is_good else value.high
        if sign * worse >= sign * self.bar:
            return "pass"
        return "care" if sign * value.estimate > sign * self.floor else "fail"


@dataclass(frozen=True)
class Bars:
    """The five bars. They are conventions for small runs, not laws; a project should set its own."""

    accuracy: Bar = Bar(
        0.6, 0.5, "0 is guessing, 1 is knowing every mean rating; below a half, noise outweighs signal"
    )
    calibration: Bar = Bar(
        0.1, 0.2, "an overconfident model makes the price of KL too low without saying so", high_is_good=False
    )
    gain: Bar = Bar(0.0, 0.0, "if choosing by the reward does not help, climbing it will not either")
    turn: Bar = Bar(0.0, -0.15, "once gold has passed its peak, more optimisation makes texts worse")
    length: Bar = Bar(0.2, 0.4, "a policy finds out quickly that length pays", high_is_good=False)


@dataclass(frozen=True)
class Criterion:
    """One line of the check.

    Attributes:
        name: of the criterion.
        value: estimate and 95 % interval; None if there was nothing to measure it on.
        bar: what it is held against.
        detail: the same in plain words and further numbers.
    """

    name: str
    value: Interval | None
    bar: Bar
    detail: str

    @property
    def outcome(self) -> Outcome:
        """``pass``, ``care``, ``fail`` or ``not measured``."""
        return self.bar.outcome(self.value)


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
        """Name, value with interval, bar, outcome and detail, as text."""
        found = []
        for c in self.criteria:
            value = "-" if c.value is None else "{:.2f} [{:.2f}, {:.2f}]".format(*c.value)
            bar = f"{'>=' if c.bar.high_is_good else '<='} {c.bar.bar:.2f}"
            found.append((c.name, value, bar, c.outcome, c.detail))
        return found

    def __str__(self) -> str:
        head = ("criterion", "value [95 % interval]", "bar", "outcome", "in words")
        table = [head, *self.rows()]
        widths = [max(len(row[i]) for row in table) for i in range(4)]
        lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(4)), row[4]]) for row in table]
        return "\n".join([*lines, f"verdict: {self.verdict}"])

    def markdown(self) -> str:
        """The table in Markdown, with the verdict below it."""
        lines = ["| criterion | value [95 % interval] | bar | outcome | in words |", "|---|---|---|---|---|"]
        lines += ["| " + " | ".join(row).replace("<=", "≤").replace(">=", "≥") + " |" for row in self.rows()]
        return "\n".join([*lines, "", f"Verdict: **{self.verdict}**."])
