"""Exercise: how alike are two texts?"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _grams(text: str, n: int) -> list[str]:
    plain = " ".join(text.casefold().split())
    return [plain[i : i + n] for i in range(max(len(plain) - n, 0) + 1)]


def _jaccard_similarity(a: str, b: str, n: int) -> float:
    one, other = set(_grams(a, n)), set(_grams(b, n))
    return len(one & other) / len(one | other)


def _dice(a: str, b: str, n: int) -> float:
    one, other = set(_grams(a, n)), set(_grams(b, n))
    return 2 * len(one & other) / (len(one) + len(other))


def _containment(a: str, b: str, n: int) -> float:
    one, other = set(_grams(a, n)), set(_grams(b, n))
    return len(one & other) / min(len(one), len(other))


def _of_the_first(a: str, b: str, n: int) -> float:
    one, other = set(_grams(a, n)), set(_grams(b, n))
    return len(one & other) / len(one)


def _lists(a: str, b: str, n: int) -> float:
    one, other = _grams(a, n), _grams(b, n)
    return sum(gram in other for gram in one) / len(set(one) | set(other))


def _words(a: str, b: str, n: int) -> float:
    one, other = set(a.casefold().split()), set(b.casefold().split())
    return len(one & other) / len(one | other)


def _case_kept(a: str, b: str, n: int) -> float:
    one, other = ({t[i : i + n] for i in range(max(len(t) - n, 0) + 1)} for t in (a, b))
    return len(one & other) / len(one | other)


def _last_missing(a: str, b: str, n: int) -> float:
    one, other = set(_grams(a, n)[:-1]), set(_grams(b, n)[:-1])
    return len(one & other) / len(one | other)


def _short_lost(a: str, b: str, n: int) -> float:
    one, other = ({g for g in _grams(t, n) if len(g) == n} for t in (a, b))
    return len(one & other) / len(one | other)


def _case(title: str, a: str, b: str, n: int, expected: float, hint: str) -> Case:
    return Case(title, lambda: (a, b, n), expected, hint)


JACCARD_SIMILARITY = Exercise(
    name="jaccard_similarity",
    title="How alike are two texts?",
    chapter="02_human_feedback",
    difficulty="easy",
    minutes=10,
    cases=(
        _case(
            "one letter changed",  # abc bcd cde / abc bcd cdx: 2 of 4
            "abcde",
            "abcdx",
            3,
            0.5,
            "'abcde' has the runs abc, bcd and cde. Two of them are shared; the union has four.",
        ),
        _case(
            "different case and spaces",  # both become "a joy"
            "A  Joy",
            "a joy",
            3,
            1.0,
            "Take case and double spaces off first: ' '.join(text.casefold().split()).",
        ),
        _case(
            "a run that occurs twice",  # ab ba / ab bc: 1 of 3
            "abab",
            "abc",
            2,
            1 / 3,
            "A set holds each run once: 'abab' has the runs ab and ba.",
        ),
        _case(
            "one text inside the other",  # abc bcd / abc bcd cde def: 2 of 4
            "abcd",
            "abcdef",
            3,
            0.5,
            "Divide by the size of the union, so that a short piece of a long text is not called a copy.",
        ),
        _case(
            "a long text first",  # abc bcd cde def / abc bcd cdx: 2 of 5
            "abcdef",
            "abcdx",
            3,
            0.4,
            "Divide by the size of the union: four runs and three runs, two of them shared, make five.",
        ),
        _case(
            "a text shorter than n",  # {ab} / {abc, bcd}: nothing shared
            "ab",
            "abcd",
            3,
            0.0,
            "A text shorter than n is its own only run; that must not fail.",
        ),
        _case(
            "two equal texts shorter than n",
            "ab",
            "AB",
            3,
            1.0,
            "A text shorter than n is its own only run, so two equal short texts are alike.",
        ),
        _case(
            "the same letters in another order",  # abc / cba
            "abc",
            "cba",
            3,
            0.0,
            "Compare runs of n characters, not single letters.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the Dice coefficient",
            _dice,
            "You divide twice the intersection by the sum of the two sizes: that is the Dice coefficient. "
            "Jaccard "
            "divides the intersection by the union.",
        ),
        WrongAnswer(
            "divided by the smaller set",
            _containment,
            "You divide by the smaller set, so every text is a copy of any longer text that holds it. "
            "Divide by "
            "the union.",
        ),
        WrongAnswer(
            "divided by the first set",
            _of_the_first,
            "You divide by the first set. Then the answer changes when the texts are swapped. Divide by the "
            "union.",
        ),
        WrongAnswer(
            "lists instead of sets",
            _lists,
            "You count a run as often as it occurs. Use sets.",
        ),
        WrongAnswer(
            "words instead of characters",
            _words,
            "You compare words. One wrong letter then makes a whole word new. Compare runs of n characters.",
        ),
        WrongAnswer(
            "case and spaces kept",
            _case_kept,
            "You compare the texts as they are. Take case and double spaces off first.",
        ),
        WrongAnswer(
            "the last run missing",
            _last_missing,
            "Your loop ends one run too early. A text of length L has L - n + 1 runs of length n.",
        ),
        WrongAnswer(
            "short texts lost",
            _short_lost,
            "A text shorter than n has no run in your function, and two of them divide by zero. Let a "
            "short text "
            "be its own only run.",
        ),
    ),
    solution=_jaccard_similarity,
    praise="With runs of five characters and a threshold, this finds the near copies of a data set.",
)
