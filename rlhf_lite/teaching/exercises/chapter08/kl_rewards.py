"""Exercise: the reward of each token, from a penalty on every token and a score at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _last(mask: Tensor) -> Tensor:
    """True at the last counted token of each row."""
    import torch

    return mask & ~torch.nn.functional.pad(mask[:, 1:], (0, 1))


def _kl_rewards(logps: Tensor, ref_logps: Tensor, scores: Tensor, mask: Tensor, beta: float) -> Tensor:
    import torch

    penalty = beta * (logps - ref_logps)
    return torch.where(mask, -penalty, 0.0) + torch.where(_last(mask), scores[:, None], 0.0)


def _case(title: str, logps, ref_logps, scores, mask, beta: float, expected, hint: str) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        import torch

        floats = (torch.tensor(logps), torch.tensor(ref_logps), torch.tensor(scores))
        return (*floats, torch.tensor(mask).bool(), beta)

    return Case(title, inputs, expected, hint)


def _score_at_the_edge(p: Tensor, q: Tensor, s: Tensor, m: Tensor, b: float) -> Tensor:
    rewards = -b * (p - q) * m
    rewards[:, -1] = rewards[:, -1] + s
    return rewards


KL_REWARDS = Exercise(
    name="kl_rewards",
    title="Where penalty and score are paid",
    chapter="08_policy_gradients_to_ppo",
    difficulty="medium",
    minutes=12,
    cases=(
        _case(
            "one row of full length",  # differences 1, -2, 0: penalties 0.5, -1, 0; the score on the last
            [[-1.0, -4.0, -2.0]],
            [[-2.0, -2.0, -2.0]],
            [3.0],
            [[1, 1, 1]],
            0.5,
            [[-0.5, 1.0, 3.0]],
            "Each token pays beta * (logp - ref_logp). The score comes on top, at the last token only.",
        ),
        _case(
            "a penalty on the last token",  # differences 2, 1: penalties 0.2, 0.1
            [[-1.0, -1.0]],
            [[-3.0, -2.0]],
            [1.0],
            [[1, 1]],
            0.1,
            [[-0.2, 0.9]],
            "The last token pays its penalty too: its reward is the score minus the penalty.",
        ),
        _case(
            "two rows, the second one shorter",
            # row 1: differences 1, 0, -1; row 2: difference 2, then padding
            [[-1.0, -2.0, -3.0], [-1.0, -9.0, -9.0]],
            [[-2.0, -2.0, -2.0], [-3.0, -1.0, -1.0]],
            [5.0, -4.0],
            [[1, 1, 1], [1, 0, 0]],
            1.0,
            [[-1.0, 0.0, 6.0], [-6.0, 0.0, 0.0]],
            "A row ends at its last counted token: the score is paid there, not in the last column. "
            "Padding earns nothing.",
        ),
        _case(
            "a score of zero and a free policy",
            [[-1.0, -2.0, -3.0]],
            [[-2.0, -4.0, -1.0]],
            [0.0],
            [[1, 1, 0]],
            0.0,
            [[0.0, 0.0, 0.0]],
            "With beta 0 nothing is paid for drift.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the score in the last column",
            _score_at_the_edge,
            "You pay the score in the last column. In a short row that is padding, where it is lost: the "
            "policy would never hear of it. Pay it at the last counted token.",
        ),
        WrongAnswer(
            "the score on every token",
            lambda p, q, s, m, b: (s[:, None] - b * (p - q)) * m,
            "Every token gets the whole score, so a long answer earns it many times over. It is paid once, "
            "at the last counted token.",
        ),
        WrongAnswer(
            "the score shared out",
            lambda p, q, s, m, b: (s[:, None] / m.sum(1, keepdim=True) - b * (p - q)) * m,
            "You share the score among the tokens. The reward model judges the finished text: pay it once, "
            "at the last counted token.",
        ),
        WrongAnswer(
            "a bonus for drift",
            lambda p, q, s, m, b: b * (p - q) * m + _last(m) * s[:, None],
            "The sign of the penalty is wrong: the policy is paid for leaving the reference. Subtract "
            "beta * (logp - ref_logp).",
        ),
        WrongAnswer(
            "beta forgotten",
            lambda p, q, s, m, b: -(p - q) * m + _last(m) * s[:, None],
            "You charge one point for each nat. The price of a nat is beta.",
        ),
        WrongAnswer(
            "no penalty where the score is",
            lambda p, q, s, m, b: -b * (p - q) * (m & ~_last(m)) + _last(m) * s[:, None],
            "The last token gets the score but pays no penalty. Every counted token pays; then the penalties "
            "of a row add up to beta times the log-ratio of the whole text.",
        ),
        WrongAnswer(
            "the penalty all at the end",
            lambda p, q, s, m, b: _last(m) * (s[:, None] - b * ((p - q) * m).sum(1, keepdim=True)),
            "You pay the whole penalty at the last token. The sum of a row is right, but the advantage of an "
            "early token then carries the penalties of all others. Pay each at its own token.",
        ),
        WrongAnswer(
            "padding pays too",
            lambda p, q, s, m, b: -b * (p - q) + _last(m) * s[:, None],
            "Your padding pays a penalty. Where the mask is False the reward is 0.",
        ),
        WrongAnswer(
            "the score at the first token",
            lambda p, q, s, m, b: -b * (p - q) * m + (m.cumsum(1) == 1) * m * s[:, None],
            "You pay the score at the first token. Then no later token can have earned it.",
        ),
    ),
    solution=_kl_rewards,
    praise="This is token_rewards of rlhf_lite.training.ppo.",
)
