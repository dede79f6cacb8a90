"""The errors of the package that a user can mend: one base, so that a caller can catch them all.

The command line prints them as one message and ends with their exit code; anything else is a bug and keeps
its traceback. Importing this module loads nothing heavy.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxdict = 4


def shortened(value: object) -> str:
    """``repr`` of a value, cut in the middle to some 80 characters."""
    return _SHORT.repr(value)


class RlhfLiteError(Exception):
    """Something a user can mend; the message says what is wrong and what to do.

    Attributes:
        exit_code: of the command line. 1: a phase, an asset or the machine failed; 2: the command line, the
            settings or the data are wrong.
    """

    exit_code = 1


class ConfigError(RlhfLiteError, ValueError):
    """Settings that cannot be used. ``problems`` holds one line per problem."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        head = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{head} in the settings:", *(f"  {line}" for line in self.problems)]))


class DataError(RlhfLiteError, ValueError):
    """Something in a data file is not as it has to be.

    Attributes:
        problem: what is wrong, a clause that continues the field's name ("is empty").
        file: name of the file or data set.
        row: line number for text files (of JSON lines and CSV, counted from 1), else row number from 1;
            None when it is about the whole file.
        field: name of the column or key; None when it is about the whole row.
        value: what was received, shortened; None when there is nothing to show.
        fix: what to do about it.
    """

    exit_code = 2

    def __init__(self, problem: str, *, file: str, fix: str, row: int | None = None, field: str | None = None,
                 value: object = None) -> None:
        self.problem = problem
        self.file = str(file)
        self.row = row
        self.field = field
        self.value = None if value is None else shortened(value)
        self.fix = fix
        where = self.file if row is None else f"{self.file}, row {row}"
        what = problem if field is None else f"field {field!r} {problem}"
        received = "" if self.value is None else f" (received {self.value})"
        super().__init__(f"{where}: {what}{received}. Fix: {fix}.")

    def or_skip(self, how: str) -> DataError:
        """This error, which also says what passes over such rows: an option or a setting."""
        self.args = (f"{str(self)[:-1]}; {how} leaves such rows out and lists them.",)
        return self

    def of_all(self, rows: int) -> DataError:
        """This error, which also says that all rows of the file have it."""
        self.args = (f"{self} For this reason the file has no usable row among {rows:,}.",)
        return self


class ComparisonError(RlhfLiteError, ValueError):
    """A comparison that cannot be made as asked; the message says what to change."""

    exit_code = 2


class OutputError(RlhfLiteError, OSError):
    """A place for results that cannot be written to; the message says why and what to do."""

    exit_code = 2


class AssetError(RlhfLiteError, RuntimeError):
    """An asset cannot be had. The message says what was wanted, from where, and how to supply it by hand."""


class CheckpointError(RlhfLiteError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class NonFiniteError(RlhfLiteError, RuntimeError):
    """A loss or gradient is NaN or infinite; the run stops before it spoils the weights."""


class PhaseError(RlhfLiteError, RuntimeError):
    """A phase could not run; what was finished before it is kept."""


class RewardError(RlhfLiteError, ValueError):
    """A reward gave something other than one finite number per completion."""


class ToxicityError(RlhfLiteError, RuntimeError):
    """A toxicity judge is not there, or answers what is no probability; the message says what to do."""
