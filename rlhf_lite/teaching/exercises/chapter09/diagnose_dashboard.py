"""Exercise: which dial is wrong? A diagnosis from five numbers of a dashboard."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

Dashboard = dict[str, float]


def _diagnose_dashboard(d: Dashboard) -> str:
    if d["first_error"] > 0.05:
        return "bug"
    if d["clip"] > 0.3:
        return "steps too large"
    if d["kl"] > 15:
        return "beta too small"
    if d["kl"] < 0.5 and d["reward_gain"] < 0.2:
        return "beta too large"
    if d["explained_variance"] < -0.2:
        return "critic"
    return "healthy"


def _order(*rules: tuple[Callable[[Dashboard], bool], str]) -> Callable[[Dashboard], str]:
    def diagnose(d: Dashboard) -> str:
        for holds, name in rules:
            if holds(d):
                return name
        return "healthy"

    return diagnose


_BUG = (lambda d: d["first_error"] > 0.05, "bug")
_STEPS = (lambda d: d["clip"] > 0.3, "steps too large")
_SMALL = (lambda d: d["kl"] > 15, "beta too small")
_LARGE = (lambda d: d["kl"] < 0.5 and d["reward_gain"] < 0.2, "beta too large")
_CRITIC = (lambda d: d["explained_variance"] < -0.2, "critic")


def _dashboard_case(title: str, numbers: tuple[float, ...], expected: str, hint: str) -> Case:
    names = ("reward_gain", "kl", "clip", "explained_variance", "first_error")
    return Case(title, lambda: (dict(zip(names, numbers, strict=True)),), expected, hint)


# The numbers are made up by hand, near those of runs on this model; columns in the order of _dashboard_case.
DIAGNOSE_DASHBOARD = Exercise(
    name="diagnose_dashboard",
    title="Which dial is wrong?",
    chapter="09_ppo_on_a_language_model",
    difficulty="medium",
    minutes=15,
    cases=(
        _dashboard_case(
            "a run as it should be",
            (0.8, 4.0, 0.12, 0.3, 0.001),
            "healthy",
            "Nothing is out of range here: no rule may fire.",
        ),
        _dashboard_case(
            "a high reward and a very high KL",
            (2.9, 38.0, 0.2, 0.5, 0.001),
            "beta too small",
            "The reward looks wonderful. The KL says what was paid for it.",
        ),
        _dashboard_case(
            "a high KL together with a high clip fraction",
            (-0.6, 31.0, 0.62, 0.4, 0.001),
            "steps too large",
            "A KL can be high for two reasons. If most ratios leave the clip range, the steps throw the "
            "policy about: ask for the clip fraction before you blame beta.",
        ),
        _dashboard_case(
            "a run in which nothing moves",
            (0.05, 0.1, 0.03, 0.2, 0.001),
            "beta too large",
            "No KL and no gain: every step away costs more than it can earn.",
        ),
        _dashboard_case(
            "a small KL and a real gain",
            (0.6, 0.4, 0.05, 0.3, 0.001),
            "healthy",
            "A small KL is no illness by itself. Here the reward has risen: that is a bargain.",
        ),
        _dashboard_case(
            "values that are worse than none",
            (0.5, 3.0, 0.1, -1.4, 0.001),
            "critic",
            "An explained variance far below zero means that subtracting V adds noise.",
        ),
        _dashboard_case(
            "ratios that are not one before anything moved",
            (0.0, 0.1, 0.55, -0.9, 0.8),
            "bug",
            "Before the first update nothing has moved, so the ratio must be one. If it is not, sampling and "
            "scoring disagree, and every other number describes the bug. Ask this first.",
        ),
        _dashboard_case(
            "good numbers, all but one",
            (0.7, 3.5, 0.11, 0.3, 0.4),
            "bug",
            "Everything else may look healthy by luck. The ratio check cannot be wrong by luck.",
        ),
        _dashboard_case(
            "a drift to the wrong place and a poor critic",
            (1.9, 22.0, 0.15, -0.6, 0.001),
            "beta too small",
            "Two numbers are bad. The KL is the graver one: a critic cannot follow a policy that runs away.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "only the reward",
            _order((lambda d: d["reward_gain"] < 0.2, "beta too large")),
            "You look at the reward alone. It is what is optimised: it rises in a run that is eating itself.",
        ),
        WrongAnswer(
            "a high KL always means a small beta",
            _order(_BUG, _SMALL, _STEPS, _LARGE, _CRITIC),
            "You blame beta for every high KL. Ask for the clip fraction first: steps that are too large "
            "also throw the policy far away, and no price can stop a step that has been made.",
        ),
        WrongAnswer(
            "the check comes last",
            _order(_STEPS, _SMALL, _LARGE, _CRITIC, _BUG),
            "You look at the ratio check last. When it fails, all other numbers describe the bug: ask it "
            "first.",
        ),
        WrongAnswer(
            "the check forgotten",
            _order(_STEPS, _SMALL, _LARGE, _CRITIC),
            "You do not look at first_error. It costs nothing, and it finds what no other number finds.",
        ),
        WrongAnswer(
            "a small KL is always an illness",
            _order(_BUG, _STEPS, _SMALL, (lambda d: d["kl"] < 0.5, "beta too large"), _CRITIC),
            "You call every small KL sick. If the reward has risen at a small KL, that is the best of runs.",
        ),
        WrongAnswer(
            "the critic before the drift",
            _order(_BUG, _CRITIC, _STEPS, _SMALL, _LARGE),
            "You ask the critic before the KL. A policy that runs away leaves every critic behind: heal the "
            "drift first.",
        ),
        WrongAnswer(
            "the critic forgotten",
            _order(_BUG, _STEPS, _SMALL, _LARGE),
            "You do not look at the explained variance. Far below zero, the critic adds noise to every "
            "advantage.",
        ),
    ),
    solution=_diagnose_dashboard,
    praise="The order of the questions matters as much as the questions.",
)
