"""Exercise: which bug does a log show?"""

from __future__ import annotations

from collections.abc import Mapping

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

Log = Mapping[str, float]

HEALTHY, SIGN, RECOMPUTED = "healthy", "sign of the loss", "old log-probabilities recomputed"
RETURNS, ENDS = "returns from whitened advantages", "end token masked out"


def _diagnose(log: Log) -> str:
    if log["end tokens counted"] < log["texts that ended"]:
        return ENDS
    if log["largest ratio error"] == 0:
        return RECOMPUTED
    if log["reward at the end"] < log["reward at the start"]:
        return SIGN
    if abs(log["mean return"] - log["mean reward"]) > 0.1:
        return RETURNS
    return HEALTHY


def _log(start: float, end: float, ratio: float, mean_return: float, ended: int, counted: int) -> Log:
    return {
        "reward at the start": start,
        "reward at the end": end,
        "largest ratio error": ratio,
        "mean reward": end,
        "mean return": mean_return,
        "texts that ended": ended,
        "end tokens counted": counted,
    }


def _case(title: str, log: Log, expected: str, hint: str) -> Case:
    return Case(title, lambda: (dict(log),), expected, hint)


def _by_reward(log: Log) -> str:
    return SIGN if log["reward at the end"] < log["reward at the start"] else HEALTHY


def _low_reward_is_sign(log: Log) -> str:
    found = _diagnose(log)
    return SIGN if found == HEALTHY and log["reward at the end"] < 0 else found


def _small_ratio_is_recomputed(log: Log) -> str:
    found = _diagnose(log)
    return RECOMPUTED if found == HEALTHY and log["largest ratio error"] < 0.1 else found


def _reward_first(log: Log) -> str:
    return SIGN if log["reward at the end"] < log["reward at the start"] else _diagnose(log)


def _any_end_missing(log: Log) -> str:
    if log["end tokens counted"] == 0:
        return ENDS
    found = _diagnose(log)
    return found if found != ENDS else HEALTHY


def _without_returns(log: Log) -> str:
    found = _diagnose(log)
    return HEALTHY if found == RETURNS else found


DIAGNOSE_PPO = Exercise(
    name="diagnose_ppo",
    title="Which bug is it?",
    chapter="08_policy_gradients_to_ppo",
    difficulty="medium",
    minutes=12,
    cases=(
        _case(
            "a rising reward and nothing odd",
            _log(0.2, 0.6, 0.4, 0.58, 100, 100),
            HEALTHY,
            "Reward up, the ratio moves, every end token counts, and the returns have the size of the "
            "rewards: nothing is wrong here.",
        ),
        _case(
            "a falling reward",
            _log(0.2, 0.01, 0.7, 0.02, 80, 80),
            SIGN,
            "Everything is consistent, yet the policy walks away from reward: the loss has the wrong sign.",
        ),
        _case(
            "a ratio that is exactly one",
            _log(0.2, 0.5, 0.0, 0.5, 100, 100),
            RECOMPUTED,
            "After several passes over a batch the ratio cannot be exactly 1, unless it compares the policy "
            "with itself.",
        ),
        _case(
            "returns that know nothing of the rewards",
            _log(0.5, 0.6, 0.5, 0.1, 64, 64),
            RETURNS,
            "The return of a text is what the critic should predict. Its mean must be near the mean reward.",
        ),
        _case(
            "end tokens that do not count",
            _log(0.3, 0.31, 0.3, 0.3, 90, 30),
            ENDS,
            "90 texts ended, so 90 end tokens must be among the counted ones.",
        ),
        _case(
            "rewards below zero",
            _log(-2.0, -1.0, 0.3, -1.05, 10, 10),
            HEALTHY,
            "A reward has no zero point. What counts is that it rose.",
        ),
        _case(
            "a small step",
            _log(0.2, 0.25, 0.03, 0.24, 50, 50),
            HEALTHY,
            "A ratio that moves only a little means a small learning rate, not a bug.",
        ),
        _case(
            "a ratio of one and a falling reward",
            _log(0.5, 0.3, 0.0, 0.3, 100, 100),
            RECOMPUTED,
            "Without a working limit a policy may also collapse, so a falling reward proves no sign error. "
            "Look at the ratio first: it says for sure that something is wrong.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "looking at the reward only",
            _by_reward,
            "You look at the reward alone. Three of the four bugs let it rise for a while.",
        ),
        WrongAnswer(
            "always healthy",
            lambda log: HEALTHY,
            "Your function finds nothing. No crash and finite numbers are no evidence.",
        ),
        WrongAnswer(
            "a negative reward is an error",
            _low_reward_is_sign,
            "You take a reward below zero for a wrong sign. A reward has no zero point; compare the end with "
            "the start.",
        ),
        WrongAnswer(
            "a small ratio is an error",
            _small_ratio_is_recomputed,
            "You take a small change of the ratio for the bug. It is exactly 0 when the old "
            "log-probabilities are recomputed; anything above is a step that was made.",
        ),
        WrongAnswer(
            "the reward before the ratio",
            _reward_first,
            "You ask for a falling reward first. It has many causes; a ratio of exactly one has one.",
        ),
        WrongAnswer(
            "only if no end counts",
            _any_end_missing,
            "You ask whether any end token counts. All of them must: as many as texts that ended.",
        ),
        WrongAnswer(
            "the returns not looked at",
            _without_returns,
            "You do not compare the returns with the rewards. A critic with the wrong target is a quiet bug: "
            "the reward still rises, only more slowly.",
        ),
    ),
    solution=_diagnose,
    praise="Each of these tests is one line. Put them into your own training loop.",
)
