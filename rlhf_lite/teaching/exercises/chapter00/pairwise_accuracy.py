"""Exercise: how often is a reward model right?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _pairwise_accuracy(chosen_scores: Tensor, rejected_scores: Tensor) -> float:
    wins = (chosen_scores > rejected_scores).double()
    ties = (chosen_scores == rejected_scores).double()
    return float((wins + 0.5 * ties).mean())


def _score_case(title: str, chosen: list[float], rejected: list[float], expected: float, hint: str) -> Case:
    def inputs() -> tuple[Tensor, Tensor]:
        import torch

        return torch.tensor(chosen), torch.tensor(rejected)

    return Case(title, inputs, expected, hint)


PAIRWISE_ACCURACY = Exercise(
    name="pairwise_accuracy",
    title="How often is the reward model right?",
    chapter="00_quickstart",
    difficulty="easy",
    minutes=5,
    cases=(
        _score_case(
            "three pairs, two of them ordered as people ordered them",
            [2.0, 0.5, -1.0],
            [1.0, 1.5, -3.0],
            2 / 3,
            "Compare the two scores of each pair, and take the fraction of pairs where the chosen one is "
            "higher.",
        ),
        _score_case(
            "a tie",  # one win, one loss, two ties: (1 + 2 * 0.5) / 4
            [1.0, 0.0, 3.0, -2.0],
            [0.5, 4.0, 3.0, -2.0],
            0.5,
            "A tie says nothing either way: it counts as half a win.",
        ),
        _score_case(
            "scores that are all negative",  # wins: 1st and 4th
            [-5.0, -2.0, -9.0, -1.0],
            [-6.0, -1.0, -8.0, -4.0],
            0.5,
            "Only the difference within a pair matters. The sign of a score means nothing by itself.",
        ),
        _score_case(
            "every pair ordered wrongly, but a high average",  # means: 3.33 and 2.0, yet 1 win in 3
            [10.0, 0.0, 0.0],
            [4.0, 1.0, 1.0],
            1 / 3,
            "Count pairs. One large difference must not outweigh two small ones.",
        ),
        _score_case(
            "nothing but ties",
            [0.0, 0.0],
            [0.0, 0.0],
            0.5,
            "A model that gives every text the same score knows nothing: that is one half, as for a coin.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "ties count as losses",
            lambda c, r: (c > r).double().mean(),
            "Your function gives nothing for a tie. A tie says nothing either way, so it counts as half a "
            "win: otherwise a model that scores everything alike looks worse than a coin.",
        ),
        WrongAnswer(
            "ties count as wins",
            lambda c, r: (c >= r).double().mean(),
            "Your function gives a full win for a tie, so a model that scores everything alike would be "
            "perfect. A tie counts as half a win.",
        ),
        WrongAnswer(
            "chosen and rejected swapped",
            lambda c, r: ((c < r).double() + 0.5 * (c == r).double()).mean(),
            "You count the pairs where the rejected text has the higher score. Swap the comparison.",
        ),
        WrongAnswer(
            "comparing the averages",
            lambda c, r: float(c.mean() > r.mean()),
            "You compare the two averages. The question is about pairs: compare first, then average.",
        ),
        WrongAnswer(
            "every chosen with every rejected",
            lambda c, r: (c[:, None] > r[None, :]).double().mean(),
            "You compare every chosen text with every rejected text. People compared the two texts of one "
            "pair, so compare row by row.",
        ),
        WrongAnswer(
            "a score above zero",
            lambda c, r: (c > 0).double().mean(),
            "You ask whether the chosen score is above zero. A reward has no zero point: adding 100 to "
            "every score must not change the accuracy.",
        ),
        WrongAnswer(
            "a count, not a fraction",
            lambda c, r: ((c > r).double() + 0.5 * (c == r).double()).sum(),
            "You return how many pairs are right. Divide by the number of pairs.",
        ),
        WrongAnswer(
            "per cent",
            lambda c, r: 100 * ((c > r).double() + 0.5 * (c == r).double()).mean(),
            "You return per cent. The exercise asks for a fraction between 0 and 1.",
        ),
        WrongAnswer(
            "the mean margin",
            lambda c, r: (c - r).double().mean(),
            "You return the average difference of the scores. That depends on the scale of the reward; "
            "accuracy only asks which score is higher.",
        ),
    ),
    solution=_pairwise_accuracy,
    praise="This is the number by which reward models are compared, and the one in the report of every run.",
)
