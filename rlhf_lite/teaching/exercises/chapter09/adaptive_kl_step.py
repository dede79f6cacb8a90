"""Exercise: one step of the controller that holds the KL near a target."""

from __future__ import annotations

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _clip(x: float, limit: float = 0.2) -> float:
    return max(-limit, min(limit, x))


def _adaptive_kl_step(beta: float, kl: float, target: float, n: int, horizon: float) -> float:
    error = max(-0.2, min(0.2, kl / target - 1))
    return beta * (1 + error * n / horizon)


def _step_case(
    title: str, beta: float, kl: float, target: float, n: int, horizon: float, expected: float, hint: str
) -> Case:
    return Case(title, lambda: (beta, kl, target, n, horizon), expected, hint)


# The first two cases are those of the authors' code: start 0.15, target 6, horizon 10,000, 512 texts a step.
ADAPTIVE_KL_STEP = Exercise(
    name="adaptive_kl_step",
    title="One step of the KL controller",
    chapter="09_ppo_on_a_language_model",
    difficulty="easy",
    minutes=5,
    cases=(
        _step_case(
            "a KL far above the target",  # error 1, clipped to 0.2: 0.15 * (1 + 0.2 * 0.0512)
            0.15,
            12.0,
            6.0,
            512,
            10_000.0,
            0.151536,
            "The error is kl / target - 1, clipped to [-0.2, 0.2]; then beta grows by error * n / horizon.",
        ),
        _step_case(
            "a KL far below the target",  # error -0.5, clipped to -0.2: 0.15 * (1 - 0.2 * 0.0512)
            0.15,
            3.0,
            6.0,
            512,
            10_000.0,
            0.148464,
            "Below the target the penalty must fall, and the clip holds on this side too.",
        ),
        _step_case(
            "a KL slightly above the target",  # error 0.1: 0.1 * (1 + 0.1 * 100 / 200)
            0.1,
            6.6,
            6.0,
            100,
            200.0,
            0.105,
            "A small error is not clipped: here it is 0.1, times n / horizon = 0.5.",
        ),
        _step_case(
            "a KL exactly on target", 0.05, 3.0, 3.0, 40, 200.0, 0.05, "On target nothing changes."
        ),
        _step_case(
            "an estimate below zero",  # error -1.3, clipped: 0.4 * (1 - 0.2 * 0.5)
            0.4,
            -0.3,
            1.0,
            100,
            200.0,
            0.36,
            "An estimate of the KL may be negative. The clipped error takes care of that; beta stays "
            "positive.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "no clip",
            lambda b, kl, t, n, h: b * (1 + (kl / t - 1) * n / h),
            "You do not clip the error. One batch with a freak KL would then throw the price far off.",
        ),
        WrongAnswer(
            "the direction reversed",
            lambda b, kl, t, n, h: b * (1 - _clip(kl / t - 1) * n / h),
            "You lower the price when the KL is too high. Drift that is too large must become dearer.",
        ),
        WrongAnswer(
            "target over KL",
            lambda b, kl, t, n, h: b * (1 + _clip(1 - t / kl) * n / h),
            "You divide by the measured KL. The error is relative to the target: kl / target - 1. The "
            "measured KL may be zero or negative.",
        ),
        WrongAnswer(
            "an absolute error",
            lambda b, kl, t, n, h: b * (1 + _clip(kl - t) * n / h),
            "You take the difference kl - target in nats. The error is relative: kl / target - 1.",
        ),
        WrongAnswer(
            "an additive step",
            lambda b, kl, t, n, h: b + _clip(kl / t - 1) * n / h,
            "You add the step to beta. It multiplies: a price moves by per cent, and so never turns "
            "negative.",
        ),
        WrongAnswer(
            "the number of texts forgotten",
            lambda b, kl, t, n, h: b * (1 + _clip(kl / t - 1) / h),
            "You leave out n. The horizon is counted in texts, and a step brings n of them.",
        ),
        WrongAnswer(
            "the horizon forgotten",
            lambda b, kl, t, n, h: b * (1 + _clip(kl / t - 1)),
            "You take the whole error in one step. The factor n / horizon says how slowly to react.",
        ),
        WrongAnswer(
            "the clip after the scaling",
            lambda b, kl, t, n, h: b * (1 + _clip((kl / t - 1) * n / h)),
            "You clip error * n / horizon. The clip belongs to the error alone, before it is scaled.",
        ),
    ),
    solution=_adaptive_kl_step,
    praise="Four lines of control theory, unchanged in most RLHF code since 2019.",
)
