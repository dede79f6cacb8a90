"""Load a language model, and score tokens with it: log-probabilities, entropies, and a critic's values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_lite.errors import PhaseError
from rlhf_lite.files import atomic_file
from rlhf_lite.functional import entropy, token_logps
from rlhf_lite.models.adapters import adapter_parameters, using_adapter
from rlhf_lite.models.names import loading, resolve_model
from rlhf_lite.models.output import causal_model, check_output, final_logits
from rlhf_lite.models.runtime import has_bfloat16, quiet_loading
from rlhf_lite.models.trunk import SplitBody, split_body
from rlhf_lite.models.weights import load_weights

Precision = Literal["auto", "fp32", "bf16"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
VALUE_FILE = "value_head.safetensors"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Policy(NamedTuple):
    """A causal language model, its tokenizer, and where both came from (a folder or a Hub id)."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str


def resolve_precision(precision: Precision) -> Literal["fp32", "bf16"]:
    """What ``auto`` means on this machine: bf16 where its processor computes in it, else fp32.

    It is decided by what the processor has, never by a race: same seed, same text, however busy the machine
    is. A run that may be resumed, perhaps elsewhere, stores this name and loads its models with it from then
    on.

    Raises:
        ValueError: if the name is unknown.
    """
    if precision == "auto":
        return "bf16" if has_bfloat16() else "fp32"
    if precision not in _DTYPES:
        raise ValueError(f"precision must be auto, fp32 or bf16, got {precision!r}")
    return precision


def pick_dtype(precision: Precision) -> torch.dtype:
    """The tensor type for frozen weights; see :func:`resolve_precision`."""
    return _DTYPES[resolve_precision(precision)]


def load_tokenizer(name: str, *, model: PreTrainedModel | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id, able to pad.

    Args:
        name: folder or Hub id.
        model: what it writes for. Tokens that this model has no row for are refused where a text holds one
            (``formatting.token_ids``): several published models have such tokens, for images say.

    Raises:
        PhaseError: if it does not load, has no end token, or one that the model does not have.
    """
    with loading(name, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.eos_token_id is None:
        raise PhaseError(f"the tokenizer of {name} has no end token, so that no text could end: name one of "
                         "its tokens as eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        # Padding is masked out everywhere, so any id will do.
        tokenizer.pad_token = tokenizer.eos_token
    if model is not None:
        tokenizer.model_rows = rows = model.get_input_embeddings().weight.shape[0]
        if tokenizer.pad_token_id >= rows:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.eos_token_id >= rows:
            raise PhaseError(f"the tokenizer of {name} does not fit the model: its end token has the id "
                             f"{tokenizer.eos_token_id}, and the model has {rows} tokens")
    return tokenizer


def load_policy(name_or_path: str | None = None, *, precision: Precision = "auto",
                device: torch.device | None = None) -> Policy:
    """Load a causal language model and its tokenizer.

    Args:
        name_or_path: None for the bundled SmolLM2-135M-Instruct (fetched once, then offline), a local
            Hugging Face folder, or a Hub id such as ``HuggingFaceTB/SmolLM2-135M-Instruct``.
        precision: see :func:`pick_dtype`.
        device: where it shall be, see ``runtime.compute_device``; None for the CPU.

    Returns:
        model (evaluation mode, no gradients), tokenizer, and the resolved name.

    Raises:
        AssetError: if the bundled model is wanted and cannot be fetched.
        PhaseError: if there is no such model, it does not load, its tokenizer does not fit, or it computes in
            a way that is not supported (``models.output``).
    """
    name = resolve_model(name_or_path)
    model = load_weights(AutoModelForCausalLM, name, dtype=pick_dtype(precision))
    with quiet_loading(), loading(name):
        model.to(device).eval().requires_grad_(False)
        check_output(model)
    ends = _listed_ends(model)
    if wrong := [end for end in ends if type(end) is not int or end < 0]:
        raise PhaseError(f"generation_config.json of {name} lists {wrong[0]!r} as eos_token_id: write the "
                         "token's id there, a number, or a list of ids")
    return Policy(model, load_tokenizer(name, model=model), name)


def tokenizer_of(policy: Policy, adapter: Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer that an adapter was trained with: its folder's own where it holds one, else the model's.

    Training may have given a base model a chat template, an end of turn, or other tokens.

    Raises:
        PhaseError: if it does not load or does not fit the model.
    """
    if adapter is None or not any((adapter / file).is_file() for file in _TOKENIZER_FILES):
        return policy.tokenizer
    return load_tokenizer(str(adapter), model=causal_model(policy.model))


def end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a text: the tokenizer's, and those that the model's generation settings name.

    A chat model often has two (end of turn, end of text), of which its tokenizer knows one; transformers'
    ``generate`` stops at all that ``generation_config.json`` lists.
    """
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return list(dict.fromkeys([*own, *_listed_ends(model)]))


def _listed_ends(model: nn.Module) -> list[int]:
    """The end tokens that a model's generation settings name."""
    listed = getattr(getattr(causal_model(model), "generation_config", None), "eos_token_id", None)
    return [end for end in (listed if isinstance(listed, list) else [listed]) if end is not None]


class ValueHead(nn.Module):
    """A linear critic, in float32, that starts at zero.

    Zero start: the first advantages are then the rewards themselves instead of noise (Huang et al. 2024, "The
    N implementation details of RLHF with PPO").

    Args:
        hidden_size: H.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., H]`` hidden states to ``[...]`` values."""
        return self.linear(hidden.float()).squeeze(-1)

    def save(self, folder: Path) -> None:
        """Write ``value_head.safetensors`` into ``folder``; a kill leaves the old file or the new."""
        with atomic_file(folder / VALUE_FILE) as temporary:
            save_file({name: tensor.detach() for name, tensor in self.state_dict().items()}, str(temporary))


def load_value_head(folder: Path, *, hidden_size: int) -> ValueHead:
    """The head that :meth:`ValueHead.save` wrote.

    Args:
        folder: holds ``value_head.safetensors``.
        hidden_size: H of the model that it shall sit on.

    Raises:
        FileNotFoundError: if the folder holds no value head.
        ValueError: if the file is damaged, holds other tensors, numbers that are not finite, or a head for
            another hidden size.
    """
    path = folder / VALUE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no value head: {VALUE_FILE} is missing")
    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): train the critic again") from error
    head = ValueHead(hidden_size)
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != expected:
        raise ValueError(f"{path} does not fit a model with hidden size {hidden_size}: it "
                         f"holds {shapes}, not {expected}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError(f"{path} holds numbers that are not finite: train the critic again")
    head.load_state_dict(tensors)
    return head


@dataclass(frozen=True)
class TokenScores:
    """What a policy says about a batch of tokens.

    Attributes:
        logps: ``[B, S]`` log-probability of each token in nats; 0 where it was not asked for.
        values: ``[B, S]`` value of the state before each token, or None.
        entropies: ``[B, S]`` entropy of the prediction in nats, or None.
    """

    logps: Tensor
    values: Tensor | None = None
    entropies: Tensor | None = None


class PolicyScorer(nn.Module):
    """Log-probabilities, values and entropies of given tokens under a policy.

    The vocabulary head is a fifth of this model: it runs only where a token's probability is asked for.

    Args:
        model: a causal model, with or without PEFT adapters.
        top_layers: how many layers may change (those with LoRA); None means all of them.
        value_head: a critic on the last hidden states, moved to where the model is; or None.
        values_from: the adapter whose hidden states the critic reads; None means the policy's own. An adapter
            of its own gives the critic a trunk that the policy's loss does not touch, and the reverse, for a
            second pass through the top layers. Its parameters become trainable. The frozen layers stay
            shared, so that it needs no second model.

    Raises:
        ValueError: if the model's body or output is not supported, ``values_from`` comes without a value
            head, or there is no such adapter.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, *, top_layers: int | None,
                 value_head: ValueHead | None = None, values_from: str | None = None) -> None:
        super().__init__()
        self.model = model
        check_output(model)
        self.value_head = None if value_head is None else value_head.to(model.device)
        self.values_from = values_from
        # The halves share their weights with self.model; registering them again would list them twice.
        self._shared = (split_body(causal_model(model).base_model, top_layers),)
        if values_from is not None:
            if value_head is None:
                raise ValueError(f"values_from={values_from!r} needs a value_head")
            for parameter in adapter_parameters(model, values_from):
                parameter.requires_grad_(True)

    @property
    def body(self) -> SplitBody:
        """The two halves of the transformer."""
        return self._shared[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where ids and masks must be."""
        return self.body.device

    def forward(self, hidden: Tensor, input_ids: Tensor, mask: Tensor, score_mask: Tensor, *,
                temperature: float = 1.0, with_entropy: bool = False) -> TokenScores:
        """Score the tokens under ``score_mask``.

        Args:
            hidden: ``[B, S, H]`` from ``self.body.trunk(input_ids, mask)``.
            input_ids: ``[B, S]``.
            mask: bool ``[B, S]``; True counts (False is padding, on either side).
            score_mask: bool ``[B, S]``; True where the token's log-probability is asked for. Column 0
                cannot be: nothing predicts the first token.
            temperature: divides the logits, as it did when the tokens were sampled.
            with_entropy: also return the entropy of each prediction.

        Raises:
            ValueError: if column 0 is asked for.
        """
        if bool(score_mask[:, 0].any()):
            raise ValueError("the first token of a row has no prediction: score_mask[:, 0] must be False")
        states = self.body.top(hidden, mask)  # (B, S, H)
        # The one-token shift: position t - 1 predicts token t. Boolean indexing copies into a contiguous
        # 2-D tensor; a sliced 3-D one makes the bfloat16 head many times slower.
        rows = states[:, :-1][score_mask[:, 1:]]  # (N, H)
        logits = final_logits(self.model, rows)  # (N, V)
        if temperature != 1.0:
            logits = logits / temperature

        values = None
        if self.value_head is not None:
            seen = rows
            if self.values_from is not None:  # the same positions, as the critic's own adapter sees them
                other = partial(using_adapter, self.model, self.values_from)
                seen = self.body.top(hidden, mask, context=other)[:, :-1][score_mask[:, 1:]]
            values = self.value_head(seen)

        def spread(flat: Tensor) -> Tensor:
            """(N,) -> (B, S) with zeros elsewhere."""
            full = torch.zeros(input_ids.shape, dtype=flat.dtype, device=flat.device)
            return full.masked_scatter(score_mask, flat)

        return TokenScores(logps=spread(token_logps(logits, input_ids[score_mask])),
                           values=None if values is None else spread(values),
                           entropies=spread(entropy(logits.detach())) if with_entropy else None)

    def score(self, input_ids: Tensor, mask: Tensor, score_mask: Tensor,
              **options: float | bool) -> TokenScores:
        """Trunk and :meth:`forward` in one call, for code that scores a batch only once."""
        return self(self.body.trunk(input_ids, mask), input_ids, mask, score_mask, **options)
