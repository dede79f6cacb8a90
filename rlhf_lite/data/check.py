"""What a preference file holds, before anything is trained on it: all that can be said without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lite.data.files.schema import LoadReport, PreferenceData
from rlhf_lite.data.pairs import normalised, text_keys
from rlhf_lite.types import Preference

# What spreadsheets and pandas write where there is no value, or no formula in spite of a "=" or "-" in front.
_NO_VALUE = {"nan", "none", "null", "<na>", "#n/a", "#name?", "#ref!", "#value!", "#div/0!"}
_REASONS, _PHRASES, _PHRASE_WORDS, _SPREAD = 5, 3, 2, 0.1


def check_preferences(data: PreferenceData) -> dict[str, Any]:
    """What the readers understood of a file, and what its rows are like; as JSON.

    Args:
        data: read with ``on_error="skip"``, so that broken rows are told and not raised.
    """
    pairs, first = data.records, data.records[0]
    return {"file": _file(data.report), "rows": _rows(data.report),
            "example": {"prompt": first.prompt, "chosen": first.chosen, "rejected": first.rejected},
            "characters": lengths(pairs, lambda texts: [len(text) for text in texts]),
            "repeats": repeats(pairs), "openings": openings(pairs)}


def _file(report: LoadReport) -> dict[str, Any]:
    return {"source": report.source, "format": report.format, "forms": dict(report.forms),
            "used": dict(report.used), "unused": list(report.unused), "notes": list(report.notes)}


def _rows(report: LoadReport) -> dict[str, Any]:
    """Rows read, kept and skipped; for the most common reasons their number and the first row's error."""
    reasons = Counter((error.field, error.problem) for error in report.skipped)
    first = {(error.field, error.problem): str(error) for error in reversed(report.skipped)}
    return {"read": report.read, "kept": report.kept, "skipped": len(report.skipped),
            "reasons": [{"rows": n, "first": first[reason]} for reason, n in reasons.most_common(_REASONS)],
            "other_reasons": max(0, len(reasons) - _REASONS)}


def lengths(pairs: Sequence[Preference], measure: Callable[[list[str]], Sequence[int]]) -> dict[str, Any]:
    """Median, 90th and 99th percentile and maximum of prompts and answers, by what ``measure`` counts."""
    found = {}
    for name in ("prompt", "chosen", "rejected"):
        values = np.array(measure([getattr(pair, name) for pair in pairs]))
        middle, high, highest = np.percentile(values, [50, 90, 99], method="inverted_cdf").tolist()
        found[name] = {"median": middle, "p90": high, "p99": highest, "longest": int(values.max())}
    return found


def repeats(pairs: Sequence[Preference]) -> dict[str, int]:
    """Rows that say what another one says, its opposite, or nothing, and rows that lack a space.

    Case and punctuation do not count.

    Returns:
        ``repeated``: rows beyond the first of each ordered pair of texts; ``both_ways``: pairs of texts of
        which either was called the better one, and ``both_ways_rows``; ``equal``: rows with two equal texts;
        ``tied``: rows with a margin of 0; ``no_value``: rows with an answer such as ``nan`` or ``#NAME?``;
        ``run_together``: rows with no white space between prompt and answer, other than conversations.
    """
    ways = Counter(map(text_keys, pairs))
    both = [way for way in ways if way[0] < way[1] and way[::-1] in ways]
    return {"repeated": ways.total() - len(ways), "both_ways": len(both),
            "both_ways_rows": sum(ways[way] + ways[way[::-1]] for way in both),
            "equal": sum(n for (chosen, rejected), n in ways.items() if chosen == rejected),
            "tied": sum(pair.margin == 0 for pair in pairs),
            "no_value": sum(not _NO_VALUE.isdisjoint((pair.chosen.strip().lower(),
                                                      pair.rejected.strip().lower())) for pair in pairs),
            "run_together": sum(pair.dialogue is None and bool(pair.prompt) and not (
                pair.prompt[-1].isspace() or pair.chosen[0].isspace()) for pair in pairs)}


def cues(pairs: Sequence[Preference]) -> dict[str, NDArray[np.float64]]:
    """What tells chosen from rejected without reading either: above 0 where it points to the chosen answer.

    Returns:
        ``[N]`` values each: by how many characters the chosen answer is longer, and 1 or -1 for the answer
        that comes first in alphabetical order (chance alone, unless the file was sorted into place).
    """
    return {"longer": np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs], dtype=float),
            "first_in_alphabet": np.array([float(pair.chosen < pair.rejected) -
                                           float(pair.chosen > pair.rejected) for pair in pairs])}


def openings(pairs: Sequence[Preference]) -> list[dict[str, Any]]:
    """First words that one kind of answer has much more often than the other, the widest gap first."""
    shares = []
    for name in ("chosen", "rejected"):
        words = (normalised(getattr(pair, name)).split()[:_PHRASE_WORDS] for pair in pairs)
        shares.append(Counter(map(" ".join, words)))
    gaps = [{"words": words, "chosen": shares[0][words] / len(pairs),
             "rejected": shares[1][words] / len(pairs)} for words in dict.fromkeys([*shares[0], *shares[1]])]
    wide = [gap for gap in gaps if abs(gap["chosen"] - gap["rejected"]) >= _SPREAD]
    return sorted(wide, key=lambda gap: -abs(gap["chosen"] - gap["rejected"]))[:_PHRASES]
