"""The length limit of a run that sets none: from its texts, within the model's window and the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from rlhf_lite.config import PipelineConfig
from rlhf_lite.data.formatting import token_ids
from rlhf_lite.models.output import window_of
from rlhf_lite.tracking import hardware
from rlhf_lite.types import Preference

# Bytes that one layer keeps for one token and one hidden unit until the backward pass, in 16 bit
# (Korthikanti et al. 2022, arXiv:2205.05198, equation 1, without the attention scores, which are not kept).
_PER_UNIT = 34
_FEWEST = 32  # tokens; less is no text
_LOOKED_AT = 2000  # pairs
_DEFAULT_GB = 8.0  # where the system does not tell


@dataclass(frozen=True)
class Limit:
    """Where a limit comes from, in tokens.

    Attributes:
        tokens: the limit.
        wanted: what 99 % of the texts need, prompt and longer answer.
        window: what the model can read; None if it does not say.
        memory: what a batch leaves room for in half of the memory.
    """

    tokens: int
    wanted: int
    window: int | None
    memory: int

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def __str__(self) -> str:
        window = "" if self.window is None else f", the model reads {self.window:,}"
        return (f"data.max_tokens={self.tokens} (99 % of the texts need at most {self.wanted:,} "
                f"tokens{window}, memory has room for {self.memory:,})")


def limit_from_texts(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Preference], model: PretrainedConfig,
                     config: PipelineConfig, *, precision: str) -> Limit:
    """The limit for some pairs: the 99th percentile of their lengths, if model and memory allow it.

    A forward pass for training holds, for each of its tokens, 34 x hidden size x adapted layers numbers of
    one byte in 16 bit (two in 32 bit), and for the tokens of answers, taken as half of all, logits over the
    vocabulary three times (logits, their softmax, its gradient; four bytes each). The largest pass of a run
    has two texts for each pair of a batch. It may take half of the memory; the rest is for weights and
    whatever else runs.
    """
    step = max(1, len(pairs) // _LOOKED_AT)
    some = pairs[::step]
    prompts = token_ids(tokenizer, [p.prompt for p in some])
    answers = [token_ids(tokenizer, texts, start=False)
               for texts in ([p.chosen for p in some], [p.rejected for p in some])]
    lengths = [len(prompt) + max(len(good), len(bad)) + 1  # the end token
               for prompt, good, bad in zip(prompts, *answers, strict=True)]
    wanted = int(np.ceil(np.percentile(lengths, 99)))
    text, window = model.get_text_config(), window_of(model)
    layers = config.lora.top_layers or text.num_hidden_layers
    width = 2 if precision == "bf16" else 4
    per_token = layers * _PER_UNIT * text.hidden_size * width / 2 + 0.5 * 3 * 4 * text.vocab_size
    sections = (config.reward, config.dpo)
    texts = 2 * max(-(-section.batch_size // section.accumulation) for section in sections)
    memory = max(_FEWEST, int(0.5 * _memory() / (texts * per_token)))
    return Limit(min(n for n in (wanted, window, memory) if n is not None), wanted, window, memory)


def _memory() -> float:
    """Bytes of the accelerator, or of the machine."""
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return 1e9 * (hardware()["memory_gb"] or _DEFAULT_GB)
