"""Exercise: what share of the test pairs leaks?"""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

Pairs = Sequence[tuple[str, str]]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _leaked_share(train: Pairs, test: Pairs) -> float:
    if not test:
        return 0.0
    known = {_plain(text) for pair in train for text in pair}
    return sum(any(_plain(text) in known for text in pair) for pair in test) / len(test)


def _mean(flags: list[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


def _same_pair(train: Pairs, test: Pairs) -> float:
    known = {frozenset(map(_plain, pair)) for pair in train}
    return _mean([frozenset(map(_plain, pair)) in known for pair in test])


def _same_side(train: Pairs, test: Pairs) -> float:
    chosen, rejected = ({_plain(pair[side]) for pair in train} for side in (0, 1))
    return _mean([_plain(c) in chosen or _plain(r) in rejected for c, r in test])


def _chosen_only(train: Pairs, test: Pairs) -> float:
    known = {_plain(chosen) for chosen, _ in train}
    return _mean([_plain(chosen) in known for chosen, _ in test])


def _both(train: Pairs, test: Pairs) -> float:
    known = {_plain(text) for pair in train for text in pair}
    return _mean([all(_plain(text) in known for text in pair) for pair in test])


def _exact(train: Pairs, test: Pairs) -> float:
    known = {text for pair in train for text in pair}
    return _mean([any(text in known for text in pair) for pair in test])


def _of_texts(train: Pairs, test: Pairs) -> float:
    known = {_plain(text) for pair in train for text in pair}
    return _mean([_plain(text) in known for pair in test for text in pair])


def _of_train(train: Pairs, test: Pairs) -> float:
    known = {_plain(text) for pair in test for text in pair}
    return _mean([any(_plain(text) in known for text in pair) for pair in train])


def _divides_by_zero(train: Pairs, test: Pairs) -> float:
    known = {_plain(text) for pair in train for text in pair}
    return sum(any(_plain(text) in known for text in pair) for pair in test) / len(test)


def _case(title: str, train: Pairs, test: Pairs, expected: float, hint: str) -> Case:
    return Case(title, lambda: (list(train), list(test)), expected, hint)


LEAKED_SHARE = Exercise(
    name="leaked_share",
    title="What share of the test pairs leaks?",
    chapter="02_human_feedback",
    difficulty="easy",
    minutes=10,
    cases=(
        _case(
            "one text in common",
            [("a joy", "a mess"), ("a gem", "a bore")],
            [("a joy", "so dull"), ("so clever", "so slow")],
            0.5,
            "The first test pair holds a text of the training pairs, the second does not: one of two.",
        ),
        _case(
            "a text that changes sides",  # "a mess" was rejected and is now chosen
            [("a joy", "a mess")],
            [("a mess", "so dull"), ("so clever", "a joy"), ("fine", "slow"), ("warm", "cold")],
            0.5,
            "It does not matter whether a text was chosen or rejected: the model has seen it.",
        ),
        _case(
            "case and spaces",
            [("A Joy", "a  mess")],
            [("a joy", "so dull"), ("a mess ", "slow"), ("a joyride", "messy")],
            2 / 3,
            "Compare texts without case and with single spaces: ' '.join(text.casefold().split()).",
        ),
        _case(
            "both texts known",  # from two training pairs; the test pair counts once
            [("a joy", "a mess"), ("a gem", "a bore")],
            [("a joy", "a bore"), ("warm", "cold")],
            0.5,
            "Count pairs. A pair of which both texts are known is one leaked pair.",
        ),
        _case(
            "a text that was rejected in both",
            [("a joy", "a mess")],
            [("warm", "a mess"), ("fine", "slow")],
            0.5,
            "The rejected texts are read by the model as well.",
        ),
        _case(
            "no test pairs",
            [("a joy", "a mess")],
            [],
            0.0,
            "Without a test pair nothing leaks: return 0 instead of dividing by zero.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "only whole pairs",
            _same_pair,
            "You look for the same pair in both lists. One text in common is enough: a model that "
            "remembers it "
            "half knows the answer.",
        ),
        WrongAnswer(
            "only texts on the same side",
            _same_side,
            "You compare chosen with chosen and rejected with rejected. A text that changes sides leaks too.",
        ),
        WrongAnswer(
            "only the chosen texts",
            _chosen_only,
            "You look at the chosen texts only. The rejected ones are read by the model as well.",
        ),
        WrongAnswer(
            "both texts have to be known",
            _both,
            "You ask for both texts to be known. One is enough.",
        ),
        WrongAnswer(
            "exact comparison",
            _exact,
            "You compare texts letter by letter. 'A Joy' and 'a joy' are the same text for this purpose.",
        ),
        WrongAnswer(
            "a share of texts",
            _of_texts,
            "You return the share of texts. The exercise asks for the share of test pairs.",
        ),
        WrongAnswer(
            "a share of the training pairs",
            _of_train,
            "You return the share of training pairs that meet a test text. What matters is how much of the "
            "test "
            "can be trusted: divide by the number of test pairs.",
        ),
        WrongAnswer(
            "no test pairs forgotten",
            _divides_by_zero,
            "The rule is right, but an empty test set divides by zero. Return 0 for it.",
        ),
    ),
    solution=_leaked_share,
    praise="Run it on every split that somebody hands you, before you train.",
)
