"""Data: human ratings and their reliability, preference files in every form, pairs, splits, quality, batches.

Names are loaded on first use, so importing this package loads no heavy library.
"""

# ruff: noqa: F401 (the imports are for editors, type checkers and lazy_names)
from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lite.lazy import lazy_names

if TYPE_CHECKING:
    from rlhf_lite.data.assets.ensure import cache_dir, ensure_model, ensure_ratings, verify
    from rlhf_lite.data.collate import pad_left, pad_right
    from rlhf_lite.data.files.schema import (
        LoadReport,
        PreferenceData,
        load_preferences,
        preferences_from_rows,
        save_preferences,
    )
    from rlhf_lite.data.formatting import chat_template, encode_pair, plain_text, render_preference
    from rlhf_lite.data.label_efficiency import (
        ShownPair,
        both_orders,
        drop_words,
        implied_wins,
        most_diverse,
        most_uncertain,
        score_variance,
    )
    from rlhf_lite.data.labelling import Judgements, LabellingPage, labelling_page, read_judgements
    from rlhf_lite.data.pairs import agreement, make_pairs, split_of, split_prompts, split_ratings
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
    from rlhf_lite.data.splits import PreferenceSplits, SplitReport, refuse_leaks, split_preferences

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
