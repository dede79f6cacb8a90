"""From files to rows: every reader yields ``(row number, mapping or DataError)``.

A yielded DataError concerns one row and may be skipped; a raised one concerns the whole file. Row numbers are
line numbers for JSON lines and CSV, and count rows from 1 otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf_lite.data.files.fields import Place, require_columns
from rlhf_lite.data.files.text_readers import Row, first_character, read_csv, read_json_lines, read_json_list
from rlhf_lite.errors import DataError

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read_rows(source: str | Path, *, split: str | None = None) -> Iterator[Row]:
    """Rows of a preference file, a ``datasets`` folder or a Hub data set.

    Args:
        source: a path, or a Hub id such as ``Anthropic/hh-rlhf``.
        split: for data sets only; ``train`` by default.

    Raises:
        DataError: the source as a whole cannot be read.
    """
    path = Path(source).expanduser()
    name = path.name or str(path)
    if path.is_dir():
        return _dataset_folder(path, split)
    if not path.exists():
        if _HUB_ID.fullmatch(str(source)) and not str(source).endswith((*EXTENSIONS, ".gz")):
            return _hub(str(source), split)
        raise DataError("does not exist", file=str(source), fix="check the path")
    if split is not None:
        fix = "leave split out, or give a data set folder or Hub id"
        raise DataError("is a single file and has no splits", file=name, field="split", value=split, fix=fix)
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    kind = kind.lower()
    if kind not in EXTENSIONS or (kind == ".parquet" and path.suffix == ".gz"):
        known = ", ".join(EXTENSIONS)
        fix = f"use one of {known} (text formats also with .gz), a datasets folder or a Hub id"
        raise DataError("has an unknown extension", file=name, value="".join(path.suffixes[-2:]), fix=fix)
    if path.stat().st_size == 0:
        raise DataError("is empty (0 bytes)", file=name, fix="check how the file was made or copied")
    if kind == ".parquet":
        return _parquet(path)
    if kind in (".csv", ".tsv"):
        return read_csv(path, "," if kind == ".csv" else "\t")
    if kind == ".json" and first_character(path) == b"[":
        return read_json_list(path)
    return read_json_lines(path)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
        require_columns(dict.fromkeys(file.schema_arrow.names), Place(path.name, None))
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        fix = "copy or download the file again"
        raise DataError(f"cannot be read as Parquet: {error}", file=path.name, fix=fix) from error


def _dataset_folder(path: Path, split: str | None) -> Iterator[Row]:
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
    return _dataset_rows(data, path.name, split)


def _hub(name: str, split: str | None) -> Iterator[Row]:
    import datasets

    try:
        data = datasets.load_dataset(name)
    except Exception as error:
        problem = (
            f"is no file here, and cannot be had from the Hugging Face Hub ({type(error).__name__}: {error})"
        )
        fix = "check path, id and network, or fetch a file of the data set yourself and give its path"
        raise DataError(problem, file=name, fix=fix) from error
    return _dataset_rows(data, name, split)


def _dataset_rows(data: Any, name: str, split: str | None) -> Iterator[Row]:
    if isinstance(data, Mapping):
        split = split or "train"
        if split not in data:
            fix = f"use one of {list(data)}"
            raise DataError("has no such split", file=name, field="split", value=split, fix=fix)
        data = data[split]
    elif split is not None:
        raise DataError("has no splits", file=name, field="split", value=split, fix="leave split out")
    require_columns(dict.fromkeys(data.column_names), Place(name, None))
    return enumerate(data, start=1)
