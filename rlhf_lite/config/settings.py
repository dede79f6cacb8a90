"""Typed settings: defaults, then a YAML file, then ``key=value`` from the command line.

``load_config`` returns a frozen ``PipelineConfig`` or raises one ``ConfigError`` that lists
everything wrong at once. Types are strict, with two exceptions that have one meaning only:
an int is accepted for a float, and a string that is a clean number is accepted for a float,
because YAML 1.1 reads ``2e-4`` (no decimal point) as a string.

The sections are plain pydantic models; ``reading`` finds keys, types and ranges in them, so a new field needs
no other change. What a field of several sections means stands once, in the types.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rlhf_lite.config import reading
from rlhf_lite.files import at_home

BUDGETS = ("fast", "full")

_CLEAN_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def _number_from_text(value: Any) -> Any:
    """Turn ``"2e-4"`` into 0.0002 and leave everything else to the type check."""
    if isinstance(value, str) and _CLEAN_NUMBER.fullmatch(value):
        return float(value)
    return value


def _as_place(value: str) -> str:
    """A folder, file or Hub id as it is meant: ``~`` is the home folder."""
    if "\0" in value:
        raise ValueError("a path holds no NUL character")
    return at_home(value)


Number = Annotated[float, BeforeValidator(_number_from_text)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
BelowOne = Annotated[Number, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Place = Annotated[Text, AfterValidator(_as_place)]
TwoOrMore = Annotated[int, Field(ge=2)]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="seeds everything random")]

PairsPerStep = Annotated[Count, Field(description="pairs per optimiser step")]
Accumulation = Annotated[Count, Field(description="parts a batch is computed in, to save memory")]
LearningRate = Annotated[Positive, Field(description="peak learning rate (AdamW)")]
WarmupSteps = Annotated[CountOrZero, Field(description="steps of linear warm-up")]
MaxGradNorm = Annotated[Positive, Field(description="gradients are clipped to this norm")]
WeightDecay = Annotated[NonNegative, Field(description="AdamW weight decay")]
CompletionTokens = Annotated[Count, Field(description="length limit of a completion, tokens")]
Temperature = Annotated[Positive, Field(description="sampling temperature")]


class Section(BaseModel):
    """Settings cannot be changed after loading, hold no unknown key, NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False,
                              validate_default=True)

    def save(self, path: Path | str) -> None:
        """Write the settings as commented YAML that is read back unchanged, atomically."""
        reading.write(self, Path(path))


class ModelConfig(Section):
    """Which language model is trained, and how it is held in memory."""

    name: Place | None = Field(None, description="folder or Hub id; null = the SmolLM2-135M-Instruct asset")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto = bf16 where the processor computes in it, else fp32"
    )
    threads: Count | None = Field(None, description="CPU threads for torch; null = torch decides")


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021)."""

    rank: Count = Field(16, description="rank of the update matrices")
    alpha: Positive = Field(32.0, description="the update is scaled by alpha / rank")
    dropout: BelowOne = Field(0.0, description="dropout on the adapter's input, fraction")
    top_layers: Count | None = Field(8, description="adapt only the last N layers; null = all")
    target_modules: Literal["all-linear"] | Annotated[list[Text], Field(min_length=1)] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj"], description='module names to adapt, or "all-linear"'
    )


class DataConfig(Section):
    """Where texts and preferences come from."""

    source: Place = Field("reviews", description='"reviews" (the human ratings asset) or a preference file')
    prompt_words_min: Count = Field(3, description="shortest opening used as a prompt, words")
    prompt_words_max: Count = Field(6, description="longest opening used as a prompt, words")
    max_tokens: TwoOrMore | None = Field(
        None, description="longer texts are cut, tokens; null = 40 for the reviews, from the texts of a file"
    )
    template: Literal["auto", "chat", "plain"] = Field(
        "auto", description="chat = the model's chat template, plain = texts as they are; auto = chat if the "
                            "model has a template and every row is a conversation"
    )
    on_error: Literal["raise", "skip"] = Field("raise", description="what to do with a broken row")

    @model_validator(mode="after")
    def _range_is_ordered(self) -> DataConfig:
        if self.prompt_words_min > self.prompt_words_max:
            raise ValueError(f"prompt_words_min ({self.prompt_words_min}) is above prompt_words_max "
                             f"({self.prompt_words_max}); raise the second or lower the first")
        return self


class SFTConfig(Section):
    """Supervised fine-tuning on openings and their continuations."""

    steps: Count = Field(30, description="optimiser steps")
    batch_size: Count = Field(16, description="texts per optimiser step")
    accumulation: Accumulation = 1
    learning_rate: LearningRate = 1e-3
    warmup_steps: WarmupSteps = 5
    max_grad_norm: MaxGradNorm = 1.0
    weight_decay: WeightDecay = 0.0


class RewardConfig(Section):
    """The reward model, trained on human preference pairs."""

    pairs: Count | None = Field(
        None, description="training pairs, spread evenly; null = 960 of the reviews, all of a file"
    )
    min_gap: NonNegative = Field(1.5, description="smallest gap of mean ratings in a pair, in points")
    prompt_words: CountOrZero = Field(1, description="both reviews start with the same N words; 0 = any two")
    batch_size: PairsPerStep = 16
    accumulation: Accumulation = 1
    epochs: Count = Field(1, description="passes over the training pairs")
    learning_rate: LearningRate = 1e-3
    warmup_steps: WarmupSteps = 5
    max_grad_norm: MaxGradNorm = 1.0
    weight_decay: WeightDecay = 0.0
    eval_pairs: Count = Field(320, description="held-out pairs for the accuracy")
    eval_min_gap: NonNegative = Field(1.0, description="smallest gap in a held-out pair, rating points")
    centre: NonNegative = Field(0.01, description="weight of (r_chosen + r_rejected)^2: centres rewards")


class PPOConfig(Section):
    """Proximal policy optimisation (Schulman et al. 2017; Ziegler et al. 2019)."""

    steps: Count = Field(15, description="rounds of sampling and updating")
    prompts_per_step: TwoOrMore = Field(40, description="completions sampled per step")
    max_new_tokens: CompletionTokens = 16
    temperature: Temperature = 1.0
    epochs: Count = Field(2, description="passes over each step's samples")
    minibatches: Count = Field(4, description="optimiser steps per pass")
    learning_rate: LearningRate = 1e-3
    warmup_steps: WarmupSteps = 2
    max_grad_norm: MaxGradNorm = 1.0
    clip: Positive = Field(0.2, description="the probability ratio is clipped to 1 +- clip")
    value_clip: Positive | None = Field(0.2, description="values move at most this far; null = no limit")
    value_coef: NonNegative = Field(0.1, description="weight of the value loss")
    gamma: Fraction = Field(1.0, description="discount per token")
    lam: Fraction = Field(0.95, description="lambda of generalised advantage estimation")
    kl_coef: NonNegative = Field(0.05, description="price of one nat of KL to the reference (at first)")
    kl_target: Positive | None = Field(None, description="KL to aim at, nats per sequence; null = fixed")
    kl_horizon: Positive = Field(500.0, description="completions over which the controller reacts")
    whiten_advantages: bool = Field(True, description="give advantages mean 0 and standard deviation 1")

    @model_validator(mode="after")
    def _minibatches_fit(self) -> PPOConfig:
        if self.minibatches > self.prompts_per_step:
            raise ValueError(f"minibatches ({self.minibatches}) is above prompts_per_step "
                             f"({self.prompts_per_step}); a minibatch would be empty")
        return self


class DPOConfig(Section):
    """Direct preference optimisation (Rafailov et al. 2023) and its family."""

    source: Literal["human", "policy"] = Field(
        "human", description="pairs of human texts, or of the SFT policy's texts, judged by the reward model"
    )
    pairs: Count | None = Field(
        None, description="training pairs, spread evenly; null = 960 of the reviews, all of a file"
    )
    min_gap: NonNegative = Field(1.5, description="human pairs: smallest gap of mean ratings, in points")
    candidates: TwoOrMore = Field(
        4, description="policy pairs: texts sampled for each prompt; the best and the worst become the pair"
    )
    max_new_tokens: Count = Field(16, description="policy pairs: length limit of a text, tokens")
    temperature: Positive = Field(1.0, description="policy pairs: sampling temperature")
    loss: Text = Field("sigmoid", description="sigmoid is DPO; also ipo, hinge, simpo, kto, ...")
    beta: Positive = Field(0.1, description="price of one nat of KL that the loss stands for (tau for ipo)")
    loss_options: dict[str, bool | Number | Text] = Field(
        default={}, description="further arguments of the loss by name, such as label_smoothing"
    )
    label_noise: BelowOne = Field(
        0.0, description="share of the training pairs whose answers are swapped, to study noise"
    )
    sft_coef: NonNegative = Field(0.0, description="weight of the chosen text's loss in nats per token")
    epochs: Count = Field(1, description="passes over the pairs")
    batch_size: PairsPerStep = 16
    accumulation: Accumulation = 1
    learning_rate: LearningRate = 5e-4
    warmup_steps: WarmupSteps = 5
    max_grad_norm: MaxGradNorm = 1.0
    weight_decay: WeightDecay = 0.0


class EvaluationConfig(Section):
    """How policies are compared, on prompts that were never trained on."""

    prompts: TwoOrMore = Field(200, description="held-out prompts")
    gold_texts: TwoOrMore = Field(600, description="rated texts to fit the gold judge on")
    max_new_tokens: CompletionTokens = 16
    temperature: Temperature = 1.0
    best_of_n: CountOrZero = Field(
        0, description="also judge the best of N samples of the SFT policy, as a control; 0 = do not"
    )
    samples_shown: CountOrZero = Field(8, description="prompts shown side by side in the report")

    @model_validator(mode="after")
    def _one_is_no_choice(self) -> EvaluationConfig:
        if self.best_of_n == 1:
            raise ValueError("best_of_n (1) is the policy itself; choose 0 for none, or 2 and more")
        return self


class CheckpointConfig(Section):
    """What is kept on disk."""

    every_steps: Count = Field(5, description="steps between checkpoints")
    keep: Count = Field(2, description="checkpoints kept per phase")
    save_merged: bool = Field(True, description="also write the PPO policy with the adapter merged in")


# The sizes of the book's own run.
_OF_REVIEWS = {"data": {"max_tokens": 40}, "reward": {"pairs": 960}, "dpo": {"pairs": 960}}


class PipelineConfig(Section):
    """All settings of a run: SFT, reward model, PPO or DPO, and evaluation."""

    seed: Seed = 0
    output: Place = Field("runs/quickstart", description="folder of the run")
    method: Literal["ppo", "dpo", "both"] = Field("ppo", description="how the policy learns from preferences")
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig = DataConfig()
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    dpo: DPOConfig = DPOConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _texts_can_differ_by_the_gap(self) -> PipelineConfig:
        gap = self.reward.eval_min_gap
        if self.data.source != "reviews" and gap >= 2:
            raise ValueError(f"reward.eval_min_gap ({gap:g}) must be below 2 for a preference file: it has "
                             "no ratings, its chosen texts count as +1 and the rejected ones as -1")
        return self

    @model_validator(mode="after")
    def _reviews_have_their_sizes(self) -> PipelineConfig:
        """What is null means the sizes of the book for its own data; for a file it stays null."""
        if self.data.source == "reviews":
            for name, sizes in _OF_REVIEWS.items():
                section = getattr(self, name)
                missing = {key: size for key, size in sizes.items() if getattr(section, key) is None}
                filled = section.model_copy(update=missing)
                # Nobody asked for these: on_file must not carry them over to other data.
                filled.model_fields_set.difference_update(missing)
                self.__dict__[name] = filled
        return self

    def on_file(self, source: str, *, model: str | None = None) -> PipelineConfig:
        """The same settings for a preference file: what nobody has set takes the file's defaults.

        Args:
            source: file, folder or Hub id.
            model: base model; None keeps the settings' own.
        """
        given = self.model_dump(exclude_unset=True)
        given["data"] = given.get("data", {}) | {"source": source}
        if model is not None:
            given["model"] = given.get("model", {}) | {"name": model}
        return type(self).model_validate(given)


def load_config(path: Path | str | None, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Build the settings: defaults < YAML file < ``key=value`` overrides.

    Args:
        path: YAML file, or None for the defaults.
        overrides: such as ``["seed=3", "ppo.clip=0.1", "model.name=null"]``; values are read
            as YAML, except that a text setting takes the text as it stands. The last one wins.

    Raises:
        ConfigError: lists every problem with its dotted key, the value received, what was
            expected and, for an unknown key, the nearest key that exists.
    """
    return reading.build(PipelineConfig, None if path is None else Path(path), overrides)


def budget() -> str:
    """How long the notebook may take: ``"fast"`` (the default) or ``"full"``, from ``RLHF_LITE_BUDGET``.

    Raises:
        ValueError: if the variable holds anything else.
    """
    value = os.environ.get("RLHF_LITE_BUDGET", "") or "fast"
    if value not in BUDGETS:
        raise ValueError(f"RLHF_LITE_BUDGET is {value!r}; use one of {', '.join(BUDGETS)}")
    return value
