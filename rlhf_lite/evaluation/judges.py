"""What answers are measured with: a reference, a gold judge, a reward model, word lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lite.data.formatting import plain_text
from rlhf_lite.errors import ComparisonError
from rlhf_lite.evaluation.eval_policy import EvalPolicy
from rlhf_lite.evaluation.text_metrics import vader_scores
from rlhf_lite.evaluation.toxicity import ProfanityJudge, ToxicityJudge
from rlhf_lite.rollout.rewards import Reward
from rlhf_lite.types import Message

# Whole texts to one number each, ``[n]``; NaN means that the judge has no answer.
Scores = Callable[[Sequence[str]], NDArray[np.float64]]
# Scores that may decide who wins a prompt.
DECIDING = ("gold", "vader", "reward")


@dataclass(frozen=True)
class Judges:
    """Who judges the answers of a policy. VADER and a toxicity judge are always there.

    Attributes:
        reference: the policy that the KL is measured from.
        gold: whole texts to estimated human ratings, such as a `gold.GoldJudge`; adapters are off around it.
        reward: raw scores of completions as they were sampled, see `rollout.rewards`: it may read the states
            of the policy's trunk, and it chooses the best of n.
        reward_of_texts: whole texts to raw scores of a reward model, where there is no ``reward``.
        fluency: whose perplexity tells whether text still reads as language; the reference if None.
        toxicity: see `toxicity.toxicity_judge`.
        chat: prompts are a user's messages; judges of whole texts read the plain transcript.
    """

    reference: EvalPolicy
    gold: Scores | None = None
    reward: Reward | None = None
    reward_of_texts: Scores | None = None
    fluency: EvalPolicy | None = None
    toxicity: ToxicityJudge = field(default_factory=ProfanityJudge)
    chat: bool = False

    def of_texts(self, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Scores ``[n]`` by judge, of those that read texts.

        Args:
            prompts: n prompts.
            texts: n answers to them.

        Raises:
            ComparisonError: if a judge gives another number of scores.
        """
        scores = {"vader": vader_scores(texts), "toxicity": self.toxicity(texts)}
        whole = [self._whole(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        for name, judge in (("gold", self.gold), ("reward", self.reward_of_texts)):
            if judge is not None:
                scores[name] = _checked(judge(whole), len(texts), name)
        return scores

    def _whole(self, prompt: str, text: str) -> str:
        if not self.chat:
            return prompt + text
        return f"{plain_text([Message('user', prompt)], True)} {text}"


def deciding_judge(judge: str | None, *, has_gold: bool, has_reward: bool) -> str:
    """The judge that decides win rates; by default gold, or VADER without it.

    Raises:
        ComparisonError: if it is unknown or was not given.
    """
    there = {"gold": has_gold, "vader": True, "reward": has_reward}
    if judge is None:
        return "gold" if has_gold else "vader"
    if not there.get(judge, False):
        known = ", ".join(name for name in DECIDING if there[name])
        raise ComparisonError(f"no judge {judge!r} in this comparison; there is {known}")
    return judge


def _checked(values: Any, n: int, name: str) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.shape != (n,):
        raise ComparisonError(
            f"the judge {name!r} gave scores of shape {scores.shape} for {n} texts; "
            "expected one number per text"
        )
    return np.where(np.isfinite(scores), scores, np.nan)
