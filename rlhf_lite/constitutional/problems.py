"""What goes wrong with revisions of a small model: found by plain rules, so that it can be counted and shown.

The rules see words, not meaning: a revision that says the opposite in the same words passes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlhf_lite.constitutional.principles import Principle

EMPTY, UNCHANGED, COPIED = "empty", "unchanged", "copied example"
ECHO, LOOP, OFF_TOPIC = "critique again", "loop", "off topic"
PROBLEMS = (EMPTY, UNCHANGED, COPIED, ECHO, LOOP, OFF_TOPIC)
# These revisions are thrown away, and the text from before stays. One that left the subject is kept and
# counted: a small model does it often, and only a reader can tell whether it matters.
REFUSED = frozenset({EMPTY, COPIED, ECHO, LOOP})

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# One word for the subject, however it is called.
_SAME = dict.fromkeys(("movie", "movies", "films", "picture"), "film")
_EMPTY_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
        a an the and or but if so as at by for from in into of on to with about than then that this these
        those it its it's i i'm me my you you're your he his him she her they them their we our us who what
        which is are was were be been being am do does did don't not no just very too all any some one there
        here will would can could should have has had more most like think
        """,
    )
)
_LABELS = ("text:", "critique:", "better:", "beginning:", "answer:")


def _words(text: str) -> list[str]:
    return [_SAME.get(word, word) for word in _WORD.findall(text.lower())]


def _likeness(a: Sequence[str], b: Sequence[str]) -> float:
    """Jaccard likeness of two lists of words; 0 if both are empty."""
    return len({*a} & {*b}) / len({*a} | {*b}) if a or b else 0.0


def kept_words(before: str, after: str) -> float:
    """Share of the content words of ``before`` that ``after`` still has; 1 if ``before`` has none.

    A polite revision must lose the insults, so the best value is below 1; at 0 nothing of the text is left.
    """
    content = {*_words(before)} - _EMPTY_WORDS
    return len(content & {*_words(after)}) / len(content) if content else 1.0


def find_problem(principle: Principle, before: str, critique: str, revision: str) -> str:
    """The first of :data:`PROBLEMS` that a revision has, or an empty string.

    - ``empty``: no word;
    - ``unchanged``: the same words as before;
    - ``copied example``: nearly all words are those of a text that the principle's examples show;
    - ``critique again``: the critique, or another one, instead of a revision, or the form's own labels;
    - ``loop``: more than half of its words are repetitions;
    - ``off topic``: it shares no content word with the text.

    Args:
        principle: with the examples that were shown.
        before: the text to be revised.
        critique: of that text, or an empty string.
        revision: what the model wrote.
    """
    words = _words(revision)
    if not words:
        return EMPTY
    if words == _words(before):
        return UNCHANGED
    shown = [text for e in principle.examples for text in (e.before, e.after)]
    if any(_likeness(words, _words(text)) >= 0.8 for text in shown):
        return COPIED
    critiques = [e.critique for e in principle.examples]
    # "It calls ..." and "It insults ..." begin a critique; a revision speaks of the film.
    verbs = {tuple(_words(text)[:2]) for text in critiques}
    echoes = [critique, *critiques, principle.critique_request, principle.revision_request]
    if (
        tuple(words[:2]) in verbs
        or any(text and _likeness(words, _words(text)) >= 0.8 for text in echoes)
        or revision.lower().startswith(_LABELS)
    ):
        return ECHO
    if len(words) >= 6 and len({*words}) < len(words) / 2:
        return LOOP
    if kept_words(before, revision) == 0:
        return OFF_TOPIC
    return ""
