"""Coherence: hand values, a planted dependence that it must find, and a control that must find nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import llama, naive_logps

from rlhf_lite.evaluation.eval_policy import Network
from rlhf_lite.evaluation.text_metrics import coherence, other_rows

LIKELY, UNLIKELY = np.log(0.5), np.log(0.05)


def planted(prompts, continuations):
    """A world in which prompt [k] is followed by tokens k: probability 0.5 each, anything else 0.05."""
    return np.array(
        [
            sum(LIKELY if token == prompt[0] else UNLIKELY for token in row)
            for prompt, row in zip(prompts, continuations, strict=True)
        ]
    )


def test_hand_value():
    # Three prompts, texts of their own kind: log 0.5 after the right prompt, log 0.05 after both others.
    prompts, texts = [[1], [2], [3]], [[1, 1], [2], [3, 3, 3]]
    found = coherence(planted, prompts, texts, seed=0)
    assert found.score == pytest.approx([np.log(10)] * 3)
    assert found.control == pytest.approx([0.0] * 3)


def test_other_rows_hold_two_different_wrong_prompts():
    prompts = [[1], [1], [2], [3], [2], [4]]
    one, two = other_rows(prompts, seed=3)
    for row, prompt in enumerate(prompts):
        assert len({tuple(prompt), tuple(prompts[one[row]]), tuple(prompts[two[row]])}) == 3
    assert not np.array_equal(one, other_rows(prompts, seed=4)[0])


def test_shuffled_prompts_give_about_zero():
    rng = np.random.default_rng(0)
    prompts = [[int(k)] for k in rng.integers(0, 12, 400)]
    texts = [
        [int(t) if rng.random() < 0.5 else int(rng.integers(0, 12)) for t in prompt * 4] for prompt in prompts
    ]
    right = coherence(planted, prompts, texts, seed=0)
    shuffled = coherence(planted, [prompts[i] for i in rng.permutation(400)], texts, seed=0)
    error = 2.6 / np.sqrt(400)
    assert right.score.mean() > 0.8
    assert abs(shuffled.score.mean()) < error * shuffled.score.std()
    assert abs(right.control.mean()) < error * right.control.std()


def test_an_empty_text_has_no_coherence():
    found = coherence(planted, [[1], [2], [3]], [[1], [], [3]], seed=0)
    assert np.isnan(found.score).tolist() == [False, True, False]
    assert np.isnan(found.control).tolist() == [False, True, False]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="three different prompts, got 2"):
        coherence(planted, [[1], [2], [1]], [[1], [2], [1]], seed=0)
    with pytest.raises(ValueError, match="got 3 prompts for 1"):
        coherence(planted, [[1], [2], [3]], [[1]], seed=0)


def test_own_is_used_instead_of_a_pass():
    found = coherence(planted, [[1], [2], [3]], [[1], [2], [3]], seed=0, own=np.zeros(3))
    assert found.score == pytest.approx([-UNLIKELY] * 3)


def test_with_a_model_it_is_a_difference_of_log_probabilities():
    model = llama()
    prompts, texts = [[5, 6], [7], [8, 9, 10]], [[11], [12, 13], [14]]
    network = Network(model, 0)
    found = coherence(network.logps, prompts, texts, seed=1)
    one, two = other_rows(prompts, seed=1)

    def after(prompt, text):
        return float(naive_logps(model, [prompt + text])[0][len(prompt) - 1 :].sum())

    for row, text in enumerate(texts):
        wrong = [after(prompts[index], text) for index in (one[row], two[row])]
        expected = (after(prompts[row], text) - sum(wrong) / 2) / len(text)
        assert found.score[row] == pytest.approx(expected, abs=1e-4)
        assert found.control[row] == pytest.approx((wrong[0] - wrong[1]) / len(text), abs=1e-4)
