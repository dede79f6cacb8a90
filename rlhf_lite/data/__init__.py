"""Data: the human ratings, preference files in every form, pairs, splits, conversations and batches.

Names are loaded on first use, so importing this package loads no heavy library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_lite.data.assets import AssetError, cache_dir, ensure_model, ensure_ratings, verify
    from rlhf_lite.data.collate import PairBatch, collate_pairs, pad_left, pad_right
    from rlhf_lite.data.errors import DataError
    from rlhf_lite.data.formatting import chat_template, encode_pair, plain_text, render_preference
    from rlhf_lite.data.pairs import agreement, make_pairs, openings, split_of, split_ratings
    from rlhf_lite.data.schema import (
        LoadReport,
        PreferenceData,
        load_preferences,
        preferences_from_rows,
        save_preferences,
    )
    from rlhf_lite.data.sources import load_ratings

_HOMES = {
    "assets": ("AssetError", "cache_dir", "ensure_model", "ensure_ratings", "verify"),
    "collate": ("PairBatch", "collate_pairs", "pad_left", "pad_right"),
    "errors": ("DataError",),
    "formatting": ("chat_template", "encode_pair", "plain_text", "render_preference"),
    "pairs": ("agreement", "make_pairs", "openings", "split_of", "split_ratings"),
    "schema": (
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
    "AssetError",
    "DataError",
    "LoadReport",
    "PairBatch",
    "PreferenceData",
    "agreement",
    "cache_dir",
    "chat_template",
    "collate_pairs",
    "encode_pair",
    "ensure_model",
    "ensure_ratings",
    "load_preferences",
    "load_ratings",
    "make_pairs",
    "openings",
    "pad_left",
    "pad_right",
    "plain_text",
    "preferences_from_rows",
    "render_preference",
    "save_preferences",
    "split_of",
    "split_ratings",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
