"""Typed settings of a constitutional run: one section for each phase, strict like ``rlhf_lite.config``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rlhf_lite.config import reading
from rlhf_lite.config.settings import (
    Accumulation,
    CheckpointConfig,
    Count,
    CountOrZero,
    LearningRate,
    LoraConfig,
    MaxGradNorm,
    ModelConfig,
    NonNegative,
    PairsPerStep,
    Place,
    Positive,
    Section,
    Seed,
    SFTConfig,
    Temperature,
    Text,
    TwoOrMore,
    WarmupSteps,
    WeightDecay,
)

Principles = Annotated[list[Text], Field(min_length=1)] | None


class CAIDataConfig(Section):
    """Prompts and principles."""

    prompts: Place | None = Field(None, description="prompt file, YAML; null = the package's rude threads")
    constitution: Place | None = Field(None, description="principles, YAML; null = the package's own")
    principles: Principles = Field(None, description="ids of the principles to use; null = all of them")
    max_tokens: TwoOrMore = Field(96, description="longer prompts lose their beginning, tokens")


class ReviseConfig(Section):
    """Critique and revision of the untouched model's own answers."""

    prompts: Count = Field(120, description="training prompts")
    samples: Count = Field(1, description="first answers to each prompt")
    rounds: Count = Field(2, description="revisions of each answer, one after the other")
    critique: bool = Field(True, description="write a critique before each revision")
    max_new_tokens: Count = Field(28, description="length limit of an answer, critique or revision, tokens")
    first_temperature: Positive = Field(0.7, description="sampling temperature of the first answers")
    temperature: Positive = Field(0.3, description="sampling temperature of critiques and revisions")


class FeedbackConfig(Section):
    """A model's judgement of the fine-tuned policy's answers."""

    judge: Place | None = Field(None, description="folder or Hub id of the judge; null = the model itself")
    method: Literal["likelihood", "pointwise", "pairwise"] = Field("likelihood", description=(
        "likelihood after two headings, a question about one answer, or about two in both orders"
    ))
    principles: Principles = Field(None, description="ids of those asked about; null = data.principles")
    examples: bool = Field(True, description="show the principle's examples before each question")
    compare: bool = Field(True, description="judge by all methods, and write down how good each is")
    prompts: Count = Field(120, description="training prompts")
    candidates: TwoOrMore = Field(4, description="answers to each prompt")
    max_new_tokens: Count = Field(28, description="length limit of an answer, tokens")
    temperature: Positive = Field(0.7, description="sampling temperature of the answers")
    min_log_odds: NonNegative = Field(0.0, description="pairs nearer than this are left out, nats")


class CAIDPOConfig(Section):
    """DPO on the model's preferences; the reference is the policy fine-tuned on revisions."""

    beta: Positive = Field(0.1, description="price of one nat of KL that the loss stands for")
    epochs: Count = Field(2, description="passes over the pairs")
    batch_size: PairsPerStep = 16
    accumulation: Accumulation = 1
    learning_rate: LearningRate = 5e-4
    warmup_steps: WarmupSteps = 2
    max_grad_norm: MaxGradNorm = 1.0
    weight_decay: WeightDecay = 0.0


class CAIEvaluationConfig(Section):
    """How the policies are compared, on prompts that were never trained on."""

    prompts: TwoOrMore = Field(60, description="test prompts")
    samples: Count = Field(4, description="answers to each prompt; their mean is one observation")
    max_new_tokens: Count = Field(28, description="length limit of an answer, tokens")
    temperature: Temperature = 0.7
    samples_shown: CountOrZero = Field(8, description="prompts shown in the report")


class CAIConfig(Section):
    """All settings of a constitutional run."""

    seed: Seed = 0
    output: Place = Field("runs/cai", description="folder of the run")
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: CAIDataConfig = CAIDataConfig()
    revise: ReviseConfig = ReviseConfig()
    sft: SFTConfig = SFTConfig(steps=15, batch_size=16, warmup_steps=2)
    feedback: FeedbackConfig = FeedbackConfig()
    dpo: CAIDPOConfig = CAIDPOConfig()
    evaluation: CAIEvaluationConfig = CAIEvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig(save_merged=False)


def load_cai_config(path: Path | str | None, overrides: Sequence[str] = ()) -> CAIConfig:
    """The settings: defaults, then a YAML file, then ``key=value`` overrides; see ``config.load_config``.

    Raises:
        ConfigError: lists every problem with its key, the value received and what was expected.
    """
    return reading.build(CAIConfig, None if path is None else Path(path), overrides)
