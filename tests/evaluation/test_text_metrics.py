"""Text scores: hand values, empty texts, and what the two judges say about plain cases."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from rlhf_lite.data.words import normalise_for_judges, words
from rlhf_lite.evaluation.text_metrics import (
    distinct_n,
    repetition_rate,
    toxicity_scores,
    vader_scores,
)


def test_words_are_lower_cased_without_punctuation():
    assert words("Don't stop -- the FILM's 2nd act, naïve!") == [
        "don't",
        "stop",
        "the",
        "film's",
        "2nd",
        "act",
        "naïve",
    ]
    assert words(" ...  :) ") == []


def test_distinct_hand_values():
    # "a b a b": bigrams ab, ba, ab; "b c": bc. Three distinct of four.
    assert distinct_n(["a b a b", "B, c"], 2) == pytest.approx(3 / 4)
    assert distinct_n(["a b a b", "B, c"], 1) == pytest.approx(3 / 6)
    assert distinct_n(["one two", "three four"]) == 1.0


def test_distinct_does_not_join_texts():
    assert distinct_n(["a", "b"], 2) != distinct_n(["a b"], 2)


def test_distinct_sees_a_phrase_that_all_texts_share():
    assert distinct_n(["a great film"] * 10) == pytest.approx(0.1)
    assert repetition_rate(["a great film"] * 10) == 0.0


def test_repetition_hand_values():
    # Trigrams of "very good very good very": vgv, gvg, vgv -> one of three is a repeat.
    assert repetition_rate(["very good very good very"]) == pytest.approx(1 / 3)
    assert repetition_rate(["very good very good very", "one two three"]) == pytest.approx(1 / 6)
    assert repetition_rate(["good " * 100], n=1) == pytest.approx(0.99)


def test_texts_that_are_too_short_add_nothing():
    assert distinct_n(["", "a b"], 2) == 1.0
    assert repetition_rate(["", "a", "one two three"]) == 0.0
    assert math.isnan(distinct_n(["", "word"], 2))
    assert math.isnan(repetition_rate([]))


def test_vader_orders_plain_cases_and_scores_nothing_as_zero():
    good, neutral, bad, empty = vader_scores(["a wonderful film", "a film", "a terrible, boring film", ""])
    assert good > 0.4 > neutral == 0.0 > -0.4 > bad
    assert empty == 0.0
    assert vader_scores([]).shape == (0,)


def test_toxicity_orders_plain_cases_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rude, kind, empty = toxicity_scores(["you are a stupid bitch", "a warm and honest film", ""])
    assert rude > 0.9
    assert kind < 0.1
    assert empty == toxicity_scores(["zzqx"])[0] < 0.1  # nothing known: the base rate
    assert toxicity_scores([]).dtype == np.float64


@pytest.mark.parametrize("function", [distinct_n, repetition_rate, vader_scores, toxicity_scores])
def test_wrong_types_are_named(function):
    with pytest.raises(TypeError, match="got one string 'a film'"):
        function("a film")
    with pytest.raises(TypeError, match=r"texts\[1\]: expected a string, got NoneType"):
        function(["a film", None])


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_wrong_n_is_named(n):
    with pytest.raises(ValueError, match="n: expected a whole number"):
        distinct_n(["a"], n)


# --- Typography


def test_the_sign_of_a_judgement_does_not_depend_on_typography():
    """VADER alone gives the first pair -0.34 and +0.44, and a heart of two code points 0."""
    straight = ["This isn't good.", "love \u2764", '"good" film', "a good film", "good... so good",
                "good - really"]
    typeset = ["This isn\u2019t good.", "love \u2764\ufe0f", "\u201cgood\u201d film", 
               "a\u00a0go\u00adod\u200b film", "good\u2026 so good", "good\u2014really"]
    expected = vader_scores(straight)
    assert expected[0] < 0 < expected[1:].min() and vader_scores(["\u2764\ufe0f"])[0] > 0
    assert vader_scores(typeset).tolist() == expected.tolist()
    assert toxicity_scores(typeset[:4]).tolist() == toxicity_scores(straight[:4]).tolist()
    assert words("Don\u2019t, DON'T co\u00adop") == ["don't", "don't", "coop"]
    assert distinct_n(["don\u2019t don't"], 1) == 0.5


def test_plain_typography_is_left_as_it_is():
    text = "It's \"good\" \u2013 caf\u00e9, \u00bd star...\nNa\u00efve \U0001f600!"
    assert normalise_for_judges(text) == text
