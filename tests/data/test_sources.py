"""The human ratings: a small copy of the file format with every oddity, and the real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_lite.data import sources
from rlhf_lite.data.assets.ensure import ensure_ratings
from rlhf_lite.data.sources import SOURCES, load_ratings
from rlhf_lite.errors import DataError

TEXTS = "1_1\t1.5\tgood &amp; cheap \r\n1_2\t-2\tna\u00efve\r\n"
RATERS = "1_1\t1.5\t0.5\t[1, 2]\r\n1_2\t-2.0\t0\t[-2, -2]\r\n"


def write(folder: Path, texts: str | bytes = TEXTS, raters: str | bytes = RATERS) -> Path:
    for name, content in (("GroundTruth", texts), ("anonDataRatings", raters)):
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / f"amazonReviewSnippets_{name}.txt").write_bytes(raw)
    return folder


def test_reads_bom_crlf_and_keeps_entities(tmp_path: Path) -> None:
    ratings = load_ratings("product", folder=write(tmp_path, raters=b"\xef\xbb\xbf" + RATERS.encode()))
    assert [(r.id, r.text, r.ratings, r.source) for r in ratings] == [
        ("1_1", "good &amp; cheap", (1, 2), "product"),
        ("1_2", "na\u00efve", (-2, -2), "product"),
    ]


@pytest.mark.parametrize(
    ("texts", "raters", "row", "field", "value"),
    [
        (TEXTS, RATERS.replace("[1, 2]", "[1, 3]"), 1, "mean", "'1.5'"),
        (TEXTS.replace("\t-2\t", "\t-1\t"), RATERS, 2, "mean", "'-1'"),
        (TEXTS, RATERS.replace("[1, 2]", "[1, 5, -4, 4]"), 1, "ratings", "'[1, 5, -4, 4]'"),
        (TEXTS, RATERS.replace("[1, 2]", "[1, 2.0]"), 1, "ratings", "'[1, 2.0]'"),
        (TEXTS, RATERS.replace("[1, 2]", "[]"), 1, "ratings", "'[]'"),
        (TEXTS, RATERS.replace("[1, 2]", "1, 2"), 1, "ratings", "'1, 2'"),
        (TEXTS + "1_2\t-2\tagain\r\n", RATERS, 3, "id", "'1_2'"),
        (TEXTS + "1_3\t0\tno raters\r\n", RATERS, None, "id", "['1_3']"),
        (TEXTS + "1_3\r\n", RATERS, 3, None, "'1_3'"),
    ],
)
def test_bad_lines_are_named(
    tmp_path: Path, texts: str, raters: str, row: int | None, field: str | None, value: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_ratings("product", folder=write(tmp_path, texts, raters))
    error = caught.value
    assert (error.row, error.field, error.value) == (row, field, value)
    assert "amazonReviewSnippets" in error.file and error.fix


def test_unknown_collection_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'books': choose one of movie, product, editorial, tweets"):
        load_ratings("books")


@pytest.mark.parametrize(
    ("name", "raters_min", "raters_max", "judgements"),
    # Counted in the published files.
    [
        ("movie", 15, 29, 198_810),
        ("product", 20, 20, 74_160),
        ("editorial", 20, 20, 103_800),
        ("tweets", 20, 99, 159_750),
    ],
)
def test_the_real_ratings(name: str, raters_min: int, raters_max: int, judgements: int) -> None:
    ratings = load_ratings(name)
    assert len(ratings) == SOURCES[name].count
    assert len({r.id for r in ratings}) == len(ratings)
    assert (min(r.n for r in ratings), max(r.n for r in ratings)) == (raters_min, raters_max)
    assert sum(r.n for r in ratings) == judgements
    assert all(r.text and r.text == r.text.strip() and "\ufeff" not in r.text + r.id for r in ratings)


def test_stated_standard_deviations_agree_with_ours() -> None:
    table = sources._read_table(ensure_ratings() / "movieReviewSnippets_anonDataRatings.txt", columns=4)
    ratings = load_ratings("movie")
    assert max(abs(float(table[r.id][1][1]) - r.std) for r in ratings) < 1e-5
