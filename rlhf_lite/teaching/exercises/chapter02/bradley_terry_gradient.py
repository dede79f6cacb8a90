"""Exercise: the gradient of the Bradley-Terry log-likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

LN2 = 0.6931471805599453


def _probability(strengths: Tensor) -> Tensor:
    import torch

    return torch.sigmoid(strengths[:, None] - strengths[None, :])


def _gradient(strengths: Tensor, wins: Tensor) -> Tensor:
    games = wins + wins.T
    return (wins - games * _probability(strengths)).sum(dim=1)


def _ratio_of_strengths(strengths: Tensor, wins: Tensor) -> Tensor:
    share = strengths[:, None] / (strengths[:, None] + strengths[None, :])
    return (wins - (wins + wins.T) * share).sum(dim=1)


def _case(
    title: str, strengths: list[float], wins: list[list[float]], expected: list[float], hint: str
) -> Case:
    def inputs() -> tuple[Tensor, Tensor]:
        import torch

        return torch.tensor(strengths, dtype=torch.double), torch.tensor(wins, dtype=torch.double)

    return Case(title, inputs, expected, hint)


BRADLEY_TERRY_GRADIENT = Exercise(
    name="bradley_terry_gradient",
    title="Wins minus expected wins",
    chapter="02_human_feedback",
    difficulty="medium",
    minutes=15,
    cases=(
        _case(
            "two texts of equal strength",  # 3 wins of 4, expected 2
            [0.0, 0.0],
            [[0, 3], [1, 0]],
            [1.0, -1.0],
            "Each text: its wins minus the wins that the strengths predict. Equal strengths predict half "
            "of the "
            "games.",
        ),
        _case(
            "strengths that fit exactly",  # difference ln 2: probability 2/3; 4 wins of 6
            [LN2, 0.0],
            [[0, 4], [2, 0]],
            [0.0, 0.0],
            "When the predicted wins are the wins, the gradient is zero.",
        ),
        _case(
            "three texts with different numbers of games",
            # Strengths ln 2, 0, 0. P(0 beats 1) = P(0 beats 2) = 2/3, P(1 beats 2) = 1/2. Games: 3, 6, 2.
            # Text 0: 1 + 6 wins, expected 2 + 4: +1. Text 1: 2 + 0, expected 1 + 1: 0. Text 2: 0 + 2,
            # expected 2 + 1: -1.
            [LN2, 0.0, 0.0],
            [[0, 1, 6], [2, 0, 0], [0, 2, 0]],
            [1.0, 0.0, -1.0],
            "Expected wins of text i: over all j, the number of games (wins[i, j] + wins[j, i]) times "
            "sigmoid(strengths[i] - strengths[j]).",
        ),
        _case(
            "a text that was never compared",
            [0.0, 5.0, 0.0],
            [[0, 0, 1], [0, 0, 0], [1, 0, 0]],
            [0.0, 0.0, 0.0],
            "Without games there are no wins and no expected wins: zero.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the sign of a loss",
            lambda s, w: -_gradient(s, w),
            "You return the gradient of the loss. The exercise asks for that of the log-likelihood, which "
            "grows "
            "with the wins.",
        ),
        WrongAnswer(
            "every pair expected to play once",
            lambda s, w: (w - _probability(s)).sum(dim=1) + 0.5,
            "You expect one game between every two texts. Multiply the probability by the number of games "
            "that "
            "were played, wins[i, j] + wins[j, i].",
        ),
        WrongAnswer(
            "wins counted as games",
            lambda s, w: (w - w * _probability(s)).sum(dim=1),
            "You multiply the probability by the wins. The expectation runs over all games, lost ones too: "
            "wins[i, j] + wins[j, i].",
        ),
        WrongAnswer(
            "columns instead of rows",
            lambda s, w: _gradient(s, w.T),
            "You count losses as wins: wins[i, j] is how often text i beat text j, so sum over j, the "
            "columns of "
            "row i.",
        ),
        WrongAnswer(
            "wins minus losses",
            lambda s, w: (w - w.T).sum(dim=1),
            "You return wins minus losses. That ignores the strengths: beating a weak text should change "
            "little.",
        ),
        WrongAnswer(
            "divided by the games",
            lambda s, w: _gradient(s, w) / (w + w.T).sum(dim=1).clamp_min(1.0),
            "You divide by the number of games of each text. The log-likelihood is a sum, and so is its "
            "gradient.",
        ),
        WrongAnswer(
            "the strengths used as odds",
            _ratio_of_strengths,
            "You take strength_i / (strength_i + strength_j). Here strengths are logarithms: the "
            "probability is "
            "the logistic function of their difference.",
        ),
    ),
    solution=_gradient,
    praise="Wins minus expected wins: the same rule that updates Elo ratings, and the gradient of every "
    "reward model in this book.",
)
