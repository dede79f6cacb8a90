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
from rlhf_lite.data.files.cells import Place
from rlhf_lite.types import Rating

# The files print means with 9 to 12 digits.
_MEAN_TOLERANCE = 1e-6
_REPAIR = "delete the folder, so that the ratings are unpacked again, or run `rlhf-lite doctor`"
Line = tuple[Place, list[str]]


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


SOURCES = {"movie": Source("movieReviewSnippets", 10605),
           "product": Source("amazonReviewSnippets", 3708),
           "editorial": Source("nytEditorialSnippets", 5190),
           "tweets": Source("tweets", 4200, text_file_mean=False)}


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
        both = Place(f"{text_file.name} and {rater_file.name}", None)
        problem = f"{len(stray)} ids are in only one of the two files"
        raise both.error(problem, _REPAIR, field="id", value=stray[:5])
    return [_join(name, key, texts[key], raters[key]) for key in texts]


def _read_table(path: Path, columns: int) -> dict[str, Line]:
    """Lines of a tab-separated file by their id."""
    lines: dict[str, Line] = {}
    # utf-8-sig: one of the files starts with a byte order mark, which would become part of its first id.
    text = path.read_text(encoding="utf-8-sig")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = Place(path.name, number)
        key, *fields = (part.strip() for part in line.split("\t", columns - 1))
        if len(fields) != columns - 1:
            problem = f"has {len(fields) + 1} tab-separated fields, expected {columns}"
            raise place.error(problem, _REPAIR, value=line)
        if key in lines:
            raise place.error("occurs twice", _REPAIR, field="id", value=key)
        lines[key] = (place, fields)
    return lines


def _join(name: str, key: str, text_line: Line, rater_line: Line) -> Rating:
    """One rating from its two lines, with the stated means checked against the raters."""
    text_place, (mean_beside_text, text) = text_line
    rater_place, (stated_mean, _, listed) = rater_line
    try:
        scores = json.loads(listed)
        if not scores or any(type(s) is not int or not -4 <= s <= 4 for s in scores):
            raise ValueError
        rating = Rating(id=key, text=text, ratings=tuple(scores), source=name)
    except (ValueError, TypeError) as error:
        problem = "is not a list of whole numbers from -4 to 4"
        raise rater_place.error(problem, _REPAIR, field="ratings", value=listed) from error
    checks = [(rater_place, stated_mean)]
    if SOURCES[name].text_file_mean:
        checks.append((text_place, mean_beside_text))
    for place, number in checks:
        try:
            right = abs(float(number) - rating.mean) <= _MEAN_TOLERANCE
        except ValueError:
            right = False
        if not right:
            problem = f"is not the mean of the {rating.n} raters, {rating.mean:.6f}"
            raise place.error(problem, _REPAIR, field="mean", value=number)
    return rating
