"""The texts of a run, by what they may be used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_lite.config import PipelineConfig
from rlhf_lite.data import load_preferences, load_ratings, make_pairs, split_of, split_prompts, split_ratings
from rlhf_lite.types import Preference, Rating


@dataclass(frozen=True)
class Texts:
    """What each phase may see. No text is in two of train, validation, test and gold.

    Attributes:
        sft_train: (prompt, completion) for supervised fine-tuning.
        sft_validation: the same, for its held-out loss.
        train_pairs: preferences for the reward model.
        test_pairs: preferences for its accuracy.
        ppo_prompts: prompts to sample from in PPO (training split).
        test_prompts: prompts for the evaluation (test split).
        scale_texts: human texts that fix the reward's zero and unit (validation split).
        gold: rated texts, or preferences, for the gold judge alone.
        gold_check: the same from the test split, to measure the judge's agreement with people.
    """

    sft_train: list[tuple[str, str]]
    sft_validation: list[tuple[str, str]]
    train_pairs: list[Preference]
    test_pairs: list[Preference]
    ppo_prompts: list[str]
    test_prompts: list[str]
    scale_texts: list[str]
    gold: Sequence[Rating] | Sequence[Preference]
    gold_check: Sequence[Rating] | Sequence[Preference]


_VALIDATION_TEXTS, _SCALE_TEXTS, _CHECK_TEXTS = 64, 200, 300


def thin(rows: list, n: int) -> list:
    """At most ``n`` rows, spread evenly: the reviews are ordered, the first ones are all positive."""
    return rows if len(rows) <= n else [rows[i * len(rows) // n] for i in range(n)]


def review_texts(config: PipelineConfig) -> Texts:
    """Texts from the human ratings of movie reviews."""
    splits = split_ratings(load_ratings("movie"))
    words = {"words_min": config.data.prompt_words_min, "words_max": config.data.prompt_words_max}
    cut = {name: split_prompts(rows, **words, unique_prompts=name == "test") for name, rows in splits.items()}
    reward = config.reward
    return Texts(
        sft_train=cut["train"],
        sft_validation=thin(cut["validation"], _VALIDATION_TEXTS),
        train_pairs=make_pairs(splits["train"], n=reward.pairs, min_gap=reward.min_gap,
                               prompt_words=reward.prompt_words, seed=config.seed),
        test_pairs=make_pairs(splits["test"], n=reward.eval_pairs, min_gap=reward.eval_min_gap,
                              prompt_words=reward.prompt_words),
        ppo_prompts=[prompt for prompt, _ in cut["train"]],
        test_prompts=thin([prompt for prompt, _ in cut["test"]], config.evaluation.prompts),
        scale_texts=[rating.text for rating in thin(splits["validation"], _SCALE_TEXTS)],
        gold=thin(splits["gold"], config.evaluation.gold_texts),
        gold_check=thin(splits["test"], _CHECK_TEXTS),
    )


def preference_texts(config: PipelineConfig) -> Texts:
    """Texts from a preference file: its chosen answers, its pairs and its prompts, split by prompt."""
    records = load_preferences(config.data.source, on_error=config.data.on_error).records
    splits: dict[str, list[Preference]] = {"train": [], "validation": [], "test": [], "gold": []}
    for record in records:
        splits[split_of(record.prompt or record.chosen)].append(record)
    empty = [name for name, rows in splits.items() if not rows]
    if empty:
        raise ValueError(
            f"{config.data.source} has {len(records)} usable rows, too few: the split by content leaves "
            f"{', '.join(empty)} empty; a run needs at least some hundred different prompts"
        )
    prompts = {name: list(dict.fromkeys(r.prompt for r in rows)) for name, rows in splits.items()}
    return Texts(sft_train=[(r.prompt, r.chosen) for r in splits["train"]],
                 sft_validation=[(r.prompt, r.chosen) for r in thin(splits["validation"], _VALIDATION_TEXTS)],
                 train_pairs=thin(splits["train"], config.reward.pairs),
                 test_pairs=thin(splits["test"], config.reward.eval_pairs), ppo_prompts=prompts["train"],
                 test_prompts=thin(prompts["test"], config.evaluation.prompts),
                 scale_texts=[r.prompt + r.chosen for r in thin(splits["validation"], _SCALE_TEXTS)],
                 gold=thin(splits["gold"], config.evaluation.gold_texts),
                 gold_check=thin(splits["test"], _CHECK_TEXTS))


def run_texts(config: PipelineConfig) -> Texts:
    """The texts of a run, from the human ratings or from the preference file that the settings name."""
    if config.data.source == "reviews":
        return review_texts(config)
    if not Path(config.data.source).exists() and "/" not in config.data.source:
        raise ValueError(f"data.source is {config.data.source!r}: "
                         'neither "reviews" nor an existing file or folder nor a Hub id')
    return preference_texts(config)
