"""Exercise: generalised advantage estimates of rows of different length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _walk(
    rewards: Tensor, values: Tensor, mask: Tensor, lam: float, *, masked: bool = True, after: str = "zero"
) -> tuple[Tensor, Tensor]:
    """Errors and advantages from the last token to the first; ``masked`` and ``after`` allow mistakes."""
    import torch

    counts = mask.to(rewards.dtype) if masked else torch.ones_like(rewards)
    errors, advantages = torch.zeros_like(rewards), torch.zeros_like(rewards)
    next_advantage = torch.zeros_like(rewards[:, 0])
    next_value = values[:, -1] if after == "itself" else torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        errors[:, t] = (rewards[:, t] + next_value - values[:, t]) * counts[:, t]
        advantages[:, t] = errors[:, t] + lam * next_advantage * counts[:, t]
        next_value, next_advantage = values[:, t] * counts[:, t], advantages[:, t]
    return errors * mask, advantages * mask


def _gae(rewards: Tensor, values: Tensor, mask: Tensor, lam: float) -> Tensor:
    return _walk(rewards, values, mask, lam)[1]


def _forwards(rewards: Tensor, values: Tensor, mask: Tensor, lam: float) -> Tensor:
    import torch

    errors, advantages = _walk(rewards, values, mask, lam)[0], []
    before = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1]):
        before = errors[:, t] + lam * before
        advantages.append(before)
    return torch.stack(advantages, dim=1) * mask


def _case(title: str, rewards, values, mask, lam: float, expected, hint: str) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor, float]:
        import torch

        return torch.tensor(rewards), torch.tensor(values), torch.tensor(mask).bool(), lam

    return Case(title, inputs, expected, hint)


GAE_BY_HAND = Exercise(
    name="gae_by_hand",
    title="Advantages from rewards and values",
    chapter="08_policy_gradients_to_ppo",
    difficulty="hard",
    minutes=20,
    cases=(
        _case(
            "lambda 0: one step ahead",  # 0 + 3 - 1, 0 + 2 - 3, 5 - 2
            [[0.0, 0.0, 5.0]],
            [[1.0, 3.0, 2.0]],
            [[1, 1, 1]],
            0.0,
            [[2.0, -1.0, 3.0]],
            "With lambda 0 the advantage is the one-step error: reward plus the next value minus this value. "
            "After the last token the value is 0.",
        ),
        _case(
            "lambda one half",  # errors 2, -1, 3; 3, -1 + 1.5, 2 + 0.25
            [[0.0, 0.0, 5.0]],
            [[1.0, 3.0, 2.0]],
            [[1, 1, 1]],
            0.5,
            [[2.25, 0.5, 3.0]],
            "Walk from the last token to the first: A_t = error_t + lambda * A_{t+1}.",
        ),
        _case(
            "lambda 1: the whole return",  # sums of rewards to the end: 6, 7, 5; minus the values
            [[-1.0, 2.0, 5.0]],
            [[1.0, 3.0, 2.0]],
            [[1, 1, 1]],
            1.0,
            [[5.0, 4.0, 3.0]],
            "With lambda 1 the values in between cancel: what is left is the sum of the rewards from here "
            "on, minus the value here.",
        ),
        _case(
            "two rows, the second one shorter",
            # row 1: errors 0 + 1 - 2 = -1, 0 + 4 - 1 = 3, 6 - 4 = 2; A: 2, 4, 1
            # row 2: errors 0 + 2 - 1 = 1, 4 - 2 = 2; A: 2, 2; the padding holds numbers that must not count
            [[0.0, 0.0, 6.0], [0.0, 4.0, 9.0]],
            [[2.0, 1.0, 4.0], [1.0, 2.0, 8.0]],
            [[1, 1, 1], [1, 1, 0]],
            0.5,
            [[1.0, 4.0, 2.0], [2.0, 2.0, 0.0]],
            "A row ends at its last counted token. The value after it is 0, whatever the padding holds, and "
            "the advantage of padding is 0.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "values of the padding used",
            lambda r, v, m, lam: _walk(r, v, m, lam, masked=False)[1],
            "Your last counted token looks at the value and the advantage of the padding behind it. The "
            "sequence ends there: both are 0.",
        ),
        WrongAnswer(
            "lambda forgotten",
            lambda r, v, m, lam: _walk(r, v, m, 1.0)[1],
            "You add up the errors without lambda, so your answer is the same for every lambda: the whole "
            "return minus the value. Multiply the next advantage by lambda.",
        ),
        WrongAnswer(
            "one step only",
            lambda r, v, m, lam: _walk(r, v, m, 0.0)[1],
            "These are the one-step errors, which is the answer for lambda 0 only. Add lambda times the next "
            "advantage.",
        ),
        WrongAnswer(
            "returns instead of advantages",
            lambda r, v, m, lam: _walk(r, v, m, lam)[1] + v * m,
            "You have added the values back. That is the return, the target of the value head. The advantage "
            "is what the return is above the value.",
        ),
        WrongAnswer(
            "from the first token to the last",
            _forwards,
            "You walk forwards, so that a token gets credit for what came before it. An action can only "
            "change the future: walk from the last token to the first.",
        ),
        WrongAnswer(
            "the last value counted twice",
            lambda r, v, m, lam: _walk(r, v, m, lam, after="itself")[1],
            "You take the value of the last token as the value after it. Nothing comes after it: that value "
            "is 0.",
        ),
        WrongAnswer(
            "no values",
            lambda r, v, m, lam: _walk(r, 0 * v, m, lam)[1],
            "You leave the values out. What is left is a discounted sum of rewards, without a baseline.",
        ),
        WrongAnswer(
            "the next value subtracted",
            lambda r, v, m, lam: _walk(r, -v, m, lam)[1],
            "The signs of your values are swapped. The error is reward plus the NEXT value minus THIS value.",
        ),
    ),
    solution=_gae,
    praise="This is functional.gae with gamma = 1.",
)
