"""Exercise: may this revision be learned from?"""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _words(text: str) -> list[str]:
    import re

    return re.findall(r"[a-z']+", text.lower())


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def _keep_revision(before: str, after: str, shown: Sequence[str]) -> str:
    words = _words(after)
    if not words:
        return "empty"
    if words == _words(before):
        return "unchanged"
    if any(_jaccard(set(words), set(_words(text))) >= 0.8 for text in shown):
        return "copied"
    return "keep"


def _copied_first(before: str, after: str, shown: Sequence[str]) -> str:
    if any(_jaccard(set(_words(after)), set(_words(text))) >= 0.8 for text in shown):
        return "copied"
    return _keep_revision(before, after, shown)


def _with(rule):
    """The right rules for emptiness and change, and another one for copies."""

    def answer(before: str, after: str, shown: Sequence[str]) -> str:
        found = _keep_revision(before, after, [])
        return found if found != "keep" else ("copied" if rule(before, after, shown) else "keep")

    return answer


_by_string = _with(lambda before, after, shown: after in shown)
_one_word = _with(lambda before, after, shown: any({*_words(after)} & {*_words(t)} for t in shown))
_against_before = _with(lambda before, after, shown: _jaccard({*_words(after)}, {*_words(before)}) >= 0.8)
_never = _with(lambda before, after, shown: False)
_share = _with(
    lambda before, after, shown: any(
        len({*_words(after)} & {*_words(t)}) / len({*_words(after)}) >= 0.8 for t in shown
    )
)


def _string_change(before: str, after: str, shown: Sequence[str]) -> str:
    if after == before:
        return "unchanged"
    found = _keep_revision("", after, shown)
    return found


def _no_empty(before: str, after: str, shown: Sequence[str]) -> str:
    found = _keep_revision(before, after, shown)
    return "keep" if found == "empty" else found


_SHOWN = ("I did not like the song.", "I think this film is poorly made.", "The ending is weak.")


def _case(title: str, before: str, after: str, expected: str, hint: str) -> Case:
    return Case(title, lambda: (before, after, list(_SHOWN)), expected, hint)


# Likeness to "I did not like the song" (6 different words) is worked out beside each case.
KEEP_REVISION = Exercise(
    name="keep_revision",
    title="May this revision be learned from?",
    chapter="15_constitutional_ai",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "a good revision",  # "film" is shared with an example: 1 of 11 words
            "The film is rubbish, you fool.",
            "The film disappointed me.",
            "keep",
            "It is short, it has changed, and it shares only single words with the examples.",
        ),
        _case("no word at all", "You fool.", " ... ", "empty", "Dots are no words. Test this first."),
        _case(
            "nothing changed but the capitals",
            "What a silly hero!",
            "what a silly hero",
            "unchanged",
            "Compare the lists of words in small letters, so that dots and capitals do not count.",
        ),
        _case(
            "an example said again with one word more",  # 6 shared of 7: 0.857
            "The fans are sheep.",
            "I really did not like the song.",
            "copied",
            "Six of the seven different words are those of an example: likeness 6/7.",
        ),
        _case(
            "an example copied letter by letter",
            "The fans are sheep.",
            "I did not like the song.",
            "copied",
            "The likeness to an example is one.",
        ),
        _case(
            "a short text made of an example's words",  # 4 shared of 6: 0.667
            "I hate that song, you hacks.",
            "I like the song.",
            "keep",
            "All its words are in one example, but the example has six: likeness 4/6, below the limit.",
        ),
        _case(
            "a text that was an example to begin with",
            "The ending is weak.",
            "The ending is weak!",
            "unchanged",
            "Ask whether anything changed before you ask whether an example was copied.",
        ),
        _case(
            "one word taken out",  # likeness to the text before is 5 of 6, and that is what is wanted
            "The brainless hero bored me badly.",
            "The hero bored me badly.",
            "keep",
            "A revision should be like the text before. Copying means: like an example.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "copies found letter by letter",
            _by_string,
            "You look for an exact copy. A small model copies an example and changes a word.",
        ),
        WrongAnswer(
            "one common word is a copy",
            _one_word,
            "You call it a copy as soon as one word is shared. All texts here speak of films: nothing "
            "would be left.",
        ),
        WrongAnswer(
            "like the text before",
            _against_before,
            "You compared with the text before. A revision ought to be like that one; what it must not be "
            "like are the examples.",
        ),
        WrongAnswer(
            "no look at the examples",
            _never,
            "You never look at the examples. Copies of polite examples are polite, so no judge of tone "
            "would notice either.",
        ),
        WrongAnswer(
            "a share of the revision's words",
            _share,
            "You divide by the words of the revision alone. Divide by all different words of both texts "
            "(Jaccard), or each short text counts as a copy.",
        ),
        WrongAnswer(
            "change found letter by letter",
            _string_change,
            "You compare strings. A different dot or capital is no revision.",
        ),
        WrongAnswer(
            "copies before changes",
            _copied_first,
            "You ask about copies first. A text that was like an example before has simply not changed.",
        ),
        WrongAnswer(
            "empty texts kept",
            _no_empty,
            "You keep empty revisions. They offend nobody, and a policy that learns them says nothing.",
        ),
    ),
    solution=_keep_revision,
    praise="A filter like this stands in front of every data set that a model wrote for itself.",
)
