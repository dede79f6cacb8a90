"""Data: human ratings and their reliability, preference files in every form, pairs, splits, quality, batches.

Names are loaded on first use, so importing this package loads no heavy library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_lite.data.active import most_diverse, most_uncertain, score_variance
    from rlhf_lite.data.assets.ensure import cache_dir, ensure_model, ensure_ratings, verify
    from rlhf_lite.data.augmentation import Comparison, both_orders, drop_words, implied_wins
    from rlhf_lite.data.collate import PairBatch, collate_pairs, pad_left, pad_right
    from rlhf_lite.data.files.schema import (
        LoadReport,
        PreferenceData,
        load_preferences,
        preferences_from_rows,
        save_preferences,
    )
    from rlhf_lite.data.formatting import chat_template, encode_pair, plain_text, render_preference
    from rlhf_lite.data.labelling import Judgements, LabellingPage, labelling_page, read_judgements
    from rlhf_lite.data.pairs import agreement, make_pairs, openings, split_of, split_ratings
    from rlhf_lite.data.quality import (
        NearDuplicate,
        character_ngrams,
        jaccard,
        leaked_pairs,
        length_count,
        near_duplicates,
        text_problems,
    )
    from rlhf_lite.data.reliability import (
        RestAgreement,
        agreement_with_rest,
        flip_probability,
        krippendorff_alpha,
        majority_error,
        rater_consistency,
        reliability_of_mean,
    )
    from rlhf_lite.data.sources import load_ratings

_HOMES = {
    "active": ("most_diverse", "most_uncertain", "score_variance"),
    "assets.ensure": ("cache_dir", "ensure_model", "ensure_ratings", "verify"),
    "augmentation": ("Comparison", "both_orders", "drop_words", "implied_wins"),
    "collate": ("PairBatch", "collate_pairs", "pad_left", "pad_right"),
    "formatting": ("chat_template", "encode_pair", "plain_text", "render_preference"),
    "labelling": ("Judgements", "LabellingPage", "labelling_page", "read_judgements"),
    "pairs": ("agreement", "make_pairs", "openings", "split_of", "split_ratings"),
    "quality": (
        "NearDuplicate",
        "character_ngrams",
        "jaccard",
        "leaked_pairs",
        "length_count",
        "near_duplicates",
        "text_problems",
    ),
    "reliability": (
        "RestAgreement",
        "agreement_with_rest",
        "flip_probability",
        "krippendorff_alpha",
        "majority_error",
        "rater_consistency",
        "reliability_of_mean",
    ),
    "files.schema": (
        "LoadReport",
        "PreferenceData",
        "load_preferences",
        "preferences_from_rows",
        "save_preferences",
    ),
    "sources": ("load_ratings",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Comparison",
    "Judgements",
    "LabellingPage",
    "LoadReport",
    "NearDuplicate",
    "PairBatch",
    "PreferenceData",
    "RestAgreement",
    "agreement",
    "agreement_with_rest",
    "both_orders",
    "cache_dir",
    "character_ngrams",
    "chat_template",
    "collate_pairs",
    "drop_words",
    "encode_pair",
    "ensure_model",
    "ensure_ratings",
    "flip_probability",
    "implied_wins",
    "jaccard",
    "krippendorff_alpha",
    "labelling_page",
    "leaked_pairs",
    "length_count",
    "load_preferences",
    "load_ratings",
    "majority_error",
    "make_pairs",
    "most_diverse",
    "most_uncertain",
    "near_duplicates",
    "openings",
    "pad_left",
    "pad_right",
    "plain_text",
    "preferences_from_rows",
    "rater_consistency",
    "read_judgements",
    "reliability_of_mean",
    "render_preference",
    "save_preferences",
    "score_variance",
    "split_of",
    "split_ratings",
    "text_problems",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
