"""Checks that trainers share."""

from __future__ import annotations

from rlhf_lite.models.trunk import SplitBody


def require_frozen_trunk(body: SplitBody) -> None:
    """Raise a ValueError if something below the split would have to be trained.

    The trunk runs without gradient: an adapter there would be left out of training without a word.
    """
    wrong = [name for name, p in body.lower.named_parameters() if p.requires_grad]
    if wrong:
        raise ValueError(
            f"{len(wrong)} trainable parameters lie below the split at layer {body.depth}, where no gradient "
            f"reaches them (the first is {wrong[0]}): give the scorer top_layers=None or the top_layers of "
            "its adapter"
        )
