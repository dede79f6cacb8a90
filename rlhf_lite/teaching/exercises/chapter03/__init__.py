"""The exercises of chapter 3."""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter03.accumulated_loss import ACCUMULATED_LOSS
from rlhf_lite.teaching.exercises.chapter03.completion_mask import COMPLETION_MASK
from rlhf_lite.teaching.exercises.chapter03.packed_attention import PACKED_ATTENTION
from rlhf_lite.teaching.exercises.chapter03.packed_positions import PACKED_POSITIONS
from rlhf_lite.teaching.exercises.chapter03.perplexity import PERPLEXITY
from rlhf_lite.teaching.exercises.core import Exercise

EXERCISES: tuple[Exercise, ...] = (
    COMPLETION_MASK,
    ACCUMULATED_LOSS,
    PACKED_POSITIONS,
    PACKED_ATTENTION,
    PERPLEXITY,
)
