"""Exercise: which best-of-n is a fair control for a policy with a given KL?"""

from __future__ import annotations

import math

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _bound(n: int) -> float:
    return math.log(n) - (n - 1) / n


def _kl_matched_n(kl: float) -> int:
    n = 1
    while _bound(n + 1) <= kl:
        n += 1
    return n if kl - _bound(n) <= _bound(n + 1) - kl else n + 1


def _first_above(kl: float) -> int:
    n = 1
    while _bound(n) < kl:
        n += 1
    return n


def _last_below(kl: float) -> int:
    n = 1
    while _bound(n + 1) <= kl:
        n += 1
    return n


def _power_of_two(kl: float) -> int:
    return min((2**k for k in range(20)), key=lambda n: abs(_bound(n) - kl))


def _n_case(title: str, kl: float, expected: int, hint: str) -> Case:
    return Case(title, lambda: (kl,), expected, hint)


KL_MATCHED_N = Exercise(
    name="kl_matched_n",
    title="A fair n for best-of-n",
    chapter="09_ppo_on_a_language_model",
    difficulty="medium",
    minutes=10,
    cases=(
        _n_case("no drift at all", 0.0, 1, "The best of one sample is the policy itself: log 1 - 0 = 0."),
        _n_case(
            "0.2 nats",  # ln 2 - 1/2 = 0.193; ln 3 - 2/3 = 0.432
            0.2,
            2,
            "The bound is 0.193 for n = 2 and 0.432 for n = 3.",
        ),
        _n_case(
            "1.4 nats",  # n = 10: 2.3026 - 0.9 = 1.4026; n = 9: 2.1972 - 0.8889 = 1.3083
            1.4,
            10,
            "The bound is 1.308 for n = 9 and 1.403 for n = 10: the second is nearer, though above.",
        ),
        _n_case(
            "1.45 nats",  # n = 10: 1.4026, n = 11: 2.3979 - 0.9091 = 1.4888
            1.45,
            11,
            "The bound is 1.403 for n = 10 and 1.489 for n = 11.",
        ),
        _n_case(
            "3 nats",  # n = 53: 2.9892, n = 54: 3.0075
            3.0,
            54,
            "The bound is 2.989 for n = 53 and 3.007 for n = 54.",
        ),
        _n_case(
            "6 nats",  # n = 1095: 5.99942, n = 1096: 6.00033
            6.0,
            1096,
            "Each further nat multiplies n by e. The bound is 5.9994 for n = 1,095 and 6.0003 for n = 1,096.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "log n alone",
            lambda kl: max(1, round(math.exp(kl))),
            "You inverted log n. The bound is log n - (n - 1)/n, almost one nat less for large n: so n must "
            "be larger, by a factor of nearly e.",
        ),
        WrongAnswer(
            "the limit for large n",
            lambda kl: max(1, round(math.exp(kl + 1))),
            "You inverted log n - 1, which is the limit for large n. For small n the term (n - 1)/n is far "
            "from one.",
        ),
        WrongAnswer(
            "the first n above",
            _first_above,
            "You take the first n whose bound reaches the KL. The n below may be nearer.",
        ),
        WrongAnswer(
            "the last n below",
            _last_below,
            "You take the last n whose bound does not exceed the KL. The next n may be nearer.",
        ),
        WrongAnswer(
            "bits for nats",
            lambda kl: max(1, round(2**kl)),
            "You count in bits, and without the second term. In this book a KL is in nats: natural "
            "logarithms.",
        ),
        WrongAnswer(
            "powers of two only",
            _power_of_two,
            "You try powers of two only. Every whole number is allowed.",
        ),
    ),
    solution=_kl_matched_n,
    praise="Now you can say at a glance which PPO results best-of-n could have had, and at what price.",
)
