"""Whatever a file holds: an error of the package that names the file, or its rows, and no row lost."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rlhf_lite.data.files.columns import ANSWERS, PROMPTS, RATINGS, SCORES, SYSTEMS
from rlhf_lite.data.files.kinds import EXTENSIONS
from rlhf_lite.data.files.readers import read_rows
from rlhf_lite.data.files.schema import load_preferences, preferences_from_rows
from rlhf_lite.errors import DataError
from rlhf_lite.evaluation.prompts import read_prompts

quiet = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100,
                 derandomize=True)
ENDINGS = [*EXTENSIONS, *(f"{ending}.gz" for ending in EXTENSIONS), ".txt", ".txt.gz", ".gz", ""]
OTHERS = ("margin", "meta", "history", "other")
NAMES = sorted({*sum(ANSWERS, ()), *PROMPTS, *SYSTEMS, *RATINGS, *SCORES, *OTHERS})
TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "System", "tool"]),
                              "content": st.sampled_from(["Hi", "Hello there", "", "a\u2028b"])})
TURNS = st.lists(TURN, max_size=3)
samples = ["", " ", "Good?", "a b c d", "a b e", "\n\nHuman: q\n\nAssistant: a", "[{'role': 'x', 'content'",
           "\n\nHuman: q\n\nAssistant:", "\ud83d", "字" * 9]
texts = st.sampled_from(samples) | st.text(max_size=6)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**400) | texts
values = (texts | scalars | TURNS | TURNS.map(json.dumps) | TURNS.map(str) | TURN
          | st.fixed_dictionaries({"messages": TURNS}) | st.lists(st.lists(texts, max_size=2), max_size=2)
          | st.recursive(scalars, lambda inner: st.lists(inner, max_size=2), max_leaves=3))
answered = st.fixed_dictionaries({"chosen": values, "rejected": values})
some = st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
rows = st.builds(lambda a, b, c: {**(a or {}), **b, **c}, st.none() | answered, some,
                 st.dictionaries(st.text(max_size=4), values, max_size=1))
GOOD = [{"prompt": f"Film {i}", "chosen": " is good", "rejected": ' is "bad",\nor so', "margin": 1.0}
        for i in range(4)]


def handled(path: Path) -> None:
    """Both doors, errors raised and skipped: rows or a DataError that names the file; no row is lost."""
    for on_error in ("raise", "skip"):
        for read in (load_preferences, lambda *a, **k: read_prompts(str(a[0]), chat=True, **k)):
            try:
                found = read(path, on_error=on_error)
            except DataError as error:
                assert path.name in str(error) and error.fix
                str(error).encode("utf-8")
                continue
            if read is load_preferences:
                report = found.report
                assert report.kept + len(report.skipped) == report.read == len(list(read_rows(path).rows))
                assert report.summary()


@quiet
@given(st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
       st.sampled_from(ENDINGS))
@example(b'{"chosen": "a", "rejected": "b"}', ".json")
@example(b"\x1f\x8b" + bytes(8), ".csv.gz")
@example(b"[" * 5000, ".json")
@example(b"3\n", ".json")
def test_bytes(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"p{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith(".gz") and len(content) % 2 else content)
    handled(path)


@quiet
@given(st.lists(rows, min_size=1, max_size=3),
       st.sampled_from([".jsonl", ".json", "-lines.json", ".ndjson.gz"]))
def test_json_rows_of_any_type(tmp_path: Path, table: list[dict[str, Any]], ending: str) -> None:
    path = tmp_path / f"p{ending}"
    text = json.dumps(table) if ending == ".json" else "\n".join(map(json.dumps, table))
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    handled(path)
    try:
        data = preferences_from_rows(table, on_error="skip")
    except DataError:
        return
    assert data.report.kept + len(data.report.skipped) == len(table)


@quiet
@given(st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz"]),
       st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 3)), max_size=3))
def test_good_files_with_some_bytes_changed(tmp_path: Path, ending: str, changes: list[Any]) -> None:
    content = bytearray(good(ending))
    for place, byte, length in changes:
        at = place % len(content)
        content[at : at + length] = bytes([byte] * (length % 2 + 1))
    path = tmp_path / f"p{ending}"
    path.write_bytes(bytes(content))
    handled(path)
    if not changes:
        assert len(load_preferences(path)) == len(GOOD)


def good(ending: str) -> bytes:
    """A file of four good rows."""
    if ending == ".parquet":
        import pyarrow
        import pyarrow.parquet

        sink = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(GOOD), sink)
        return sink.getvalue()
    if ending in (".csv", ".tsv"):
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, list(GOOD[0]), delimiter="\t" if ending == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(GOOD)
        return out.getvalue().encode()
    text = json.dumps(GOOD, indent=1) if ending == ".json" else "\n".join(map(json.dumps, GOOD))
    return gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode()


@pytest.mark.parametrize("start", ["", "[{'role': 'user', 'content': ", '[{"role": "user", "content": '])
def test_deep_cells_are_no_traceback(start: str) -> None:
    with pytest.raises(DataError):
        preferences_from_rows([{"chosen": start + "[" * 9000, "rejected": start + "[" * 9000}])
