"""The texts of a run, by split: from the human ratings, or from somebody's preference file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lite.config import PipelineConfig
from rlhf_lite.data import (
    SplitReport,
    load_ratings,
    make_pairs,
    refuse_leaks,
    split_preferences,
    split_prompts,
    split_ratings,
)
from rlhf_lite.data.pairs import normalised
from rlhf_lite.errors import ConfigError
from rlhf_lite.pipeline.source import Source, read_source
from rlhf_lite.types import Preference, Rating

_VALIDATION_TEXTS, _SCALE_TEXTS, _CHECK_TEXTS = 64, 200, 300


@dataclass(frozen=True)
class Texts:
    """What each phase may see. No text is in two of train, validation, test and gold.

    Attributes:
        sft_train: (prompt, completion) for supervised fine-tuning.
        sft_validation: the same, for its held-out loss.
        train_pairs: preferences for the reward model; of a file all that training may see.
        test_pairs: preferences for its accuracy.
        ppo_prompts: prompts to sample from in PPO (training split).
        test_prompts: prompts for the evaluation (test split).
        scale_texts: (prompt, text) by people that fix the reward's zero and unit (validation split).
        gold: rated texts, or preferences, for the gold judge alone.
        gold_check: the same from the test split, to measure the judge's agreement with people.
        split: how a preference file was split; None for the ratings.
        source: the preference file; None for the ratings.
    """

    sft_train: list[tuple[str, str]]
    sft_validation: list[tuple[str, str]]
    train_pairs: list[Preference]
    test_pairs: list[Preference]
    ppo_prompts: list[str]
    test_prompts: list[str]
    scale_texts: list[tuple[str, str]]
    gold: Sequence[Rating] | Sequence[Preference]
    gold_check: Sequence[Rating] | Sequence[Preference]
    split: SplitReport | None = None
    source: Source | None = None


def thin(rows: list, n: int | None) -> list:
    """At most ``n`` rows, spread evenly: the reviews are ordered, the first ones are all positive."""
    return rows if n is None or len(rows) <= n else [rows[i * len(rows) // n] for i in range(n)]


def rating_pairs(ratings: Sequence[Rating], settings: str, **options: Any) -> list[Preference]:
    """`data.make_pairs`; what cannot be made is an error that names the ``settings`` it was to follow.

    Raises:
        ConfigError: if so many pairs cannot be made.
    """
    try:
        return make_pairs(ratings, **options)
    except ValueError as error:
        raise ConfigError([f"{settings}: {error}"]) from error


def review_texts(config: PipelineConfig) -> Texts:
    """Texts from the human ratings of movie reviews."""
    splits = split_ratings(load_ratings("movie"))
    words = {"words_min": config.data.prompt_words_min, "words_max": config.data.prompt_words_max}
    cut = {name: split_prompts(rows, **words, unique_prompts=name == "test") for name, rows in splits.items()}
    reward = config.reward
    test_prompts = [prompt for prompt, _ in cut["test"]]
    return Texts(sft_train=cut["train"], sft_validation=thin(cut["validation"], _VALIDATION_TEXTS),
                 train_pairs=rating_pairs(
                     splits["train"], "reward.pairs, reward.min_gap, reward.prompt_words", n=reward.pairs,
                     min_gap=reward.min_gap, prompt_words=reward.prompt_words, seed=config.seed),
                 test_pairs=rating_pairs(
                     splits["test"], "reward.eval_pairs, reward.eval_min_gap, reward.prompt_words",
                     n=reward.eval_pairs, min_gap=reward.eval_min_gap, prompt_words=reward.prompt_words),
                 ppo_prompts=[prompt for prompt, _ in cut["train"]],
                 test_prompts=thin(test_prompts, config.evaluation.prompts),
                 scale_texts=[("", rating.text) for rating in thin(splits["validation"], _SCALE_TEXTS)],
                 gold=thin(splits["gold"], config.evaluation.gold_texts),
                 gold_check=thin(splits["test"], _CHECK_TEXTS))


def preference_texts(config: PipelineConfig) -> Texts:
    """Texts from a preference file: its chosen answers, its pairs and its prompts."""
    records, source = read_source(config)
    divided = split_preferences(records, source=config.data.source)
    splits = {name: source.render(rows) for name, rows in divided.pairs.items()}
    prompts = {name: list(dict.fromkeys(r.prompt for r in rows)) for name, rows in splits.items()}
    asked = {normalised(prompt) for prompt in prompts["train"]}
    unseen = [prompt for prompt in prompts["test"] if normalised(prompt) not in asked]
    return Texts(sft_train=[(r.prompt, r.chosen) for r in splits["train"]],
                 sft_validation=[(r.prompt, r.chosen) for r in thin(splits["validation"], _VALIDATION_TEXTS)],
                 train_pairs=splits["train"], test_pairs=thin(splits["test"], config.reward.eval_pairs),
                 ppo_prompts=prompts["train"],
                 test_prompts=thin(unseen or prompts["test"], config.evaluation.prompts),
                 scale_texts=[(r.prompt, r.chosen) for r in thin(splits["validation"], _SCALE_TEXTS)],
                 gold=thin(splits["gold"], config.evaluation.gold_texts),
                 gold_check=thin(splits["test"], _CHECK_TEXTS), split=divided.report, source=source)


def run_texts(config: PipelineConfig) -> Texts:
    """The texts of a run, from the human ratings or from the preference file that the settings name.

    Raises:
        ConfigError: there is no such file.
        DataError: the file cannot be used, or a text is in two splits.
    """
    source = config.data.source
    if source != "reviews" and not Path(source).exists() and "/" not in source:
        raise ConfigError([f'data.source is {source!r}: neither "reviews" nor an existing file or folder '
                           "nor a Hub id"])
    texts = review_texts(config) if source == "reviews" else preference_texts(config)
    used = {"training": [*texts.sft_train, *texts.train_pairs],
            "validation": [*texts.sft_validation, *texts.scale_texts],
            "testing": [*texts.test_pairs, *texts.gold_check], "the gold judge": texts.gold}
    refuse_leaks({name: itertools.chain.from_iterable(map(whole_texts, rows)) for name, rows in used.items()},
                 source=source)
    return texts


def whole_texts(row: Preference | Rating | tuple[str, str] | str) -> list[str]:
    """The texts that a row of any kind holds: prompt and answer in one."""
    if isinstance(row, Preference):
        return [row.prompt + row.chosen, row.prompt + row.rejected]
    return [row.text if isinstance(row, Rating) else "".join(row)]
