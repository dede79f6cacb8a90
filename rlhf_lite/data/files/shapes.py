"""Files of preferences that name no better answer by column: what each row has to become.

To rename their columns would call the same side the better one in every row, whatever people said.

=====================================  ===============================================================
``response_0``, ``response_1`` ...     PKU-Alignment/PKU-SafeRLHF, stanfordnlp/SHP, lmsys/chatbot_arena,
                                       openai/webgpt_comparisons, nvidia/HelpSteer2's preferences
``answers``, ``completions`` ...       berkeley-nest/Nectar, openbmb/UltraFeedback, summarize_from_feedback
``response``, ``completion`` ...       nvidia/HelpSteer2, KTO's form in TRL, OpenAssistant/oasst1
=====================================  ===============================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_ANSWER = r"(response|answer|output|completion|conversation|message|generation|candidate|summary|text|ref)"
_SIDE = re.compile(rf"(.*{_ANSWER})_?(a|b|0|1|2)")
_SIDES = (("a", "b"), ("0", "1"), ("1", "2"))
_VERDICT = re.compile(r"(winner|.*better|safer|(preference(_strength)?|labels?|choice|score_[ab012]|rank)$)")
_LISTS = re.compile(rf"{_ANSWER}s|summaries|ranked.*")
_ROW = "write a row per pair, the better answer as 'chosen' and the other one as 'rejected', without ties"


def other_shape(names: Mapping[str, str]) -> str | None:
    """What to do with a file without ``chosen`` and ``rejected``; None if its form is not known.

    Args:
        names: plain name -> the column's own name.
    """
    by = ", ".join(repr(own) for plain, own in names.items() if _VERDICT.match(plain))
    by = f" (by {by})" if by else ""
    sides: dict[str, dict[str, str]] = {}
    for plain, own in names.items():
        if found := _SIDE.fullmatch(plain):
            sides.setdefault(found[1], {})[found[3]] = own
    for stem in sides.values():
        for one, other in _SIDES:
            if one in stem and other in stem:
                return (f"{_ROW}: which of {stem[one]!r} and {stem[other]!r} is better differs from row to "
                        f"row{by}, so do not rename them")
    for plain, own in names.items():
        if _LISTS.fullmatch(plain):
            return f"{_ROW}: {own!r} holds the answers of a row{by}"
    for plain, own in names.items():
        if re.fullmatch(_ANSWER, plain):
            return f"{_ROW}: a row holds one answer, {own!r}, so take two rows with the same prompt{by}"
    return None
