"""Exercise: from log-probabilities and one score per text to a reward for each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _last(mask: Tensor) -> Tensor:
    """Column of the last counted token of each row."""
    return mask.shape[1] - 1 - mask.long().flip(1).argmax(1)


def _with_score(rewards: Tensor, column: Any, score: Tensor) -> Tensor:
    import torch

    rewards = rewards.clone()
    rewards[torch.arange(len(rewards)), column] += score
    return rewards


def _penalty(logp: Tensor, ref_logp: Tensor, mask: Tensor, beta: float) -> Tensor:
    import torch

    return torch.where(mask, -beta * (logp - ref_logp), 0.0)


def _ppo_token_rewards(logp: Tensor, ref_logp: Tensor, score: Tensor, mask: Tensor, beta: float) -> Tensor:
    return _with_score(_penalty(logp, ref_logp, mask, beta), _last(mask), score)


def _spread(p: Tensor, q: Tensor, s: Tensor, m: Tensor, b: float) -> Tensor:
    return _penalty(p, q, m, b) + m * (s / m.sum(1))[:, None]


def _reward_case(
    title: str,
    logp: list[list[float]],
    ref: list[list[float]],
    score: list[float],
    mask: list[list[int]],
    beta: float,
    expected: list[list[float]],
    hint: str,
) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        import torch

        return torch.tensor(logp), torch.tensor(ref), torch.tensor(score), torch.tensor(mask).bool(), beta

    return Case(title, inputs, expected, hint)


PPO_TOKEN_REWARDS = Exercise(
    name="ppo_token_rewards",
    title="A reward for each token",
    chapter="09_ppo_on_a_language_model",
    difficulty="medium",
    minutes=10,
    cases=(
        _reward_case(
            "one full row",  # -0.5 * [1, 0, -1]; the score on the last
            [[-1.0, -2.0, -3.0]],
            [[-2.0, -2.0, -2.0]],
            [4.0],
            [[1, 1, 1]],
            0.5,
            [[-0.5, 0.0, 4.5]],
            "Each token pays beta * (logp - ref_logp); the last one also gets the score.",
        ),
        _reward_case(
            "rows of different length",  # row 1: -0.1 * [1, 2], score in column 1; row 2: in column 0
            [[-1.0, -1.0, -7.0], [-1.0, -5.0, -5.0]],
            [[-2.0, -3.0, -1.0], [-1.5, -1.0, -1.0]],
            [1.0, -2.0],
            [[1, 1, 0], [1, 0, 0]],
            0.1,
            [[-0.1, 0.8, 0.0], [-2.05, 0.0, 0.0]],
            "The score belongs to the last token that counts, not to the last column; padding gets nothing.",
        ),
        _reward_case(
            "a prompt before the response",  # columns 0 and 4 do not count
            [[-9.0, -1.0, -1.0, -2.0, -9.0]],
            [[-1.0, -1.5, -1.0, -1.0, -1.0]],
            [3.0],
            [[0, 1, 1, 1, 0]],
            1.0,
            [[0.0, -0.5, 0.0, 4.0, 0.0]],
            "The mask says where the response is. Count columns from the left, not tokens: the number of "
            "counted tokens minus one is the wrong column here.",
        ),
        _reward_case(
            "a price of zero",
            [[-1.0, -2.0]],
            [[-3.0, -1.0]],
            [1.5],
            [[1, 1]],
            0.0,
            [[0.0, 1.5]],
            "With beta = 0 only the score is left. It is not multiplied by beta.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the score in the last column",
            lambda p, q, s, m, b: _with_score(_penalty(p, q, m, b), -1, s),
            "You put the score into the last column. A short response ends earlier: its score would lie in "
            "the padding, where nobody counts it, and short texts would be trained on the penalty alone.",
        ),
        WrongAnswer(
            "the number of tokens as a place",
            lambda p, q, s, m, b: _with_score(_penalty(p, q, m, b), m.sum(1) - 1, s),
            "You take mask.sum() - 1 as the column. That is right only if the response begins in column 0; "
            "here a prompt may stand before it.",
        ),
        WrongAnswer(
            "the score on every token",
            lambda p, q, s, m, b: _penalty(p, q, m, b) + m * s[:, None],
            "You give the score to every token. Its sum then grows with the length, and the policy learns to "
            "write long.",
        ),
        WrongAnswer(
            "the score spread over the tokens",
            _spread,
            "You spread the score evenly. The sum is right, but nothing is known before the text is "
            "complete: the score arrives with the last token, and the advantages spread it.",
        ),
        WrongAnswer(
            "the sign of the penalty",
            lambda p, q, s, m, b: _with_score(-_penalty(p, q, m, b), _last(m), s),
            "You reward drift. A token that the policy likes better than the reference does must pay.",
        ),
        WrongAnswer(
            "the mask forgotten",
            lambda p, q, s, m, b: _with_score(-b * (p - q), _last(m), s),
            "You charge positions that do not count. Prompt and padding have no reward.",
        ),
        WrongAnswer(
            "the whole KL on the last token",
            lambda p, q, s, m, b: _with_score(0 * p, _last(m), s + _penalty(p, q, m, b).sum(1)),
            "You charge the whole KL at the end. The sum is right, but each token can pay for itself: that "
            "tells the policy which of its tokens drifted.",
        ),
        WrongAnswer(
            "the score priced too",
            lambda p, q, s, m, b: _with_score(_penalty(p, q, m, b), _last(m), b * s),
            "You multiply the score by beta. Only the KL has a price.",
        ),
    ),
    solution=_ppo_token_rewards,
    praise="With these rewards and a critic, everything else in PPO is generic reinforcement learning.",
)
