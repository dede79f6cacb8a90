"""Exercise: the three estimators of a KL divergence, with the right signs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

if TYPE_CHECKING:
    from torch import Tensor

Three = tuple["Tensor", "Tensor", "Tensor"]


def _kl_estimates(logp: Tensor, ref_logp: Tensor) -> Three:
    d = logp - ref_logp
    return d.mean(), (d**2 / 2).mean(), ((-d).exp() - 1 + d).mean()


def _with(logp: Tensor, ref_logp: Tensor, *, k1: bool = False, k3: bool = False) -> Three:
    """The right answer, but k1 or k3 with d's sign turned."""
    right, turned = _kl_estimates(logp, ref_logp), _kl_estimates(ref_logp, logp)
    return turned[0] if k1 else right[0], right[1], turned[2] if k3 else right[2]


def _case(title: str, logp: list[float], ref: list[float], expected: list[float], hint: str) -> Case:
    def inputs() -> tuple[Tensor, Tensor]:
        import torch

        wide = torch.float64
        return torch.tensor(logp, dtype=wide), torch.tensor(ref, dtype=wide)

    return Case(title, inputs, expected, hint)


_LN = math.log
_TEN = ([_LN(0.5)] * 5 + [_LN(0.3)] * 3 + [_LN(0.2)] * 2, [_LN(0.2)] * 5 + [_LN(0.3)] * 3 + [_LN(0.5)] * 2)

KL_ESTIMATES = Exercise(
    name="kl_estimates",
    title="Three estimators, and their signs",
    chapter="01_language_models_as_policies",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "one sample that the policy finds twice as likely",  # d = ln 2
            [_LN(0.5)],
            [_LN(0.25)],
            [_LN(2), _LN(2) ** 2 / 2, 0.5 - 1 + _LN(2)],
            "With d = logp - ref_logp: k1 = d, k2 = d²/2, k3 = exp(-d) - 1 + d.",
        ),
        _case(
            "two samples whose log-ratios cancel",  # d = ln 2 and -ln 2; k3: (1/2 - 1 + 2 - 1) / 2
            [_LN(0.5), _LN(0.25)],
            [_LN(0.25), _LN(0.5)],
            [0.0, _LN(2) ** 2 / 2, 0.25],
            "k1 may be zero or negative on a few samples; k2 and k3 never are. Estimate first, then average.",
        ),
        _case(
            "ten samples in just the right proportions",
            # 5, 3 and 2 draws from (0.5, 0.3, 0.2) against (0.2, 0.3, 0.5): d = ln 2.5, 0, -ln 2.5.
            # k1 is the exact KL, 0.5 ln 2.5 - 0.2 ln 2.5; the mean of exp(-d) is 0.2 + 0.3 + 0.5 = 1.
            _TEN[0],
            _TEN[1],
            [0.3 * _LN(2.5), 0.35 * _LN(2.5) ** 2, 0.3 * _LN(2.5)],
            "On these samples k1 and k3 both give the exact KL, a positive number. If yours do not, look at "
            "the sign of d and at the exponent.",
        ),
        _case("two equal policies", [-1.0, -2.0], [-1.0, -2.0], [0.0, 0.0, 0.0], "Equal policies have KL 0."),
    ),
    wrong_answers=(
        WrongAnswer(
            "the sign of k1 and k3 turned",
            lambda p, q: _with(p, q, k1=True, k3=True),
            "Your log-ratio is upside down: ref_logp - logp. The samples came from the policy, so the KL is "
            "the mean of logp - ref_logp. With the sign turned, a penalty rewards drift.",
        ),
        WrongAnswer(
            "the sign of k1 turned",
            lambda p, q: _with(p, q, k1=True),
            "Your k1 has the wrong sign: on the third case it is minus the KL, and a KL is never negative. "
            "Samples from the policy: logp - ref_logp.",
        ),
        WrongAnswer(
            "k3 with the ratio upside down",
            lambda p, q: _with(p, q, k3=True),
            "Your k3 is never negative and looks fine, but its mean is not KL(policy, reference). The ratio "
            "in it is reference over policy, exp(-d): its mean over the policy's samples is one.",
        ),
        WrongAnswer(
            "k2 without the half",
            lambda p, q: (_kl_estimates(p, q)[0], ((p - q) ** 2).mean(), _kl_estimates(p, q)[2]),
            "k2 is half the square of the log-ratio.",
        ),
        WrongAnswer(
            "k2 squares the mean",
            lambda p, q: (_kl_estimates(p, q)[0], (p - q).mean() ** 2 / 2, _kl_estimates(p, q)[2]),
            "You square the mean log-ratio. Each sample gives its own estimate; average last.",
        ),
        WrongAnswer(
            "k3 without its correction",
            lambda p, q: (*_kl_estimates(p, q)[:2], ((q - p).exp() - 1).mean()),
            "exp(-d) - 1 alone has mean zero. It is what k3 adds to d to make it steadier: k3 = d + "
            "(exp(-d) - 1).",
        ),
        WrongAnswer(
            "k3 without minus one",
            lambda p, q: (*_kl_estimates(p, q)[:2], ((q - p).exp() + p - q).mean()),
            "You forgot the - 1 in k3: equal policies must give zero.",
        ),
        WrongAnswer(
            "absolute values in k1",
            lambda p, q: ((p - q).abs().mean(), *_kl_estimates(p, q)[1:]),
            "k1 keeps its sign. Negative terms are not errors; they are what makes the mean right.",
        ),
        WrongAnswer(
            "sums instead of means",
            lambda p, q: tuple(k * p.numel() for k in _kl_estimates(p, q)),
            "You add up over the samples. An expectation is estimated by a mean.",
        ),
    ),
    solution=_kl_estimates,
    praise="You have just passed a test that would have caught a bug in published code.",
)
