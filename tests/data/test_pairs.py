"""Splits that do not leak, prompts that add up, and pairs that say what the raters said."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lite.data.pairs import (
    agreement,
    cut,
    make_pairs,
    normalised,
    split_of,
    split_prompts,
    split_ratings,
)
from rlhf_lite.data.sources import load_ratings
from rlhf_lite.types import Rating

texts = st.text(st.sampled_from("ab .,!\n\t\u00e9I'"), max_size=40)


def rating(key: int, text: str, *scores: int) -> Rating:
    return Rating(str(key), text, scores or (0,), "test")


def many(n: int = 300, seed: int = 0) -> list[Rating]:
    """Short texts with few different openings and spread ratings."""
    draw = random.Random(seed)
    return [
        rating(
            i,
            f"{draw.choice(['The film', 'The plot', 'A work'])} number {i} goes on",
            *(draw.randint(-4, 4) for _ in range(3)),
        )
        for i in range(n)
    ]


# --- splits ---------------------------------------------------------------------------------------


def test_splits_are_pinned_for_ever() -> None:
    # A changed hash would move texts between the splits of published runs. Expected: the first 12 hex digits
    # of printf 'split\0a gripping film' | sha256sum, over 16**12, against 0.5, 0.6 and 0.75.
    expected = {
        "A gripping film.": "train",  # 0.361
        "Dull!": "train",  # 0.412
        "A must-see": "validation",  # 0.506
        "(a mess)": "test",  # 0.609
        "It's a mess": "gold",  # 0.769
        "The plot is thin": "gold",  # 0.981
    }
    assert {text: split_of(text) for text in expected} == expected


@given(texts)
def test_near_copies_share_a_split(text: str) -> None:
    assert split_of(text) == split_of(f"  {text.strip()} ") == split_of(text.strip())
    if any(c.isalnum() for c in text):
        assert split_of(text) == split_of(text.upper()) == split_of(text + "!!!")


def test_normalised_keeps_texts_of_punctuation_apart() -> None:
    assert normalised("...") == "..." != normalised("!")
    assert normalised("YAY!!! Another  good one") == normalised("yay, another good one.")
    assert normalised("\ufb01lm") == "film"  # the ligature


def test_real_splits_are_disjoint_complete_and_of_the_stated_size() -> None:
    ratings = load_ratings("movie")
    splits = split_ratings(ratings)
    assert Counter(r.id for part in splits.values() for r in part) == Counter(r.id for r in ratings)
    contents = [{normalised(r.text) for r in part} for part in splits.values()]
    for i, one in enumerate(contents):
        for other in contents[i + 1 :]:
            assert not one & other
    shares = {name: len(part) / len(ratings) for name, part in splits.items()}
    # Three standard errors of a share of 10,605 texts are at most 1.5 points.
    assert shares == pytest.approx({"train": 0.5, "validation": 0.1, "test": 0.15, "gold": 0.25}, abs=0.015)


# --- prompts --------------------------------------------------------------------------------------


@given(texts, st.integers(0, 5))
def test_cut_adds_up(text: str, words: int) -> None:
    parts = cut(text, words)
    if len(text.split()) <= words:
        assert parts is None
        return
    assert parts is not None
    prompt, continuation = parts
    assert prompt + continuation == text
    assert prompt.split() == text.split()[:words] and continuation.split() == text.split()[words:]
    assert words == 0 or continuation[0].isspace()


@given(st.lists(texts, max_size=12), st.integers(1, 3), st.integers(0, 3), st.integers(0, 5))
def test_openings_add_up(several: list[str], low: int, more: int, seed: int) -> None:
    ratings = [rating(i, text) for i, text in enumerate(several)]
    found = split_prompts(ratings, words_min=low, words_max=low + more, seed=seed)
    for prompt, continuation in found:
        assert prompt + continuation in several
        assert low <= len(prompt.split()) <= low + more and continuation.strip()
    long_enough = {normalised(text) for text in several if len(text.split()) > low}
    assert {normalised(prompt + rest) for prompt, rest in found} == long_enough
    assert len(found) == len(long_enough)


def test_openings_use_every_length_and_depend_on_the_text_alone() -> None:
    ratings = many()
    found = split_prompts(ratings, words_min=2, words_max=4)
    assert {len(p.split()) for p, _ in found} == {2, 3, 4}
    assert split_prompts(ratings[100:], words_min=2, words_max=4) == found[100:]
    assert split_prompts(ratings, words_min=2, words_max=4, seed=1) != found


def test_openings_with_unique_prompts() -> None:
    found = split_prompts(many(), words_min=2, words_max=2, unique_prompts=True)
    assert sorted(p for p, _ in found) == ["A work", "The film", "The plot"]


def test_openings_refuse_an_impossible_range() -> None:
    with pytest.raises(ValueError, match="words_min=4, words_max=3"):
        split_prompts([], words_min=4, words_max=3)


# --- pairs ----------------------------------------------------------------------------------------


def test_agreement_by_hand() -> None:
    # 9 comparisons: 3 beats 1 and 2, ties 3; 2 beats 1, ties 2, loses to 3; 1 ties 1, loses twice.
    assert agreement(rating(1, "a", 1, 2, 3), rating(2, "b", 1, 2, 3)) == 0.5
    # 2 beats 1 (1), 2 ties 2 (half), 0 loses twice: 1.5 of 4
    assert agreement(rating(1, "a", 2, 0), rating(2, "b", 1, 2)) == 0.375
    assert agreement(rating(1, "a", 4), rating(2, "b", -4)) == 1.0


@pytest.mark.parametrize("words", [0, 1, 2])
@pytest.mark.parametrize("min_gap", [0.0, 1.5])
def test_pairs_are_what_they_claim(words: int, min_gap: float) -> None:
    ratings = many()
    by_id = {r.id: r for r in ratings}
    pairs = make_pairs(ratings, n=200, min_gap=min_gap, prompt_words=words, seed=3)
    assert len(pairs) == 200
    ids = [(p.meta["chosen_id"], p.meta["rejected_id"]) for p in pairs]
    assert len({frozenset(pair) for pair in ids}) == 200
    for pair, (chosen_id, rejected_id) in zip(pairs, ids, strict=True):
        chosen, rejected = by_id[chosen_id], by_id[rejected_id]
        assert pair.prompt + pair.chosen == chosen.text and pair.prompt + pair.rejected == rejected.text
        assert len(pair.prompt.split()) == words
        assert pair.margin == pytest.approx(chosen.mean - rejected.mean) and pair.margin > min_gap
        assert pair.meta["agreement"] == agreement(chosen, rejected)


def test_reviews_are_used_evenly() -> None:
    pairs = make_pairs(many(300), n=140, min_gap=0.0, prompt_words=1)
    uses = Counter(p.meta[side] for p in pairs for side in ("chosen_id", "rejected_id"))
    assert max(uses.values()) == 1
    pairs = make_pairs(many(40), n=50, min_gap=0.0, prompt_words=0, max_uses=3)
    uses = Counter(p.meta[side] for p in pairs for side in ("chosen_id", "rejected_id"))
    assert max(uses.values()) <= 3 and len(uses) == 40


def test_pairs_depend_on_the_set_and_the_seed_only() -> None:
    ratings = many()
    shuffled = ratings[:]
    random.Random(5).shuffle(shuffled)
    wanted = make_pairs(ratings, n=100)
    assert make_pairs(shuffled, n=100) == wanted
    assert make_pairs(ratings, n=100, seed=1) != wanted


def test_filters_on_disagreement() -> None:
    ratings = many()
    calm = make_pairs(ratings, n=30, max_std=1.5)
    by_id = {r.id: r for r in ratings}
    assert all(by_id[p.meta[s]].std <= 1.5 for p in calm for s in ("chosen_id", "rejected_id"))
    clear = make_pairs(ratings, n=30, min_agreement=0.95)
    assert all(p.meta["agreement"] >= 0.95 for p in clear)
    assert any(p.meta["agreement"] < 0.95 for p in make_pairs(ratings, n=30))


def test_ties_and_near_copies_make_no_pair() -> None:
    equal = [rating(1, "It is good", 1), rating(2, "It is bad", 1)]
    copies = [rating(1, "It is good", 4), rating(2, "It is good!!", -4)]
    for ratings in (equal, copies):
        with pytest.raises(ValueError, match="only 0 pairs can be made of 2 ratings"):
            make_pairs(ratings, n=1, min_gap=0.0)


def test_too_many_pairs_is_an_error_that_counts() -> None:
    ratings = [rating(i, f"The number {i + 4}", i) for i in range(-4, 5)]
    # 9 texts with whole-number means: 36 pairs, 8 of them with a gap of exactly 1.
    assert len(make_pairs(ratings, n=28, min_gap=1.0)) == 28
    with pytest.raises(ValueError, match=r"only 28 pairs .* n=29 were asked for: lower n"):
        make_pairs(ratings, n=29, min_gap=1.0)


def test_every_pair_within_reach_is_drawn_about_equally() -> None:
    ratings = [rating(i, f"The number {i + 4}", i, i) for i in (-4, -2, 0, 2, 4)]
    counts = Counter(
        frozenset((p.meta["chosen_id"], p.meta["rejected_id"]))
        for seed in range(600)
        for p in make_pairs(ratings, n=1, seed=seed)
    )
    assert len(counts) == 10  # 5 over 2
    assert min(counts.values()) > 30  # expected 60, standard deviation 7.3


@pytest.mark.parametrize("bad", [{"n": -1}, {"min_gap": -0.1}, {"prompt_words": -1}, {"max_uses": 0}])
def test_senseless_settings(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))}={next(iter(bad.values()))}"):
        make_pairs(many(10), **{"n": 1, **bad})  # type: ignore[arg-type]  # wrong on purpose


def test_the_real_reviews_give_enough_pairs_for_the_quick_start() -> None:
    splits = split_ratings(load_ratings("movie"))
    train = make_pairs(splits["train"], n=960, min_gap=1.0, prompt_words=1)
    test = make_pairs(splits["test"], n=400, min_gap=1.0, prompt_words=1)
    used = {p.prompt + side for p in train for side in (p.chosen, p.rejected)}
    assert not used & {p.prompt + side for p in test for side in (p.chosen, p.rejected)}
    assert len({p.prompt for p in train}) > 100
