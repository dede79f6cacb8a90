"""What became of the rows that somebody gave: read, left out and why, cut, used."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf_lite.errors import DataError

BROKEN = "a broken row"
TOO_LONG = "the answer does not fit"
EQUAL = "both texts are equal"
EQUAL_AFTER_CUT = "both texts are equal after the cut"
EMPTY = "an answer is empty"
# Reasons that a larger data.max_tokens takes away.
_BY_LENGTH = (TOO_LONG, EQUAL_AFTER_CUT)
# Shares of the rows that are lost or cut: more than the first is worth a warning, more than the second is
# another experiment than the one that was asked for.
_MANY, _MOST = 0.1, 0.5


@dataclass
class RowCounts:
    """The rows of one consumer. It is filled while rows are encoded; a *row* is what one line of a file gave.

    Attributes:
        max_tokens: the limit that rows were cut to; None if there was none.
        read: rows looked at.
        used: rows that remain.
        prompts_cut: rows whose prompt lost its beginning.
        answers_cut: rows of which an answer lost its end.
        left_out: number of rows by reason.
        lengths: tokens that each row needs, prompt and longest answer.
    """

    max_tokens: int | None = None
    read: int = 0
    used: int = 0
    prompts_cut: int = 0
    answers_cut: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)

    def measure(self, tokens: int) -> None:
        """Take down how many tokens a row needs."""
        self.lengths.append(tokens)

    def leave(self, reason: str) -> None:
        """Take down a row that is not used."""
        self.read += 1
        self.left_out[reason] += 1

    def use(self, *, prompt_cut: bool = False, answer_cut: bool = False) -> None:
        """Take down a row that is used."""
        self.read += 1
        self.used += 1
        self.prompts_cut += prompt_cut
        self.answers_cut += answer_cut

    def record(self) -> dict[str, Any]:
        """As JSON, for the record of a phase."""
        longest = max(self.lengths, default=None)
        return {"read": self.read, "left_out": dict(self.left_out), "prompts_cut": self.prompts_cut,
                "answers_cut": self.answers_cut, "used": self.used, "max_tokens": self.max_tokens,
                "longest_tokens": longest}

    def check(self, source: str, *, refuse: bool = True) -> str | None:
        """A warning if many rows are lost to the limit or cut.

        Args:
            source: the file, for the error.
            refuse: raise if most rows are.

        Raises:
            DataError: see ``refuse``.
        """
        hurt = self.answers_cut + sum(self.left_out[reason] for reason in _BY_LENGTH)
        if not self.read or hurt <= _MANY * self.read:
            return None
        wanted = sorted(self.lengths)[math.ceil(0.99 * len(self.lengths)) - 1] if self.lengths else 0
        problem = f"{hurt} of {self.read} rows have an answer that does not fit into {self.max_tokens} tokens"
        fix = f"set data.max_tokens={wanted}, with which 99 % of the rows fit"
        if refuse and hurt > _MOST * self.read:
            raise DataError(f"{problem}: what is left is not what people judged", file=source, fix=fix)
        return f"{problem}; {fix}"


def rows_line(record: Mapping[str, Any]) -> str:
    """What :meth:`RowCounts.record` says, in one line."""
    parts = [f"{record['read']:,} read"]
    for reason, n in record["left_out"].items():
        parts.append(f"{n:,} left out ({reason})")
    limit = "" if record.get("max_tokens") is None else f" at {record['max_tokens']:,} tokens"
    if record.get("repeated"):
        parts.append(f"{record['repeated']:,} repeat an earlier row")
    for name, what in (("prompts_cut", "prompts lost their beginning"),
                       ("answers_cut", "answers lost their end")):
        if record.get(name):
            parts.append(f"{record[name]:,} {what}{limit}")
    return ", ".join([*parts, f"{record['used']:,} used"])
