"""From the last hidden states to the logits, as the model itself would compute them.

Most models multiply by the vocabulary head and stop. Some scale the result (Cohere, Granite, Falcon-H1) or
cap it (Gemma 2 and later): leaving that out gives a different distribution over tokens, without any error.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from rlhf_lite.models.runtime import evaluating
from rlhf_lite.models.trunk import positions

# Families whose output the tests compare with the model's own. Any other is compared by check_output.
_TESTED = frozenset({"cohere", "gemma2", "gpt2", "granite", "llama", "mistral", "phi3", "qwen2", "qwen3"})


def output_rule(config: PretrainedConfig) -> tuple[float, float | None]:
    """Scale and cap of a family, from the fields that transformers' own forward passes read.

    The head's output becomes cap · tanh(scale · logits / cap), or scale · logits where the cap is None.
    """
    config = config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier", "logits_scaling"):  # Cohere, Falcon-H1, Granite
        if (factor := getattr(config, name, None)) is not None:
            # Granite divides by the field of this name, HyperCLOVA X multiplies by it.
            divides = name == "logits_scaling" and not config.model_type.startswith("hyperclovax")
            scale *= 1.0 / factor if divides else factor
    return scale, getattr(config, "final_logit_softcapping", None)  # Gemma 2 and later


def causal_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model under PEFT's wrapper, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def window_of(config: PretrainedConfig) -> int | None:
    """Most tokens that a model reads; None if it states no limit."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def _apply(config: PretrainedConfig, logits: Tensor) -> Tensor:
    scale, cap = output_rule(config)
    if scale != 1.0:
        logits = logits * scale
    return logits if cap is None else torch.tanh(logits / cap) * cap


def final_logits(model: PreTrainedModel | PeftModel, states: Tensor) -> Tensor:
    """Float32 logits ``[..., V]`` from the body's last hidden states ``[..., H]``.

    Give it a contiguous ``[N, H]``: on a slice of ``[B, S, H]`` a bfloat16 head is many times slower.
    """
    causal = causal_model(model)
    return _apply(causal.config, causal.get_output_embeddings()(states).float())


def check_output(model: PreTrainedModel | PeftModel) -> None:
    """Raise if the model does something between body and logits that :func:`final_logits` leaves out.

    Families that the tests cover are not tried again. Of any other, the forward pass runs on one token with
    its head's output replaced by a ramp from -60 to 60: what it returns shows what it does to logits. Then a
    few tokens are read as the sampling loop reads them.

    Raises:
        ValueError: if the model has no head, treats its input or output in a way not known here, or reads
            with a cache otherwise than without.
    """
    causal = causal_model(model)
    if causal.config.model_type in _TESTED:
        return
    head = causal.get_output_embeddings()
    name = type(causal).__name__
    if head is None:
        raise ValueError(f"{name} has no output embeddings, so it predicts no tokens: use a causal model")
    seen: list[Tensor] = []

    def ramp(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append(inputs[0])
        return torch.linspace(-60, 60, output.shape[-1], device=output.device).to(output).expand_as(output)

    ids = torch.zeros(1, 1, dtype=torch.long, device=causal.device)
    hook = head.register_forward_hook(ramp)
    try:
        with evaluating(causal):
            logits = causal(input_ids=ids, attention_mask=ids + 1, use_cache=False).logits.float()
            states = causal.base_model(input_ids=ids, attention_mask=ids + 1, use_cache=False)[0]
    finally:
        hook.remove()
    width = head.weight.shape[0]
    expected = _apply(causal.config, torch.linspace(-60, 60, width, device=logits.device))
    same = (
        logits.shape[-1] == width
        and torch.allclose(logits[0, -1], expected, rtol=0.02, atol=0.02)
        and len(seen) == 1
        and torch.allclose(seen[0].float(), states.float(), rtol=0.02, atol=0.02)
    )
    if not same:
        raise ValueError(f"{name} changes its hidden states or logits around the vocabulary head in a way "
                         "that is not supported: its log-probabilities would be wrong. Use another model")
    try:
        with evaluating(causal):
            decodes = _decodes(causal)
    except Exception as error:  # each family fails in a way of its own
        raise ValueError(f"{name} cannot be sampled with a key-value cache ({error}): use another "
                         "model") from error
    if not decodes:
        raise ValueError(f"{name} predicts otherwise when it reads token by token with a key-value cache: "
                         "its texts would not be its own. Use another model")


def _decodes(causal: PreTrainedModel) -> bool:
    """Whether a model that reads in two steps, behind padding, predicts what it predicts at once."""
    row = torch.arange(5, device=causal.device) % causal.get_output_embeddings().weight.shape[0]
    expected = torch.cat([causal(input_ids=row[None, i:]).logits[:, -1] for i in range(2)]).float()
    mask = torch.ones(2, 5, dtype=torch.long, device=row.device)
    cache, mask[1, 0] = DynamicCache(config=causal.config), 0
    options = {"past_key_values": cache, "use_cache": True}
    causal(input_ids=row[None, :4].expand(2, -1), attention_mask=mask[:, :4],
           position_ids=positions(mask[:, :4]), **options)
    cache.batch_repeat_interleave(2)  # as the sampling loop does, which then forgets rows
    cache.batch_select_indices(torch.tensor([0, 2], device=row.device))
    got = causal(input_ids=row[4:].expand(2, 1), attention_mask=mask, position_ids=positions(mask)[:, -1:],
                 **options).logits[:, -1].float()
    return bool((got - expected).abs().max() <= 0.05 * expected.abs().max())
