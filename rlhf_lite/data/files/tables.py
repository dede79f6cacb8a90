"""Rows of Parquet files and of data sets of the ``datasets`` library: both know their columns beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_lite.data.files.cells import Place
from rlhf_lite.data.files.kinds import EXTENSIONS
from rlhf_lite.errors import DataError

Row = tuple[int, Mapping[str, Any] | DataError]
Needs = Callable[[Iterable[object], Place], None]


class Rows(NamedTuple):
    """The rows of a file, and what the file is.

    Attributes:
        name: of the file or data set, for errors.
        rows: each with its number, or with the error about it.
        format: of the file, in words.
        text_only: the format has no types, so that numbers are text.
    """

    name: str
    rows: Iterator[Row]
    format: str
    text_only: bool = False


def repeated(names: Iterable[str]) -> str | None:
    """The first of the names that occur more than once."""
    return next((name for name, times in Counter(names).items() if times > 1), None)


def read_parquet(path: Path, needs: Needs) -> Rows:
    """Rows of a Parquet file, a batch at a time."""
    return Rows(path.name, _parquet(path, needs), "Parquet")


def _parquet(path: Path, needs: Needs) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet as parquet

    broken = (pyarrow.ArrowException, OSError, ValueError, OverflowError)
    fix = "copy or download the file again"
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        batches = file.iter_batches(batch_size=1024)
    except broken as error:
        raise DataError(f"cannot be read as Parquet: {error}", file=path.name, fix=fix) from error
    if (twice := repeated(names)) is not None:
        raise DataError("occurs twice", file=path.name, field=twice, fix="rename one of the two columns")
    needs(names, Place(path.name, None))
    numbers = count(1)
    while True:
        try:
            batch = next(batches, None)
            rows = None if batch is None else batch.to_pylist()
        except broken as error:
            raise DataError(f"cannot be read as Parquet: {error}", file=path.name, fix=fix) from error
        if rows is None:
            return
        yield from ((number, row) for row, number in zip(rows, numbers, strict=False))


def read_folder(path: Path, split: str | None, needs: Needs) -> Rows:
    """Rows of a folder that ``Dataset.save_to_disk`` made."""
    names = {p.name for p in path.iterdir()}
    if not names & {"dataset_info.json", "dataset_dict.json", "state.json"}:
        files = sorted(name for name in names if name.endswith((*EXTENSIONS, ".gz")))
        fix = "give the file itself" if files else "give a folder that Dataset.save_to_disk made, or a file"
        raise DataError("is not a datasets folder", file=path.name, value=files or sorted(names), fix=fix)
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:
        fix = "save it again with Dataset.save_to_disk"
        raise DataError(f"cannot be read as a datasets folder: {error}", file=path.name, fix=fix) from error
    return _dataset_rows(data, path.name, split, needs)


def read_hub(name: str, split: str | None, needs: Needs) -> Rows:
    """Rows of a data set on the Hugging Face Hub."""
    import datasets

    try:
        data = datasets.load_dataset(name)
    except Exception as error:
        problem = ("is no file here, and cannot be had from the Hugging Face Hub "
                   f"({type(error).__name__}: {error})")
        fix = "check path, id and network, or fetch a file of the data set yourself and give its path"
        raise DataError(problem, file=name, fix=fix) from error
    return _dataset_rows(data, name, split, needs)


def _dataset_rows(data: Any, name: str, split: str | None, needs: Needs) -> Rows:
    if isinstance(data, Mapping):
        split = split or "train"
        if split not in data:
            fix = (f"use one of {list(data)}; where a file is named, put it behind a colon, as in "
                   f"{name}:{next(iter(data), 'train')}")
            raise DataError("has no such split", file=name, field="split", value=split, fix=fix)
        data = data[split]
    elif split is not None:
        raise DataError("has no splits", file=name, field="split", value=split, fix="leave split out")
    needs(data.column_names, Place(name, None))
    form = "data set" if split is None else f"data set, split {split!r}"
    return Rows(name, enumerate(data, start=1), form)
