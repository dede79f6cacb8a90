"""Models small enough to test with: a few thousand random weights, large enough that every part matters."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCAB, HIDDEN, LAYERS = 64, 32, 4
# The default of 0.02 makes models this small ignore their input.
SPREAD = 0.3
END = "<end>"

_SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "initializer_range": SPREAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _built(kind: type[PreTrainedModel], config, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).eval().requires_grad_(False)


def llama(*, vocab: int = VOCAB, seed: int = 0, **changes) -> LlamaForCausalLM:
    config = LlamaConfig(**_SIZES | {"vocab_size": vocab, "tie_word_embeddings": True} | changes)
    return _built(LlamaForCausalLM, config, seed)


def qwen2(*, seed: int = 0, **changes) -> Qwen2ForCausalLM:
    return _built(Qwen2ForCausalLM, Qwen2Config(**_SIZES | {"vocab_size": VOCAB} | changes), seed)


def gpt2(*, seed: int = 0, **changes) -> GPT2LMHeadModel:
    sizes = {
        "vocab_size": VOCAB,
        "n_positions": 128,
        "n_embd": HIDDEN,
        "n_layer": 2,
        "n_head": 2,
        "initializer_range": SPREAD,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return _built(GPT2LMHeadModel, GPT2Config(**sizes | changes), seed)


# What each family needs besides the common sizes, chosen so that what is special about it matters.
_FAMILIES: dict[str, dict[str, object]] = {
    "cohere": {"logit_scale": 0.25},
    "falcon_h1": {"lm_head_multiplier": 0.5},  # state-space layers beside attention
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "final_logit_softcapping": 5.0, "sliding_window": 3},
    "gemma3_text": {"head_dim": 16, "sliding_window": 3, "sliding_window_pattern": 2},
    "gpt_neox": {"rotary_pct": 0.5},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "mamba": {},
    "rwkv": {},
    "hyperclovax": {"logits_scaling": 0.5, "embedding_multiplier": 3.0},
    "mistral": {"sliding_window": 3},
    "phi": {},
    "phi3": {},
    "qwen3": {"head_dim": 16},
    "recurrent_gemma": {},  # no plain list of attention layers
}


def family(kind: str, *, seed: int = 0, **changes) -> PreTrainedModel:
    """A tiny model of any family that transformers knows, for example ``gemma2``."""
    if kind in ("llama", "qwen2", "gpt2"):
        build = {"llama": llama, "qwen2": qwen2, "gpt2": gpt2}[kind]
        return build(seed=seed, **({"n_layer": LAYERS} if kind == "gpt2" else {}) | changes)
    sizes = _SIZES | {"vocab_size": VOCAB} | _FAMILIES[kind] | changes
    config = AutoConfig.for_model(kind, **sizes)
    return _built(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, seed)


def shake(model: PeftModel, name: str, *, seed: int = 0, scale: float = 0.2) -> None:
    """Give adapter ``name`` a B that is not zero, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in model.named_parameters():
        if "lora_B" in key and f".{name}." in key:
            parameter.data = torch.randn(parameter.shape, generator=generator) * scale


def token_rows(lengths: list[int], *, vocab: int = VOCAB, seed: int = 0) -> list[list[int]]:
    """Rows of random tokens, without the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocab, (n,), generator=generator).tolist() for n in lengths]


def naive_logps(model: torch.nn.Module, rows: list[list[int]], *, temperature: float = 1.0) -> list[Tensor]:
    """Log-probability of every token but the first, row by row, without padding, masks or position ids."""
    found = []
    for row in rows:
        ids = torch.tensor([row])
        logits = model(input_ids=ids).logits[0, :-1] / temperature
        found.append(logits.log_softmax(-1)[torch.arange(len(row) - 1), ids[0, 1:]])
    return found


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and an end token: 257 tokens. There is no pad token, as in many real models."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, bos_token=END)


def start_tokenizer(*, ending: str = "") -> PreTrainedTokenizerFast:
    """The byte tokenizer of a model that begins every text with ``<start>``; ``<turn>`` begins a turn."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<start>", "additional_special_tokens": ["<turn>"]})
    known = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<start>", END)]
    whole = processors.TemplateProcessing(single=f"<start> $A {ending}".strip(), special_tokens=known)
    tokenizer.backend_tokenizer.post_processor = whole
    return tokenizer


def save_base(folder: Path, *, kind: str = "llama", seed: int = 0,
              tokenizer: PreTrainedTokenizerFast | None = None, **changes) -> Path:
    """A Hugging Face folder with a tiny model and its byte tokenizer, or another one."""
    tokenizer = tokenizer or byte_tokenizer()
    end = tokenizer.eos_token_id
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    size = {"vocab": len(tokenizer)} if kind == "llama" else {"vocab_size": len(tokenizer)}
    family(kind, seed=seed, **size | ids | changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
