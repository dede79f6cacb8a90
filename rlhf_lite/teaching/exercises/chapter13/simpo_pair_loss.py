"""Exercise: SimPO, with means per token and its target margin."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

LN2, LN3 = math.log(2.0), math.log(3.0)


def _soft(x: Tensor) -> Tensor:
    import torch

    return -torch.nn.functional.logsigmoid(x)


def _simpo(w: Tensor, x: Tensor, nw: Tensor, nx: Tensor, beta: float, gamma: float) -> Tensor:
    return _soft(beta * (w / nw - x / nx) - gamma)


def _case(
    title: str, chosen: list, rejected: list, lengths: tuple[list, list], beta: float, gamma: float,
    expected: list, hint: str,
) -> Case:  # fmt: skip
    def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, float, float]:
        import torch

        texts = [torch.tensor(x, dtype=torch.float64) for x in (chosen, rejected)]
        return *texts, *(torch.tensor(n) for n in lengths), beta, gamma

    return Case(title, inputs, expected, hint)


SIMPO_PAIR_LOSS = Exercise(
    name="simpo_pair_loss",
    title="SimPO by hand",
    chapter="13_preference_losses",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "equal means and no target",  # -2 nats per token both: log 2
            [-20.0], [-8.0], ([10], [4]), 2.0, 0.0, [LN2],
            "Both texts have -2 nats per token, so nobody leads: -log sigma(0).",
        ),
        _case(
            "equal means and a target of log 3",  # -log sigma(-ln 3) = log 4
            [-20.0], [-8.0], ([10], [4]), 2.0, LN3, [math.log(4.0)],
            "With no lead the loss is log(1 + exp(gamma)).",
        ),
        _case(
            "a lead that is larger than the target",  # 2 (-1 + 2.5) = 3; minus 2: 1
            [-10.0], [-25.0], ([10], [10]), 2.0, 2.0, [math.log(1 + math.exp(-1.0))],
            "2 * 1.5 - 2 = 1: beta multiplies the lead, and gamma is subtracted after that.",
        ),
        _case(
            "texts of different lengths",  # means -3 and -1: 0.5 * -2 - 0 = -1; means -1 and -2: 0.5
            [-60.0, -5.0], [-10.0, -40.0], ([20, 5], [10, 20]), 0.5, 0.0,
            [math.log(1 + math.e), math.log(1 + math.exp(-0.5))],
            "Each text is divided by its own number of tokens.",
        ),
        _case(
            "a large beta",  # 10 * 200 = 2000 below: the loss is 2000 + gamma
            [-2010.0], [-100.0], ([10], [100]), 10.0, 1.0, [2001.0],
            "log(sigmoid(-2001)) is minus infinity in the computer; use logsigmoid.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "sums instead of means",
            lambda w, x, nw, nx, b, g: _soft(b * (w - x) - g),
            "You compare sums. Then the shorter text nearly always leads, whatever people chose: divide each "
            "by its number of tokens.",
        ),
        WrongAnswer(
            "one length for both",
            lambda w, x, nw, nx, b, g: _soft(b * (w - x) / nw - g),
            "You divide both by the chosen text's length. Each has its own.",
        ),
        WrongAnswer(
            "gamma inside beta",
            lambda w, x, nw, nx, b, g: _soft(b * (w / nw - x / nx - g)),
            "You multiply gamma by beta. In the paper gamma is subtracted after beta has been applied. (Some "
            "code takes the ratio gamma/beta as its setting: then this would be right.)",
        ),
        WrongAnswer(
            "gamma added",
            lambda w, x, nw, nx, b, g: _soft(b * (w / nw - x / nx) + g),
            "gamma is a lead that the chosen text must have: it makes the loss larger. Subtract it inside.",
        ),
        WrongAnswer(
            "gamma forgotten",
            lambda w, x, nw, nx, b, g: _soft(b * (w / nw - x / nx)),
            "The target margin gamma is missing.",
        ),
        WrongAnswer(
            "lengths exchanged",
            lambda w, x, nw, nx, b, g: _soft(b * (w / nx - x / nw) - g),
            "The two lengths are exchanged.",
        ),
        WrongAnswer(
            "chosen and rejected exchanged",
            lambda w, x, nw, nx, b, g: _soft(b * (x / nx - w / nw) - g),
            "Your loss falls when the rejected text becomes more likely.",
        ),
        WrongAnswer(
            "overflow",
            lambda w, x, nw, nx, b, g: -(b * (w / nw - x / nx) - g).sigmoid().log(),
            "The formula is right, but the logarithm of a sigmoid that has become zero is infinite. "
            "torch.nn.functional.logsigmoid stays finite.",
        ),
    ),
    solution=_simpo,
    praise="No reference model anywhere: half of the memory, and no leash.",
)
