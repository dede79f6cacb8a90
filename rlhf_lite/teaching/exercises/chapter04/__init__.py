"""The exercises of chapter 4: LoRA by hand, counting, merging, bits per parameter, a learning rate."""

from __future__ import annotations

from rlhf_lite.teaching.exercises.chapter04.bits_per_parameter import BITS_PER_PARAMETER
from rlhf_lite.teaching.exercises.chapter04.lora_forward import LORA_FORWARD
from rlhf_lite.teaching.exercises.chapter04.lora_parameters import LORA_PARAMETERS
from rlhf_lite.teaching.exercises.chapter04.merged_weight import MERGED_WEIGHT
from rlhf_lite.teaching.exercises.chapter04.read_learning_rate import READ_LEARNING_RATE

EXERCISES = (LORA_FORWARD, LORA_PARAMETERS, MERGED_WEIGHT, BITS_PER_PARAMETER, READ_LEARNING_RATE)
