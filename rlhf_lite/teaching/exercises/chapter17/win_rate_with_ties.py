"""Exercise: a win rate in which a tie counts one half."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

Scores = list[float]


def _counted(a: Scores, b: Scores, tie: Callable[[float], bool]) -> tuple[int, int, int]:
    """Wins, ties, losses."""
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    ties = sum(tie(gap) for gap in gaps)
    wins = sum(gap > 0 and not tie(gap) for gap in gaps)
    return wins, ties, len(gaps) - wins - ties


def _within(margin: float) -> Callable[[float], bool]:
    return lambda gap: abs(gap) <= margin


def _win_rate_with_ties(first: Scores, second: Scores, margin: float) -> float:
    wins, ties, losses = _counted(first, second, _within(margin))
    return (wins + ties / 2) / (wins + ties + losses)


def _ties_dropped(first: Scores, second: Scores, margin: float) -> float:
    wins, _, losses = _counted(first, second, _within(margin))
    return wins / (wins + losses)


def _ties_lost(first: Scores, second: Scores, margin: float) -> float:
    return _counted(first, second, _within(margin))[0] / len(first)


def _ties_won(first: Scores, second: Scores, margin: float) -> float:
    wins, ties, _ = _counted(first, second, _within(margin))
    return (wins + ties) / len(first)


def _strict(first: Scores, second: Scores, margin: float) -> float:
    wins, ties, _ = _counted(first, second, lambda gap: abs(gap) < margin)
    return (wins + ties / 2) / len(first)


def _net(first: Scores, second: Scores, margin: float) -> float:
    wins, _, losses = _counted(first, second, _within(margin))
    return (wins - losses) / len(first)


def _case(title: str, a: Scores, b: Scores, margin: float, expected: float, hint: str) -> Case:
    return Case(title, lambda: (list(a), list(b), margin), expected, hint)


WIN_RATE_WITH_TIES = Exercise(
    name="win_rate_with_ties",
    title="A win rate in which a tie counts one half",
    chapter="17_evaluation",
    difficulty="easy",
    minutes=5,
    cases=(
        _case(
            "no ties", [2.0, 0.0, 1.0, 5.0], [1.0, 1.0, 0.0, 3.0], 0.0, 0.75,  # won, lost, won, won
            "Three of the four scores are higher.",
        ),
        _case(
            "two equal scores",  # won, tied, tied, won, lost: (2 + 1) / 5
            [1.0, 2.0, 3.0, 5.0, 1.0], [0.0, 2.0, 3.0, 4.0, 2.0], 0.0, 0.6,
            "Two wins, two ties, one loss: each tie counts one half, and every comparison counts in n.",
        ),
        _case(
            "a margin",  # gaps +0.25 (tie), +0.5 (tie: exactly the margin), +2, -3, +1, +0.75: (3 + 1) / 6
            [1.25, 1.5, 3.0, 0.0, 2.0, 1.75], [1.0, 1.0, 1.0, 3.0, 1.0, 1.0], 0.5, 2 / 3,
            "A difference of up to the margin is a tie, one of exactly the margin too.",
        ),
        _case(
            "more losses than wins",  # gaps -1, -2, +1, 0 (tie): (1 + 0.5) / 4
            [0.0, 0.0, 3.0, 1.0], [1.0, 2.0, 2.0, 1.0], 0.0, 0.375,
            "A win rate lies between 0 and 1, and one half means equally good.",
        ),
    ),
    wrong_answers=(
        WrongAnswer("ties dropped", _ties_dropped,
                    "You leave ties out of the count. A policy that wins once and ties 99 times would "
                    "then have a win rate of one. A tie is half a win."),
        WrongAnswer("ties as losses", _ties_lost,
                    "You count a tie as a loss. Then the rates of both policies do not add up to one: "
                    "whoever is named first is at a disadvantage."),
        WrongAnswer("ties as wins", _ties_won,
                    "You count a tie as a whole win. Then both policies could win everything at once."),
        WrongAnswer("the margin ignored", lambda a, b, m: _win_rate_with_ties(a, b, 0.0),
                    "You do not use the margin: differences of up to it are ties."),
        WrongAnswer("a strict margin", _strict,
                    "You call a difference of exactly the margin a win or a loss. With margin 0 even "
                    "equal scores would then be no tie. Use <=."),
        WrongAnswer("the second policy's rate", lambda a, b, m: 1 - _win_rate_with_ties(a, b, m),
                    "That is how often the second policy wins. The rate of the first one was asked for."),
        WrongAnswer("wins minus losses", _net,
                    "You return wins minus losses. That lies between -1 and 1 and is called the net win "
                    "rate; half of it plus one half is the win rate."),
    ),
    solution=_win_rate_with_ties,
    praise="Swap the two policies, and the two rates add up to one: that is what the half is for.",
)  # fmt: skip
