"""A judge against people's preferences, with a judge whose likings are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_lite.pipeline.cai.feedback import measure_judge, pairwise_quality, pointwise_quality
from rlhf_lite.types import Preference

PAIRS = [Preference("", f"good {i}", f"bad {i}", 2.0) for i in range(10)]


class Known:
    """Likes texts by their first word, and the letter A by ``bias`` nats."""

    name = "known"

    def __init__(self, *, liking: float, bias: float = 0.0) -> None:
        self.liking, self.bias = liking, bias

    def log_probabilities(self, prompts: Sequence[str], continuations: Sequence[str]) -> Tensor:
        return torch.tensor([self._one(p, c) for p, c in zip(prompts, continuations, strict=True)])

    def _one(self, prompt: str, word: str) -> float:
        if prompt.endswith(":") and "\n" not in prompt:  # a heading, and the text itself
            agrees = ("not" in prompt or "negative" in prompt) != word.startswith(" good")
            return self.liking if agrees else 0.0
        lines = dict(line.split(": ", 1) for line in prompt.split("\n") if ": " in line)
        text = lines["Text"] if word in (" Yes", " No") else lines[f"Text{word}"]
        value = self.liking if text.startswith("good") else 0.0
        return 0.0 if word == " No" else value + (self.bias if word == " A" else 0.0)


def test_a_good_judge_with_a_liking_for_a() -> None:
    found = measure_judge(Known(liking=1.0, bias=3.0), PAIRS)
    assert found["n_pairs"] == 10 and found["judge"] == "known"
    pairwise = found["combined"]["pairwise"]
    # As A the better text wins by 1 + 3, as B it loses by 3 - 1; half the pairs begin either way round.
    assert (
        pairwise["accuracy"] == 1.0 and pairwise["accuracy_as_given"] == pairwise["accuracy_swapped"] == 0.5
    )
    assert pairwise["position_bias_nats"] == pytest.approx(3.0) and pairwise["consistent_fraction"] == 0.0
    # The averaged probability is 0.731 and always right: 0.269 off, on both sides.
    assert pairwise["ece"] == pytest.approx(0.2689, abs=1e-3) and pairwise["brier"] == pytest.approx(
        0.0723, abs=1e-3
    )
    pointwise = found["positive"]["pointwise"]
    assert pointwise["accuracy"] == pointwise["auc"] == 1.0
    assert pointwise["yes_bias_nats"] == pytest.approx(0.5)
    likelihood = found["liked"]["likelihood"]
    assert likelihood["accuracy"] == likelihood["auc"] == 1.0 and likelihood["yes_bias_nats"] == 0.0
    assert found["positive"]["yes_question"] == "Is this review positive?"


def test_a_judge_without_an_opinion_scores_one_half() -> None:
    found = measure_judge(Known(liking=0.0), PAIRS)["combined"]
    assert found["pairwise"]["accuracy"] == found["pointwise"]["accuracy"] == found["pointwise"]["auc"] == 0.5
    assert found["pointwise"]["brier"] == 0.25
    assert "pairwise" not in measure_judge(Known(liking=1.0), PAIRS, methods=("pointwise",))["positive"]
    with pytest.raises(ValueError, match="no pairs"):
        measure_judge(Known(liking=1.0), [])


def test_the_auc_by_hand() -> None:
    # Of the four comparisons 2>1, 2>0.5, 0.7>0.5 are right and 0.7<1 is wrong.
    found = pointwise_quality(np.array([2.0, 0.7]), np.array([1.0, 0.5]))
    assert found["auc"] == 0.75 and found["accuracy"] == 1.0
    found = pairwise_quality(
        np.array([1.0, -2.0]), np.array([-0.5, 1.0]), first_is_preferred=np.array([True, False])
    )
    assert found["accuracy"] == 0.5 and found["position_bias_nats"] == pytest.approx((1.5 + 3.0) / 4)
