"""The readiness check: hand values, identities, and models that must be found good or bad."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer, llama

from rlhf_lite.evaluation.readiness.check import (
    Evidence,
    Threshold,
    Thresholds,
    best_of_n_curve,
    calibration_error_ci,
    check_readiness,
    length_correlation,
    powers_of_two,
    readiness,
    sample_pool,
    skill_ci,
)
from rlhf_lite.evaluation.statistics import Interval, expected_calibration_error, wilson_interval
from rlhf_lite.types import Preference, Rating


def numbers(*, noise: float = 0.3, spoil: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    """What a reward model of given noise would measure; ``spoil`` makes the very best samples bad ones."""
    rng = np.random.default_rng(seed)
    gap = rng.uniform(1.0, 4.0, 400)
    right = rng.random(400) < 1 / (1 + np.exp(-2 * gap))  # people prefer as Bradley and Terry say
    difference = np.where(right, 1, -1) * 2 * gap
    gold = rng.normal(size=(60, 16))
    proxy = gold + noise * rng.normal(size=gold.shape)
    gold = gold - spoil * np.maximum(proxy - 1.0, 0.0)
    ratings, words = rng.normal(size=200), rng.integers(5, 40, 200)
    return {
        "chosen": difference, "rejected": np.zeros(400), "agreement": np.clip(0.5 + gap / 8, 0, 1),
        "pool_scores": proxy, "pool_gold": gold,
        "text_scores": ratings + noise * rng.normal(size=200), "text_words": words, "text_ratings": ratings,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("high_is_good", "value", "outcome"),
    [
        (True, Interval(0.7, 0.6, 0.8), "pass"),  # the worse end touches the target
        (True, Interval(0.7, 0.59, 0.8), "care"),
        (True, Interval(0.5, 0.45, 0.9), "fail"),  # the estimate must lie above the floor
        (True, None, "not measured"),
        (False, Interval(0.4, 0.3, 0.6), "pass"),
        (False, Interval(0.4, 0.3, 0.61), "care"),
        (False, Interval(0.8, 0.7, 0.9), "fail"),
    ],
)
def test_a_threshold_looks_at_the_worse_end_and_a_floor_at_the_estimate(high_is_good, value, outcome):
    threshold = Threshold(0.6, 0.5 if high_is_good else 0.7, "test", high_is_good=high_is_good)
    assert threshold.outcome(value) == outcome


def test_skill_by_hand():
    # weights 2a - 1 = 0.8, 0.2, 1.0; the second pair is wrong: (0.8 - 0.2 + 1.0) / 2.0
    assert skill_ci([1.0, -1.0, 2.0], [0.9, 0.6, 1.0]).estimate == pytest.approx(0.8)
    # the same from A = (0.9 + 0.4 + 1) / 3 and the ceiling C = (0.9 + 0.6 + 1) / 3
    assert pytest.approx((2.3 / 3 - 0.5) / (2.5 / 3 - 0.5)) == 0.8
    assert skill_ci([1.0, -1.0, 2.0]).estimate == pytest.approx(1 / 3)  # 2/3 right, without raters
    assert skill_ci([0.0, 0.0], [0.9, 0.7]).estimate == 0.0  # ties know nothing
    assert skill_ci([-1.0, -5.0], [0.9, 0.7]).estimate == -1.0


def test_skill_of_equal_pairs_is_twice_wilsons_share_less_one():
    low, high = (2 * end - 1 for end in wilson_interval(3, 4).ends)
    assert skill_ci([1.0, 1.0, -1.0, 1.0]) == pytest.approx((0.5, low, high))


def test_skill_of_many_pairs_needs_little_memory():
    difference, agreement = np.random.default_rng(0).normal(1, 1, 40_000), np.full(40_000, 0.8)
    tracemalloc.start()
    skill_ci(difference, agreement)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # it was 1.65 GB


def test_skill_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="swapped"):
        skill_ci([1.0, 1.0], [0.2, 0.3])
    with pytest.raises(ValueError, match="agreement"):
        skill_ci([1.0, 1.0], [0.2])
    with pytest.raises(ValueError, match="finite"):
        skill_ci([1.0, float("nan")])


def test_calibration_error_is_that_of_both_orders():
    difference = np.random.default_rng(0).normal(1.0, 2.0, 80)
    p = 1 / (1 + np.exp(-difference))
    both = expected_calibration_error(np.r_[p, 1 - p], np.r_[np.ones(80), np.zeros(80)])
    found = calibration_error_ci(difference, seed=0)
    assert found.estimate == pytest.approx(both)
    assert found.low <= found.estimate <= found.high


def test_calibration_error_sees_overconfidence():
    rng = np.random.default_rng(0)
    true = rng.normal(0.0, 1.5, 4000)
    label = np.where(rng.random(4000) < 1 / (1 + np.exp(-true)), 1, -1)
    assert calibration_error_ci(label * true, resamples=100, seed=0).high < 0.05
    assert calibration_error_ci(label * true * 5, resamples=100, seed=0).low > 0.1


def test_length_correlation_is_the_partial_correlation():
    rng = np.random.default_rng(2)
    ratings = rng.normal(size=300)
    words = 20 + 3 * ratings**2 + rng.normal(0, 5, 300)
    scores = ratings - ratings**2 + 0.05 * words + rng.normal(size=300)
    # partial correlation from the inverse of the covariance matrix
    inverse = np.linalg.inv(np.cov([scores, words, ratings, ratings**2]))
    wanted = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    found = length_correlation(scores, words, ratings)
    assert found.estimate == pytest.approx(wanted)
    assert found.low < wanted < found.high
    z = np.arctanh(found.estimate) + np.array([-1, 1]) * norm.ppf(0.975) / np.sqrt(300 - 3 - 2)
    assert found.ends == pytest.approx(np.tanh(z).tolist())  # two variables were held fixed
    for scores in (np.ones(300), 3 * ratings):  # the same for every text, the rating itself
        nothing = length_correlation(scores, words, ratings)
        assert nothing.estimate == 0 and np.isnan(nothing.ends).all()


def test_the_curve_by_hand():
    curve = best_of_n_curve([[1.0, 2.0, 3.0]], [[7.0, 5.0, 0.0]], [1, 2, 3])
    # n = 2: winners of {1,2}, {1,3}, {2,3} have the values 5, 0, 0
    np.testing.assert_allclose(curve, [[4.0, 5 / 3, 0.0]], atol=1e-12)
    assert powers_of_two(8) == [1, 2, 4, 8]
    assert powers_of_two(12) == [1, 2, 4, 8, 12]
    assert powers_of_two(1) == [1]


def test_a_good_model_is_ready():
    found = readiness(**numbers())
    assert found.verdict == "ready"
    assert found.gold_peak == 16
    names = ["accuracy", "calibration", "gain", "overoptimisation", "length"]
    assert [c.name for c in found.criteria] == names
    assert [n for n, *_ in found.curve] == [1, 2, 4, 8, 16]
    proxy = [point[1] for point in found.curve]
    assert proxy == sorted(proxy)
    assert found == readiness(**numbers())  # the seed decides


def test_guessing_is_not_ready():
    bad = numbers()
    bad["chosen"] = np.random.default_rng(5).normal(size=400)
    assert readiness(**bad).outcome("accuracy") == "fail"
    assert readiness(**bad).verdict == "not ready"


def test_overconfidence_is_found():
    bad = numbers()
    bad["chosen"] = np.sign(np.random.default_rng(5).random(400) - 0.25) * 20
    assert readiness(**bad).outcome("calibration") == "fail"


def test_a_turned_gold_score_is_found():
    found = readiness(**numbers(spoil=4.0))
    assert found.outcome("overoptimisation") == "fail"
    assert found.gold_peak < 16
    assert found.verdict == "not ready"


def test_useless_choice_is_found():
    bad = numbers()
    bad["pool_scores"] = -bad["pool_scores"]
    assert readiness(**bad).outcome("gain") == "fail"


def test_length_is_found_in_both_directions():
    for sign in (1, -1):
        bad = numbers()
        bad["text_scores"] = bad["text_scores"] + sign * 0.2 * bad["text_words"]
        found = readiness(**bad)
        assert found.outcome("length") == "fail"
        assert f"r = {'+' if sign > 0 else '-'}" in found.criteria[-1].detail


def test_what_was_not_measured_is_said_and_costs_the_full_verdict():
    known = numbers()
    found = readiness(chosen=known["chosen"], rejected=known["rejected"])
    assert [c.outcome for c in found.criteria][2:] == ["not measured"] * 3
    assert found.verdict == "ready with care"
    assert found.gold_peak is None


def test_thresholds_are_settings():
    strict = replace(Thresholds(), accuracy=Threshold(0.999, 0.99, "a whim"))
    assert readiness(**numbers(), thresholds=strict).outcome("accuracy") == "fail"


def test_the_table_says_everything():
    found = readiness(**numbers())
    for text in (str(found), found.markdown().replace("\\", "")):
        assert all(c.name in text and c.detail in text for c in found.criteria)
        assert text.rstrip(".\n").replace("*", "").endswith("erdict: ready")
    assert len(found.markdown().splitlines()) == 2 + 5 + 2
    lines = str(found).splitlines()
    rows = zip(lines[1:-1], found.criteria, strict=True)
    places = {(line.index(c.outcome), line.index(c.detail)) for line, c in rows}
    assert len(places) == 1 and len(lines) == 7  # columns line up


def test_pools_that_do_not_fit_are_refused():
    known = numbers()
    with pytest.raises(ValueError, match=r"\[P, M\]"):
        readiness(**(known | {"pool_gold": known["pool_gold"][:3]}))
    with pytest.raises(ValueError, match="cannot judge"):
        readiness(**(known | {"pool_gold": np.zeros((60, 16))}))
    pair = Preference("a", " b", " c")
    with pytest.raises(ValueError, match="equally many"):
        check_readiness(lambda texts: np.zeros(len(texts)), Evidence([pair], [["a b"], ["a", "b"]], [[1.0]]))


def evidence() -> Evidence:
    """Texts that say how good they are: "good" words minus "bad" words is the truth."""
    rng = np.random.default_rng(0)

    def text(good: int, bad: int, filler: int) -> str:
        return " ".join(["The", *["good"] * good, *["bad"] * bad, *["film"] * filler])

    drawn = [[int(x) for x in rng.integers(0, 6, 3)] for _ in range(400)]
    ratings = [
        Rating(str(i), text(good, bad, rest), (max(-4, min(4, good - bad)),), "test")
        for i, (good, bad, rest) in enumerate(drawn)
    ]
    pairs = [
        Preference("The", a.text[3:], b.text[3:], meta={"agreement": 0.9})
        for a, b in zip(ratings[:200], ratings[200:], strict=True)
        if a.mean > b.mean
    ]
    pool = [[text(*(int(x) for x in rng.integers(0, 6, 3))) for _ in range(8)] for _ in range(40)]
    return Evidence(pairs, pool, [[truth([t])[0] for t in row] for row in pool], ratings)


def truth(texts: list[str]) -> list[float]:
    return [float(t.count("good") - t.count("bad")) for t in texts]


def test_the_truth_is_ready_and_length_is_not():
    material = evidence()
    good = check_readiness(lambda texts: [2 * x for x in truth(texts)], material)
    assert good.verdict == "ready"
    assert good.criteria[0].value.estimate == 1.0
    assert good.criteria[-1].value.high <= 0.2
    bad = check_readiness(lambda texts: [len(t.split()) for t in texts], material)
    assert bad.verdict == "not ready"
    assert bad.outcome("accuracy") == bad.outcome("length") == "fail"


def test_evidence_without_raters_has_no_ceiling():
    material = evidence()
    bare = replace(material, pairs=[replace(pair, meta={}) for pair in material.pairs], ratings=())
    found = check_readiness(truth, bare)
    assert "single raters" not in found.criteria[0].detail
    assert found.outcome("length") == "not measured"


def test_a_pool_holds_whole_texts_and_repeats_itself():
    tokenizer = byte_tokenizer()
    model = llama(vocab=len(tokenizer))
    options = {"n": 3, "max_new_tokens": 4}
    pool = sample_pool(model, tokenizer, ["ab", "c"], **options)
    assert [len(texts) for texts in pool] == [3, 3]
    assert all(text.startswith("ab") for text in pool[0]) and all(text.startswith("c") for text in pool[1])
    assert len({text for texts in pool for text in texts}) > 2
    assert sample_pool(model, tokenizer, ["ab", "c"], **options) == pool
    assert sample_pool(model, tokenizer, ["ab", "c"], **options, seed=1) != pool
