"""The human ratings of Hutto & Gilbert (2014): texts with the score that every single rater gave.

Source: C.J. Hutto and E. Gilbert (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text. ICWSM-14. Each text was scored from -4 (extremely negative) to +4 (extremely positive).

What was found in the files:

- Texts are given unchanged, except that surrounding white space is taken off. Some hold HTML entities
  (``&amp;`` in 162 tweets), and movie reviews hold runs of spaces where dashes were lost.
- For 199 tweets, the mean in ``tweets_GroundTruth.txt`` is not the mean of the published raters, while the
  one in ``tweets_anonDataRatings.txt`` is. ``Rating.mean`` always is the mean of the raters.
- A few texts occur twice with different raters (71 among the editorials). They stay, as two ratings; the
  splits of ``rlhf_lite.data.pairs`` keep them on the same side.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rlhf_lite.data.assets.ensure import ensure_ratings
from rlhf_lite.errors import DataError
from rlhf_lite.types import Rating

# The files print means with 9 to 12 digits.
_MEAN_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Source:
    """One of the four collections.

    Attributes:
        stem: start of its two file names.
        count: number of texts.
        text_file_mean: whether the mean printed beside the text is the raters' mean too.
    """

    stem: str
    count: int
    text_file_mean: bool = True


SOURCES = {
    "movie": Source("movieReviewSnippets", 10605),
    "product": Source("amazonReviewSnippets", 3708),
    "editorial": Source("nytEditorialSnippets", 5190),
    "tweets": Source("tweets", 4200, text_file_mean=False),
}


def load_ratings(name: str = "movie", *, folder: Path | None = None) -> list[Rating]:
    """Texts with their single ratings, in the files' order.

    Args:
        name: ``movie`` (10,605 snippets of film reviews, 15 to 29 raters each), ``product`` (3,708, 20
            raters), ``editorial`` (5,190, 20 raters) or ``tweets`` (4,200, 20 to 99 raters).
        folder: where the files are; the asset by default, fetched on first use.

    Raises:
        AssetError: the ratings are not in the cache and cannot be fetched.
        DataError: a line cannot be read, ids do not match, or a stated mean is not the mean of the raters.
        ValueError: there is no such collection.
    """
    if name not in SOURCES:
        raise ValueError(f"there are no ratings called {name!r}: choose one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    folder = ensure_ratings() if folder is None else Path(folder)
    text_file = folder / f"{source.stem}_GroundTruth.txt"
    rater_file = folder / f"{source.stem}_anonDataRatings.txt"
    texts = _read_table(text_file, columns=3)
    raters = _read_table(rater_file, columns=4)
    if texts.keys() != raters.keys():
        stray = sorted(texts.keys() ^ raters.keys())
        raise DataError(
            f"{len(stray)} ids are in only one of the two files",
            file=f"{text_file.name} and {rater_file.name}",
            field="id",
            value=stray[:5],
            fix=_REPAIR,
        )
    return [_join(name, key, texts[key], raters[key], text_file, rater_file) for key in texts]


_REPAIR = "delete the folder, so that the ratings are unpacked again, or run `rlhf-lite doctor`"


def _read_table(path: Path, columns: int) -> dict[str, tuple[int, list[str]]]:
    """Rows of a tab-separated file by their id: (line number, the other fields)."""
    rows: dict[str, tuple[int, list[str]]] = {}
    # utf-8-sig: one of the files starts with a byte order mark, which would become part of its first id.
    text = path.read_text(encoding="utf-8-sig")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.split("\t", columns - 1)
        if len(fields) != columns:
            problem = f"has {len(fields)} tab-separated fields, expected {columns}"
            raise DataError(problem, file=path.name, row=number, value=line, fix=_REPAIR)
        key = fields[0].strip()
        if key in rows:
            raise DataError("occurs twice", file=path.name, row=number, field="id", value=key, fix=_REPAIR)
        rows[key] = (number, [field.strip() for field in fields[1:]])
    return rows


def _join(
    name: str,
    key: str,
    text_row: tuple[int, list[str]],
    rater_row: tuple[int, list[str]],
    text_file: Path,
    rater_file: Path,
) -> Rating:
    """One rating from its two lines, with the stated means checked against the raters."""
    text_line, (stated_beside_text, text) = text_row
    rater_line, (stated, _, listed) = rater_row
    try:
        scores = json.loads(listed)
        if not scores or any(type(s) is not int or not -4 <= s <= 4 for s in scores):
            raise ValueError
        rating = Rating(id=key, text=text, ratings=tuple(scores), source=name)
    except (ValueError, TypeError) as error:
        problem = "is not a list of whole numbers from -4 to 4"
        raise DataError(
            problem, file=rater_file.name, row=rater_line, field="ratings", value=listed, fix=_REPAIR
        ) from error
    checks = [(rater_file, rater_line, stated)]
    if SOURCES[name].text_file_mean:
        checks.append((text_file, text_line, stated_beside_text))
    for file, line, number in checks:
        if not _close(number, rating.mean):
            problem = f"is not the mean of the {rating.n} raters, {rating.mean:.6f}"
            raise DataError(problem, file=file.name, row=line, field="mean", value=number, fix=_REPAIR)
    return rating


def _close(stated: str, mean: float) -> bool:
    try:
        return abs(float(stated) - mean) <= _MEAN_TOLERANCE
    except ValueError:  # no number: the caller names file, row and value
        return False
