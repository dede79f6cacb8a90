"""The error that names file, row, field, value and fix."""

from __future__ import annotations

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxdict = 4


def shortened(value: object) -> str:
    """``repr`` of a value, cut in the middle to some 80 characters."""
    return _SHORT.repr(value)


class DataError(ValueError):
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

    def __init__(
        self,
        problem: str,
        *,
        file: str,
        fix: str,
        row: int | None = None,
        field: str | None = None,
        value: object = None,
    ) -> None:
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
