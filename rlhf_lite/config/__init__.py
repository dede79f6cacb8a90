"""Typed settings; see ``settings`` for the keys and ``reading`` for how files and overrides are read."""

from rlhf_lite.config.settings import (
    CheckpointConfig,
    DataConfig,
    DPOConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    PipelineConfig,
    PPOConfig,
    RewardConfig,
    SFTConfig,
    budget,
    load_config,
)
