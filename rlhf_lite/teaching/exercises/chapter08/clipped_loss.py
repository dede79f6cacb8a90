"""Exercise: PPO's clipped loss, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor


def _clipped_loss(logp: Tensor, old_logp: Tensor, advantages: Tensor, clip: float) -> Tensor:
    import torch

    ratio = torch.exp(logp - old_logp)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def _case(title: str, ratios: list[float], advantages: list[float], clip: float, expected, hint: str) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor, float]:
        import torch

        old = torch.tensor([-1.0 - 0.5 * i for i in range(len(ratios))], dtype=torch.float64)
        logp = old + torch.tensor(ratios, dtype=torch.float64).log()
        return logp, old, torch.tensor(advantages, dtype=torch.float64), clip

    return Case(title, inputs, expected, hint)


def _wrong(formula) -> object:
    """A wrong answer from a formula in (ratio, clipped ratio, advantage)."""

    def function(logp: Tensor, old_logp: Tensor, advantages: Tensor, clip: float) -> Tensor:
        import torch

        ratio = torch.exp(logp - old_logp)
        return formula(torch, ratio, ratio.clamp(1 - clip, 1 + clip), advantages)

    return function


def _log_ratio(logp: Tensor, old_logp: Tensor, advantages: Tensor, clip: float) -> Tensor:
    import torch

    log_ratio = logp - old_logp
    clipped = log_ratio.clamp(-clip, clip)
    return -torch.minimum(log_ratio.exp() * advantages, clipped.exp() * advantages)


def _inverted(logp: Tensor, old_logp: Tensor, advantages: Tensor, clip: float) -> Tensor:
    return _clipped_loss(old_logp, logp, advantages, clip)


CLIPPED_LOSS = Exercise(
    name="clipped_loss",
    title="The clipped loss",
    chapter="08_policy_gradients_to_ppo",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "a policy that has not moved",
            [1.0, 1.0],
            [2.0, -3.0],
            0.2,
            [-2.0, 3.0],
            "With a ratio of one the loss of a token is minus its advantage.",
        ),
        _case(
            "good tokens, below, inside and above the range",  # min(0.5 A, 0.8 A), min(1.1 A, 1.1 A), ...
            [0.5, 1.1, 2.0],
            [1.0, 1.0, 1.0],
            0.2,
            [-0.5, -1.1, -1.2],
            "For a positive advantage the minimum limits what a high ratio can earn, and leaves a low ratio "
            "alone: there the gradient must still pull the token up.",
        ),
        _case(
            "bad tokens, below, inside and above the range",
            # min(-0.5, -0.8), min(-0.9, -0.9), min(-2, -1.2)
            [0.5, 0.9, 2.0],
            [-1.0, -1.0, -1.0],
            0.2,
            [0.8, 0.9, 2.0],
            "For a negative advantage the minimum limits what a low ratio can earn, and leaves a high ratio "
            "alone: there the gradient must still push the token down.",
        ),
        _case(
            "another range and advantages of different size",  # range 0.9 ... 1.1
            [1.5, 0.25, 4.0, 0.95],
            [2.0, -4.0, -0.5, 10.0],
            0.1,
            [-2.2, 3.6, 2.0, -9.5],
            "Compute ratio * advantage and clipped ratio * advantage, take the smaller of the two for each "
            "token, and put a minus in front.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "no minus",
            _wrong(lambda torch, r, c, a: torch.minimum(r * a, c * a)),
            "This is what shall become large. A loss is made small, so it needs a minus in front: without it "
            "training makes good tokens rarer.",
        ),
        WrongAnswer(
            "maximum instead of minimum",
            _wrong(lambda torch, r, c, a: -torch.maximum(r * a, c * a)),
            "You take the larger of the two. That is the optimistic choice: it limits nothing where a limit "
            "is needed, and stops the gradient where a mistake should be corrected. Take the smaller.",
        ),
        WrongAnswer(
            "always clipped",
            _wrong(lambda torch, r, c, a: -c * a),
            "You always use the clipped ratio. Then a good token that has become too rare has no gradient, "
            "and stays lost. The minimum keeps the unclipped branch there.",
        ),
        WrongAnswer(
            "never clipped",
            _wrong(lambda torch, r, c, a: -r * a),
            "There is no clipping here, so a token may run away as far as it likes.",
        ),
        WrongAnswer(
            "the log-ratio clipped",
            _log_ratio,
            "You clip the logarithm of the ratio. The range is 1 - clip to 1 + clip for the ratio itself.",
        ),
        WrongAnswer(
            "the ratio upside down",
            _inverted,
            "You divide the old probability by the new one. The ratio is new over old: exp(logp - old_logp).",
        ),
        WrongAnswer(
            "the product clipped",
            lambda logp, old, a, clip: (
                -((logp - old).exp() * a).minimum(((logp - old).exp() * a).clamp(1 - clip, 1 + clip))
            ),
            "You clip the product of ratio and advantage. Clip the ratio first, then multiply.",
        ),
        WrongAnswer(
            "no ratio at all",
            lambda logp, old, a, clip: -logp * a,
            "This is the loss of REINFORCE. It is right for samples of the present policy only; PPO compares "
            "with the policy that drew them, by exp(logp - old_logp).",
        ),
        WrongAnswer(
            "one number",
            _wrong(lambda torch, r, c, a: -torch.minimum(r * a, c * a).mean()),
            "You have taken the mean already. The answer has one loss per token; which tokens count is "
            "decided later, by the mask.",
        ),
    ),
    solution=_clipped_loss,
    praise="Where the clipped branch is the smaller one, the gradient is exactly zero.",
)
